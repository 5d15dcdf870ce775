"""`Budget`: the limits of a search."""

from __future__ import annotations

from dataclasses import asdict, dataclass

# The simulated cost of a training step. The paper's training takes "about a minute" (Section 3.3) of 2,000 steps. With
# a constant, runs are comparable whatever machine they ran on and whatever their stores already held.
SIMULATED_SECONDS_PER_STEP = 0.03


@dataclass(frozen=True, slots=True)
class Budget:
    """The limits of a search; the first one reached ends it.

    Attributes:
        queries: Programs asked for, hits included.
        distinct: Programs new to this run by their keys, including those that the store already held.
        simulated_seconds: Training steps of those, times `SIMULATED_SECONDS_PER_STEP`.

    Raises:
        ValueError: If all are None, or one is not positive.
    """

    queries: int | None = None
    distinct: int | None = None
    simulated_seconds: float | None = None

    def __post_init__(self) -> None:
        limits = asdict(self)
        if all(limit is None for limit in limits.values()):
            raise ValueError("a budget needs at least one of queries, distinct, simulated_seconds")
        for name, limit in limits.items():
            kinds = (int, float) if name == "simulated_seconds" else int
            if limit is not None and (isinstance(limit, bool) or not isinstance(limit, kinds) or not limit > 0):
                kind = "number" if name == "simulated_seconds" else "integer"
                raise ValueError(f"budget: {name} must be a positive {kind}, got {limit!r}")

    def spent(self, queries: int, distinct: int, simulated_seconds: float) -> bool:
        """Returns True if these amounts reach one of the limits."""
        amounts = (queries, distinct, simulated_seconds)
        limits = (self.queries, self.distinct, self.simulated_seconds)
        return any(limit is not None and amount >= limit for amount, limit in zip(amounts, limits, strict=True))
