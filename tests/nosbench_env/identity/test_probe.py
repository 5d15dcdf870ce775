import hashlib
from typing import Any

import numpy as np
import pytest
import torch

from nosbench_env import KNOWN_PROGRAMS, ProgramOptimizer, fingerprint, make_task
from nosbench_env.identity.probe import ANY_PROBE, PFN_PROBE, STRESS, WRECKED, mild, probe_inputs
from nosbench_env.identity.probe_machine import LANES
from nosbench_env.tasks.toy import TOY_PROBE


def test_probe_inputs_and_fingerprints_are_the_same_on_every_processor() -> None:
    """A change of these digests needs a new version.

    Inputs are made by integer arithmetic. The fingerprint rounds away the processor's last bits.
    """
    digests = {}
    for probe in (PFN_PROBE, TOY_PROBE, ANY_PROBE):
        inputs = probe_inputs(probe)
        arrays = (inputs.gradients, inputs.times, inputs.resets, inputs.weights, inputs.blocks, inputs.coefficients)
        digest = hashlib.sha256(b"".join(array.astype("<f8").tobytes() for array in arrays)).hexdigest()
        digests[probe.name] = digest[:16], str(fingerprint(KNOWN_PROGRAMS["AdamW"], probe=probe)).rpartition(":")[2]
    assert digests == {
        "pfn-1": ("5328be2f09b3f0a8", "ccb7c72fac583043e7287b46196e12e0"),
        "toy-1": ("46affe56f6b5b02f", "15d614b52da7c5462155c4f7a5dd92a7"),
        "any-1": ("f5a92f909d547f8f", "0274ecca08dd3228a2330c09bc9a017c"),
    }


@pytest.mark.parametrize(("name", "steps"), [("pfn", 8), ("toy", 8)])
def test_a_tasks_probe_looks_like_its_tensors(name: str, steps: int) -> None:
    """The task has tensors of such sizes, weights and gradients."""
    task = make_task(name, "cpu")
    params: list[torch.Tensor] = []
    grads: list[list[torch.Tensor]] = []

    class Enough(Exception):
        pass

    class Recorder(ProgramOptimizer):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            grads.append([param.grad.clone() for param in params])
            if len(grads) == steps:
                raise Enough
            super().step(closure)

    def make(given: Any) -> Recorder:
        params.extend(given)
        starts.extend(param.detach().clone() for param in params)
        return Recorder(params, KNOWN_PROGRAMS["AdamW"])

    starts: list[torch.Tensor] = []
    with pytest.raises(Enough):
        task.train(make, epochs=1)
    inputs = probe_inputs(task.probe)
    for index, tensor in enumerate(task.probe.tensors):
        low, high = tensor.weights
        alike = [
            number
            for number, start in enumerate(starts)
            if start.numel() == tensor.numel
            and (start.min() >= low - 0.01 and start.max() <= high + 0.01)
            and (start.max() - start.min()) >= 0.3 * (high - low)
        ]
        assert alike, tensor
        zero = {number: {step for step in range(1, steps + 1) if not grads[step - 1][number].any()} for number in alike}
        assert any(steps_of == set(tensor.zero_gradients) for steps_of in zero.values()), (tensor, zero)
        ours = np.abs(inputs.gradients.reshape(len(inputs.times), -1, LANES)[: task.probe.certain_steps, index]).max()
        largest = max(float(grads[step][number].abs().max()) for step in range(steps) for number in alike)
        assert 0.02 * largest <= ours <= 4 * largest, (tensor, ours, largest)


def test_extreme_inputs_are_of_all_magnitudes_and_undefined_once() -> None:
    gradients = np.abs(probe_inputs(PFN_PROBE).gradients)
    stress = gradients[STRESS]
    assert stress[stress > 0].min() < 1e-6 < 0.1 < stress.max()
    assert [bool(np.isnan(step).any()) for step in gradients[WRECKED]] == [False, False, True, False]
    assert np.isfinite(np.delete(gradients, range(WRECKED.start, WRECKED.stop), axis=0)).all()


def test_mild_inputs_have_smaller_gradients_of_the_other_sign_and_smaller_weights() -> None:
    inputs = probe_inputs(PFN_PROBE)
    milder = mild(PFN_PROBE, inputs)
    np.testing.assert_array_equal(milder.gradients, -inputs.gradients / 8)
    for index, tensor in enumerate(PFN_PROBE.tensors):
        start, less = (array.weights[0].reshape(-1, LANES)[index] for array in (inputs, milder))
        equal = tensor.weights[0] == tensor.weights[1]
        assert (np.abs(less) == np.abs(start)).all() if equal else (np.abs(less) < np.abs(start)).all()
