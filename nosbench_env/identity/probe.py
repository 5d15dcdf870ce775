"""Probes: a few numbers that describe a task's tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from nosbench_env.identity.probe_machine import LANES, Inputs

# The steps of a probe, in order.
TRAINING = slice(0, 100)  # steps 1, 2, ..., with typical gradients
STRESS = slice(100, 104)  # weights and gradients of all magnitudes
WRECKED = slice(104, 108)  # a training that has blown up: gradients are large, nearly 0, NaN, and large
LATE = slice(108, 110)  # steps with these numbers:
_LATE_TIMES = (1000, 2000)
_STEPS = LATE.stop
# The last step of each block; updates are summed within blocks.
_BLOCK_ENDS = (1, 3, 6, 20, TRAINING.stop, STRESS.stop, WRECKED.stop, _STEPS)
EARLY_BLOCKS = 4  # the first 20 steps; a training that blows up does so within them


@dataclass(frozen=True, slots=True)
class ProbeTensor:
    """A parameter tensor of a task, represented by eight elements.

    Attributes:
        numel: Number of elements.
        weights: The range of the elements before the first step; two equal numbers if all are equal.
        gradient: The greatest magnitude of elements of the clipped gradient; most are up to 30 times smaller.
        zero_gradients: The steps, counted from 1, at which the gradient is exactly 0.
        zero_element: True if the gradient of one element is 0 at all steps.
    """

    numel: int
    weights: tuple[float, float]
    gradient: float
    zero_gradients: tuple[int, ...] = ()
    zero_element: bool = False


@dataclass(frozen=True, slots=True)
class Probe:
    """A task's tensors at the beginning of training.

    Attributes:
        name: The name with a version, as it stands in fingerprints.
        tensors: A representative choice of the task's tensors.
        steps_per_epoch: The task's. A program whose parameters are not finite after fewer updates has no finite loss
            at any length of training.
        certain_steps: Number of steps in which gradients are like the task's for any program. A program counts as
            diverged if it diverges within so many steps (within an epoch if it reads no gradient), and also with
            smaller weights and with smaller gradients of the other sign.
    """

    name: str
    tensors: tuple[ProbeTensor, ...]
    steps_per_epoch: int
    certain_steps: int

    def certain_until(self, reads_gradient: bool) -> int:
        """Returns the last step at which divergence counts as certain."""
        return self.certain_steps if reads_gradient else self.steps_per_epoch - 1


# Measured on the PFN. The zeros of step 1 come from sublayers that start as 0; at step 7 there is no context point.
PFN_PROBE = Probe(
    name="pfn-1",
    tensors=(
        ProbeTensor(256, (-1.0, 1.0), 2**-9),  # x_encoder.weight
        ProbeTensor(196_608, (-0.076, 0.076), 2**-12, zero_gradients=(1, 7)),  # self_attn.in_proj_weight
        ProbeTensor(768, (0.0, 0.0), 2**-13, zero_gradients=(1, 7), zero_element=True),  # self_attn.in_proj_bias
        ProbeTensor(65_536, (0.0, 0.0), 2**-7, zero_gradients=(7,)),  # self_attn.out_proj.weight
        ProbeTensor(256, (1.0, 1.0), 2**-8),  # norm1.weight
        ProbeTensor(100, (-0.044, 0.044), 2**-4),  # decoder.2.bias
    ),
    steps_per_epoch=100,
    certain_steps=6,
)


# For tasks without a probe of their own: all kinds of tensors, and no program counts as diverged.
ANY_PROBE = Probe(
    name="any-1",
    tensors=(
        ProbeTensor(1, (-1.0, 1.0), 0.25),
        ProbeTensor(3, (-0.25, 0.25), 2**-5, zero_element=True),
        ProbeTensor(256, (0.0, 0.0), 2**-7),
        ProbeTensor(256, (1.0, 1.0), 2**-8),
        ProbeTensor(65_536, (-0.06, 0.06), 2**-11, zero_gradients=(1,)),
        ProbeTensor(4_096, (-2.0, 2.0), 0.5),
    ),
    steps_per_epoch=1,  # no program counts as diverged
    certain_steps=0,
)


@cache
def probe_inputs(probe: Probe) -> Inputs:
    """Returns a probe's inputs: exact numbers, equal on every processor."""
    times = np.array([*range(1, LATE.start + 1), *_LATE_TIMES], dtype=np.float64)
    tensors = len(probe.tensors)
    gradients = np.zeros((_STEPS, tensors, LANES))
    weights = np.zeros((1 + _STEPS - STRESS.start, tensors, LANES))
    for index, tensor in enumerate(probe.tensors):

        def draw(name: str, rows: int = _STEPS, index: int = index) -> NDArray[np.float64]:
            return _uniform(name, index, (rows, LANES))

        sign = np.where(draw("sign") < 0.5, -1.0, 1.0)
        value = sign * (0.5 + draw("magnitude") / 2) * 2.0 ** -np.floor(draw("scale") * 5)
        gradients[:, index] = value * tensor.gradient
        # Of any size that clipping allows, down to negligible ones.
        stress = value * 2.0 ** -np.floor(draw("stress") * 24)
        gradients[STRESS.start :, index] = stress[STRESS.start :]
        large, vanished, undefined, after = range(WRECKED.start, WRECKED.stop)
        gradients[large, index], gradients[after, index] = value[large], value[after]
        gradients[vanished, index] = (sign * np.floor(draw("nearly zero") * 8))[vanished] * 2.0**-149
        gradients[undefined, index, ::2] = math.nan
        gradients[[step - 1 for step in tensor.zero_gradients], index] = 0.0
        if tensor.zero_element:
            gradients[:, index, 0] = 0.0

        low, high = tensor.weights
        weights[0, index] = low + (high - low) * draw("weight", 1)
        size = 2.0 ** -np.floor(draw("stress weight", len(weights) - 1) * 24)
        weights[1:, index] = (draw("stress weight sign", len(weights) - 1) * 2 - 1) * size
        weights[1:, index, 0], weights[1:, index, 1] = 0.0, 1.0
        if tensor.numel == 1:
            gradients[:, index], weights[:, index] = gradients[:, index, 2:3], weights[:, index, 2:3]
    resets = np.full(_STEPS, -1)
    resets[0] = 0
    resets[STRESS.start :] = np.arange(1, len(weights))

    coefficients = np.stack([_uniform("coefficient", index, (_STEPS, LANES)) for index in range(tensors)], axis=1)
    sizes = np.array([tensor.numel for tensor in probe.tensors])
    return Inputs(
        gradients=_float32(gradients).reshape(_STEPS, -1),
        times=times,
        resets=resets,
        weights=_float32(weights).reshape(len(weights), -1),
        blocks=np.searchsorted(_BLOCK_ENDS, np.arange(1, _STEPS + 1)),
        coefficients=(0.5 + coefficients).reshape(_STEPS, -1),
        norm_factors=np.sqrt(sizes / LANES),
        std_factors=np.where(sizes > 1, 1.0, math.nan),
    )


def mild(probe: Probe, inputs: Inputs) -> Inputs:
    """Returns inputs with milder weights and gradients.

    Gradients are an eighth as large and of the other sign. Weights are 7/8 as large, except in tensors whose weights
    are all equal. If a program diverges on both inputs, the cause is not the particular size of the probe's numbers.
    """
    drawn = np.repeat([low < high for low, high in (tensor.weights for tensor in probe.tensors)], LANES)
    weights = np.where(drawn, inputs.weights * 0.875, inputs.weights)
    return replace(inputs, gradients=inputs.gradients * -0.125, weights=_float32(weights))


def _uniform(name: str, index: int, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Draws from 0 to 1: multiples of 2**-24 by integer arithmetic (splitmix64)."""
    seed = sum(ord(letter) * 131**place for place, letter in enumerate(name)) + 1_000_003 * index
    count = int(np.prod(shape))
    with np.errstate(over="ignore"):
        state = np.uint64(seed % 2**63) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return ((state >> np.uint64(40)).astype(np.float64) / 2**24).reshape(shape)


def _float32(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rounds to float32, so that both precisions start equal."""
    return np.ascontiguousarray(values.astype(np.float32).astype(np.float64))
