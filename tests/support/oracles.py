"""Oracles that train nothing, for tests of their callers."""

import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nosbench_env import Evaluation, Program, canonical_form


class MadeUpOracle:
    """An oracle whose losses are hashes of the program's text; some are NaN or infinite.

    Attributes:
        calls: The programs of each call.
        failing: The exception to raise instead, if not None.
    """

    def __init__(self) -> None:
        self.calls: list[list[Program]] = []
        self.failing: BaseException | None = None

    def query(self, program: Program, *arguments: Any, **options: Any) -> Evaluation:
        return self.query_many([program], *arguments, **options)[0]

    def query_many(
        self, programs: Sequence[Program], epochs: int | None = None, seed: int = 0, *, last_epoch_only: bool = False
    ) -> list[Evaluation]:
        if self.failing is not None:
            raise self.failing
        self.calls.append(list(programs))
        return [self._evaluation(program, epochs or 20, seed) for program in programs]

    def _evaluation(self, program: Program, epochs: int, seed: int) -> Evaluation:
        number = zlib.crc32(f"{program} {epochs} {seed}".encode())
        loss = {0: math.nan, 1: math.inf, 2: 1000.0}.get(number % 7, number % 1000 / 100 - 5)
        status = "ok" if math.isfinite(loss) else "nan" if math.isnan(loss) else "inf"
        return Evaluation(program, "toy", epochs, seed, loss, status, (loss,), str(number), False, "trained")

    def __deepcopy__(self, memo: object) -> "MadeUpOracle":
        return self


class InstantOracle(MadeUpOracle):
    """An oracle whose losses a function computes; NaN and infinity are failures.

    Programs of one canonical form have one key.
    """

    def __init__(self, loss: Callable[[Program], float]) -> None:
        super().__init__()
        self.loss = loss

    @property
    def asked(self) -> list[Program]:
        """All programs asked about, in order."""
        return [program for call in self.calls for program in call]

    def _evaluation(self, program: Program, epochs: int, seed: int) -> Evaluation:
        loss = self.loss(program)
        status = "ok" if math.isfinite(loss) else "nan" if math.isnan(loss) else "inf"
        key = canonical_form(program).digest
        return Evaluation(program, "toy", epochs, seed, loss, status, (loss,), key, True, "store")


def random_loss(program: Program) -> float:
    """Returns a loss that depends on the program alone, equal in every process."""
    return float(np.random.default_rng(list(str(program).encode())).normal(1.0, 1.0))
