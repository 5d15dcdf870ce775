import math
from pathlib import Path

import pytest

from nosbench_env import Program
from nosbench_env.candidates.tuned_program import ConstantUse
from nosbench_env.postprocessing import Ablation, Change, Replacement, Sweep
from nosbench_env.postprocessing.ablation import Ablated, InstructionEffect
from nosbench_env.postprocessing.pictures import draw_ablation, draw_sweeps

pytest.importorskip("matplotlib")
PROGRAM = Program.parse("r9 = sign(grad); r10 = mul(r9, 0.01)")


@pytest.mark.parametrize("differences", [(0.0, 0.0), (math.inf, 0.1), (-3.0, -2.0), (1e9, 1e-9), (0.2,)])
def test_changes_of_every_kind_can_be_drawn(tmp_path: Path, differences: tuple[float, ...]) -> None:
    effects = []
    for line, instruction in enumerate(PROGRAM, start=1):
        variant = Ablated(Replacement(line, instruction, None, Program()), (), Change(differences))
        effects.append(InstructionEffect(line, instruction, (variant,)))
    draw_ablation(Ablation(PROGRAM, (0.5, 0.5), tuple(effects)), tmp_path / "ablation.png", "title")
    assert (tmp_path / "ablation.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("worse", [(math.nan, math.nan), (math.inf, 0.1), (1e30, 2.0), (0.5, 0.5)])
def test_losses_of_every_kind_can_be_drawn(tmp_path: Path, worse: tuple[float, float]) -> None:
    sweep = Sweep(ConstantUse(2, 2), 0.01, (0.1, 1.0, 10.0), (worse, (0.5, 0.5), worse))
    draw_sweeps(PROGRAM, [sweep] * 4, tmp_path / "four.png", "title")
    draw_sweeps(PROGRAM, [Sweep(None, 1.0, (1.0,), ((0.5, 0.6),))], tmp_path / "one.png", "title")
    for name in ("four", "one"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
