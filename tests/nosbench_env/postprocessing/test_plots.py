import math

import pytest

from nosbench_env import Program
from nosbench_env.candidates.tuned_program import ConstantUse
from nosbench_env.plotting import png
from nosbench_env.postprocessing import Ablation, Change, Replacement, Sweep
from nosbench_env.postprocessing.ablation import Ablated, InstructionEffect
from nosbench_env.postprocessing.plots import plot_ablation, plot_sweeps

pytest.importorskip("matplotlib")
PROGRAM = Program.parse("r9 = sign(grad); r10 = mul(r9, 0.01)")


@pytest.mark.parametrize("differences", [(0.0, 0.0), (math.inf, 0.1), (-3.0, -2.0), (1e9, 1e-9), (0.2,)])
def test_changes_of_every_kind_can_be_plotted(differences: tuple[float, ...]) -> None:
    effects = []
    for line, instruction in enumerate(PROGRAM, start=1):
        variant = Ablated(Replacement(line, instruction, None, Program()), (), Change(differences))
        effects.append(InstructionEffect(line, instruction, (variant,)))
    assert png(plot_ablation(Ablation(PROGRAM, (0.5, 0.5), tuple(effects)), "title $_{")).startswith(b"\x89PNG")


@pytest.mark.parametrize("worse", [(math.nan, math.nan), (math.inf, 0.1), (1e30, 2.0), (0.5, 0.5)])
def test_losses_of_every_kind_can_be_plotted(worse: tuple[float, float]) -> None:
    sweep = Sweep(ConstantUse(2, 2), 0.01, (0.1, 1.0, 10.0), (worse, (0.5, 0.5), worse))
    for sweeps in ([sweep] * 4, [Sweep(None, 1.0, (1.0,), ((0.5, 0.6),))]):
        assert png(plot_sweeps(PROGRAM, sweeps, "title")).startswith(b"\x89PNG")
