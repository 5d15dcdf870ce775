import copy
import io
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nosbench_env import KNOWN_PROGRAMS, Program, ProgramOptimizer

ADAMW, SGD = KNOWN_PROGRAMS["AdamW"], Program.parse("r9 = mul(grad, 0.01)")
STATEFUL = [KNOWN_PROGRAMS[name] for name in ("AdamW", "Adadelta", "HeroLion", "Incumbent")]
# Carries scalars too: a running sum of norms, and the gradient's size.
SCALARS = Program.parse("r10 = norm(grad); r9 = add(r9, r10); r11 = size(grad); r12 = div(grad, r9)")


def trajectory(conformance: dict[str, Any], program: Program, dtype: torch.dtype) -> list[list[torch.Tensor]]:
    """Runs 5 steps with the gradients of the conformance data."""
    params = [
        nn.Parameter(torch.tensor(values, dtype=torch.float32).reshape(shape).to(dtype))
        for values, shape in zip(conformance["initial"], conformance["shapes"], strict=True)
    ]
    optimizer = ProgramOptimizer(params, program)
    steps = []
    for step in range(5):
        for k, param in enumerate(params):
            wave = torch.cos(torch.arange(param.numel(), dtype=dtype) + step).reshape(param.shape)
            param.grad = 0.5 * param.detach() + 0.1 * (k + 1) * wave
        optimizer.step()
        steps.append([param.detach().clone() for param in params])
    return steps


def test_every_trajectory_is_the_papers_codes(conformance: dict[str, Any]) -> None:
    """Values agree within a relative 1e-5.

    An absolute difference of 1e-7, an ulp of 1, is allowed too. NaN and inf must be in the same places.

    The data were computed on another processor, whose vector instructions round the last bit differently. A program may
    amplify that, as does the tangent near a pole. The distance between its float32 and float64 trajectories measures by
    how much, and a handful of programs may use that allowance.
    """
    assert len(conformance["rows"]) > 300
    wrong, amplified = [], []
    for row in conformance["rows"]:
        program = Program.from_json(row["program"])
        ours = trajectory(conformance, program, torch.float32)
        exact: list[list[torch.Tensor]] | None = None
        for step, expected_step in enumerate(row["trajectory"]):
            for k, values in enumerate(expected_step):
                expected = torch.tensor([float(value) for value in values]).reshape(ours[step][k].shape)
                own = ours[step][k]
                finite = expected.isfinite()
                same_places = torch.equal(finite, own.isfinite()) and torch.equal(
                    expected[~finite].nan_to_num(nan=7.0), own[~finite].nan_to_num(nan=7.0)
                )
                error = (own - expected)[finite].abs()
                if same_places and (error <= 1e-5 * expected[finite].abs() + 1e-7).all():
                    continue
                exact = exact or trajectory(conformance, program, torch.float64)
                allowance = 4 * (own.double() - exact[step][k])[finite].abs()
                (amplified if same_places and (error <= allowance).all() else wrong).append(row["name"])
    assert not wrong
    assert len(set(amplified)) <= 3, amplified


def test_step_counts_from_1_and_unset_slots_read_0() -> None:
    param = nn.Parameter(torch.zeros(2))
    optimizer = ProgramOptimizer([param], Program.parse("r9 = add(step, r200)"))
    for expected in (-1.0, -3.0, -6.0):
        param.grad = torch.zeros(2)
        optimizer.step()
        assert param.tolist() == [expected, expected]


def test_update_is_the_last_instructions_value_wherever_it_writes() -> None:
    param = nn.Parameter(torch.tensor([1.0]))
    param.grad = torch.tensor([2.0])
    ProgramOptimizer([param], Program.parse("r9 = add(grad, 1.0); r20 = mul(r9, 0.5); r9 = mul(r20, 1.0)")).step()
    assert param.item() == 1.0 - 1.5


def test_empty_program_updates_nothing() -> None:
    param = nn.Parameter(torch.tensor([1.0, -0.0]))
    param.grad = torch.ones(2)
    ProgramOptimizer([param], Program()).step()
    assert param.tolist() == [1.0, 0.0]


def test_memory_belongs_to_each_tensor() -> None:
    params = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(3))]
    optimizer = ProgramOptimizer(params, Program.parse("r9 = add(r9, grad)"))
    params[0].grad = torch.ones(1)
    optimizer.step()
    params[0].grad, params[1].grad = None, torch.full((3,), 2.0)
    optimizer.step()
    assert params[0].item() == -1.0
    assert params[1].tolist() == [-2.0] * 3
    assert optimizer.state[params[0]]["step"] == optimizer.state[params[1]]["step"] == 1


def test_parameters_without_gradient_are_skipped() -> None:
    params = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))]
    params[0].grad = torch.ones(2)
    optimizer = ProgramOptimizer(params, ADAMW)
    optimizer.step()
    assert params[1].tolist() == [1.0, 1.0]
    assert params[1] not in optimizer.state


def test_lr_multiplies_the_update_per_group() -> None:
    params = [nn.Parameter(torch.zeros(1)) for _ in range(3)]
    optimizer = ProgramOptimizer([{"params": params[:1]}, {"params": params[1:2], "lr": 10}], SGD, lr=0.5)
    optimizer.add_param_group({"params": params[2:], "lr": 0.0})
    for param in params:
        param.grad = torch.ones(1)
    optimizer.step()
    torch.testing.assert_close(torch.cat(params).detach(), torch.tensor([-0.005, -0.1, 0.0]))


def test_lr_may_be_a_numpy_float() -> None:
    param = nn.Parameter(torch.zeros(1))
    optimizer = ProgramOptimizer([param], SGD, lr=np.float32(0.5))
    param.grad = torch.ones(1)
    optimizer.step()
    assert type(optimizer.param_groups[0]["lr"]) is float
    torch.testing.assert_close(param.detach(), torch.tensor([-0.005]))


def test_lr_schedulers_work() -> None:
    param = nn.Parameter(torch.zeros(1))
    optimizer = ProgramOptimizer([param], SGD)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)
    for _ in range(2):
        param.grad = torch.ones(1)
        optimizer.step()
        scheduler.step()
    torch.testing.assert_close(param.detach(), torch.tensor([-0.011]))


def test_closure_is_run_with_gradients_and_its_loss_returned() -> None:
    param = nn.Parameter(torch.tensor([2.0]))
    optimizer = ProgramOptimizer([param], SGD)

    def closure() -> float:
        optimizer.zero_grad()
        loss = (param**2).sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 4.0
    assert param.item() == pytest.approx(2.0 - 0.04)


class Training:
    """A small training that another optimizer object can continue."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(16, 3, generator=generator).to(dtype)
        self.model = nn.Linear(3, 2).to(dtype)
        for param in self.model.parameters():
            param.data = torch.randn(param.shape, generator=generator).to(dtype)

    def run(self, optimizer: torch.optim.Optimizer, steps: int) -> list[torch.Tensor]:
        for _ in range(steps):
            optimizer.zero_grad()
            (self.model(self.x) ** 2).mean().backward()
            optimizer.step()
        return [param.detach().clone() for param in self.model.parameters()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("program", [*STATEFUL, SCALARS], ids=["AdamW", "Adadelta", "HeroLion", "Incumbent", "scalars"])
def test_state_dict_continues_to_the_last_bit(program: Program, dtype: torch.dtype) -> None:
    whole, parts = Training(dtype), Training(dtype)
    expected = whole.run(ProgramOptimizer(whole.model.parameters(), program), 8)

    first = ProgramOptimizer(parts.model.parameters(), program)
    parts.run(first, 5)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = ProgramOptimizer(parts.model.parameters(), program)
    second.load_state_dict(torch.load(file, weights_only=True))
    continued = parts.run(second, 3)
    assert all(torch.equal(a, b) for a, b in zip(expected, continued, strict=True))


def test_loading_leaves_the_state_dict_alone() -> None:
    training = Training()
    optimizer = ProgramOptimizer(training.model.parameters(), ADAMW)
    training.run(optimizer, 2)
    saved = copy.deepcopy(optimizer.state_dict())
    loaded = copy.deepcopy(saved)
    fresh = ProgramOptimizer(training.model.parameters(), ADAMW)
    fresh.load_state_dict(loaded)
    training.run(fresh, 2)
    assert loaded["state"][0]["step"] == saved["state"][0]["step"] == 2
    for slot, value in saved["state"][0]["memory"].items():
        assert torch.equal(loaded["state"][0]["memory"][slot], value)


def test_state_of_another_program_is_refused() -> None:
    params = [nn.Parameter(torch.ones(2))]
    with pytest.raises(ValueError, match=r"ProgramOptimizer.*'program'"):
        ProgramOptimizer(params, SGD).load_state_dict(torch.optim.SGD(params).state_dict())
    state = ProgramOptimizer(params, ADAMW).state_dict()
    with pytest.raises(ValueError, match="another program"):
        ProgramOptimizer(params, SGD).load_state_dict(state)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_copies_continue_on_their_own(copied: Any) -> None:
    training = Training()
    optimizer = ProgramOptimizer(training.model.parameters(), ADAMW, lr=2.0)
    training.run(optimizer, 3)
    model, twin = copied((training.model, optimizer))
    assert twin.program == ADAMW
    assert twin.param_groups[0]["lr"] == 2.0
    other = Training()
    other.model = model
    before = [param.detach().clone() for param in model.parameters()]
    expected = training.run(optimizer, 2)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(expected, other.run(twin, 2), strict=True))


def test_repr_shows_program_and_groups() -> None:
    text = repr(ProgramOptimizer([nn.Parameter(torch.ones(1))], SGD, lr=0.25))
    assert text.startswith("ProgramOptimizer(Program.parse('r9 = mul(grad, 0.01)')")
    assert "lr: 0.25" in text


def test_non_contiguous_parameters_train_as_contiguous_ones() -> None:
    values = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    params = [nn.Parameter(values.clone().t()), nn.Parameter(values.t().contiguous())]
    for param in params:
        optimizer = ProgramOptimizer([param], ADAMW)
        for _ in range(3):
            param.grad = torch.sin(param.detach())
            optimizer.step()
    assert not params[0].is_contiguous()
    # Layouts take other kernels of torch, which round the last bit of a sine or a root differently.
    torch.testing.assert_close(params[0], params[1], rtol=1e-6, atol=1e-7)


def test_0d_parameters_train() -> None:
    param = nn.Parameter(torch.tensor(1.0))
    param.grad = torch.tensor(1.0)
    ProgramOptimizer([param], SGD).step()
    assert param.item() == pytest.approx(0.99)


@pytest.mark.parametrize("lr", [-0.1, math.nan, math.inf, "1", None, True])
def test_bad_lr_is_refused(lr: Any) -> None:
    with pytest.raises(ValueError, match=f"lr must be .*>= 0, got {lr!r}"):
        ProgramOptimizer([nn.Parameter(torch.ones(1))], SGD, lr=lr)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="Program, got list"):
        ProgramOptimizer([nn.Parameter(torch.ones(1))], [["mul", [1, 6], 9]])
    with pytest.raises(ValueError, match=r"floating point, got torch\.complex64"):
        ProgramOptimizer([nn.Parameter(torch.ones(1, dtype=torch.complex64))], SGD)
    with pytest.raises(ValueError, match="empty parameter list"):
        ProgramOptimizer([], SGD)
    param = nn.Parameter(torch.ones(2))
    param.grad = torch.ones(2).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        ProgramOptimizer([param], SGD).step()


def test_a_refused_group_is_not_added() -> None:
    optimizer = ProgramOptimizer([nn.Parameter(torch.ones(1))], SGD)
    with pytest.raises(ValueError, match=r"lr .* got -1"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "lr": -1})
    assert len(optimizer.param_groups) == 1


@pytest.mark.gpu
def test_state_follows_its_parameters_to_another_device() -> None:
    stayed, moved = Training(), Training()
    expected = stayed.run(ProgramOptimizer(stayed.model.parameters(), ADAMW), 6)
    optimizer = ProgramOptimizer(moved.model.parameters(), ADAMW)
    moved.run(optimizer, 3)
    moved.model.cuda()
    moved.x = moved.x.cuda()
    continued = moved.run(optimizer, 3)
    for a, b in zip(expected, continued, strict=True):
        torch.testing.assert_close(a, b.cpu(), rtol=1e-5, atol=1e-6)


def test_state_follows_its_parameters_to_another_precision_by_load() -> None:
    training = Training()
    optimizer = ProgramOptimizer(training.model.parameters(), ADAMW)
    training.run(optimizer, 2)
    double = Training(torch.float64)
    loaded = ProgramOptimizer(double.model.parameters(), ADAMW)
    loaded.load_state_dict(optimizer.state_dict())
    assert all(param.isfinite().all() for param in double.run(loaded, 2))


def random_grads(params: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator)


def make_params() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(3, 40), (7,), ()]]


@pytest.mark.parametrize("program", [*STATEFUL, SCALARS], ids=lambda program: str(len(program)))
@pytest.mark.parametrize("lr", [1.0, 0.3])
def test_fused_steps_are_the_plain_ones(program: Program, lr: float) -> None:
    plain, fused = make_params(), make_params()
    optimizers = [ProgramOptimizer(plain, program, lr), ProgramOptimizer(fused, program, lr, fused=True)]
    for step in range(6):
        for params, optimizer in zip((plain, fused), optimizers, strict=True):
            random_grads(params, step)
            if step == 3:
                params[1].grad = None  # a parameter without a gradient falls a step behind
            optimizer.step()
    for expected, param in zip(plain, fused, strict=True):
        torch.testing.assert_close(param, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("program", [*STATEFUL, SCALARS], ids=lambda program: str(len(program)))
@pytest.mark.parametrize("fused", [False, True])
def test_fused_and_plain_optimizers_continue_each_others_states(program: Program, fused: bool) -> None:
    whole, parts = make_params(), make_params()
    optimizer = ProgramOptimizer(whole, program)
    first = ProgramOptimizer(parts, program, fused=fused)
    second = ProgramOptimizer(parts, program, fused=not fused)
    for step in range(5):
        random_grads(whole, step)
        optimizer.step()
        random_grads(parts, step)
        if step == 3:
            second.load_state_dict(copy.deepcopy(first.state_dict()))
        (first if step < 3 else second).step()
    for expected, param in zip(whole, parts, strict=True):
        torch.testing.assert_close(param, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_a_copy_of_a_fused_optimizer_goes_on_alike(copied: Any) -> None:
    params = make_params()
    optimizer = ProgramOptimizer(params, ADAMW, fused=True)
    random_grads(params, 0)
    optimizer.step()
    params_copy, optimizer_copy = copied((params, optimizer))
    for own, its in ((params, optimizer), (params_copy, optimizer_copy)):
        random_grads(own, 1)
        its.step()
    assert all(torch.equal(a, b) for a, b in zip(params, params_copy, strict=True))


def test_fused_takes_gradients_of_any_layout() -> None:
    plain, fused = [nn.Parameter(torch.ones(3, 4))], [nn.Parameter(torch.ones(3, 4))]
    for params, is_fused in ((plain, False), (fused, True)):
        optimizer = ProgramOptimizer(params, ADAMW, fused=is_fused)
        for grad in (torch.arange(12.0).reshape(4, 3).t(), torch.ones(1).expand(3, 4)):
            params[0].grad = grad
            optimizer.step()
    # The plain side computes in the gradient's layout, with kernels that may round the last bit differently.
    torch.testing.assert_close(fused[0], plain[0], rtol=0, atol=1e-6)


def test_fused_takes_gradients_of_another_precision_and_lazy_signs() -> None:
    param = nn.Parameter(torch.ones(6))
    optimizer = ProgramOptimizer([param], SGD, fused=True)
    param.grad_dtype = torch.bfloat16
    param.grad = torch.full((6,), 20.0, dtype=torch.bfloat16)
    optimizer.step()
    torch.testing.assert_close(param.detach(), torch.full((6,), 0.8))
    param.grad = None
    param.grad_dtype = torch.float32
    param.grad = torch._neg_view(torch.full((6,), 20.0))
    optimizer.step()
    torch.testing.assert_close(param.detach(), torch.ones(6))


def test_fused_refuses_a_gradient_of_another_shape() -> None:
    param = nn.Parameter(torch.ones(4))
    optimizer = ProgramOptimizer([param], SGD, fused=True)
    param.grad = torch.ones(4)
    param.data = torch.ones(4_000)  # torch keeps the gradient
    with pytest.raises(ValueError, match=r"shape \(4,\) on cpu for a parameter of shape \(4000,\)"):
        optimizer.step()


def test_fused_refuses_parameters_that_are_no_plain_memory() -> None:
    class Wrapper(torch.Tensor):
        """A tensor that claims to be contiguous float32, but has no memory."""

        @staticmethod
        def __new__(cls) -> "Wrapper":
            return torch.Tensor._make_wrapper_subclass(cls, (3,), dtype=torch.float32, device="cpu")

        @classmethod
        def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return NotImplemented

    with pytest.raises(ValueError, match=r"fused=True .*got Wrapper"):
        ProgramOptimizer([Wrapper()], SGD, fused=True)
    negated = torch.tensor([1 + 2j]).conj().imag
    with pytest.raises(ValueError, match=r"not contiguous.*fused=False"):
        ProgramOptimizer([nn.Parameter(negated)], SGD, fused=True)


def test_autograd_notices_a_fused_step() -> None:
    weight = nn.Parameter(torch.full((3,), 2.0))
    loss = weight.square().sum()
    loss.backward(retain_graph=True)
    ProgramOptimizer([weight], SGD, fused=True).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_fused_optimizer_takes_over_a_state_of_another_precision() -> None:
    doubles = [nn.Parameter(torch.ones(4, dtype=torch.float64))]
    first = ProgramOptimizer(doubles, ADAMW)
    doubles[0].grad = torch.ones(4, dtype=torch.float64)
    first.step()
    singles = [nn.Parameter(doubles[0].detach().float())]
    second = ProgramOptimizer(singles, ADAMW, fused=True)
    second.load_state_dict(first.state_dict())
    for params, optimizer in ((doubles, first), (singles, second)):
        params[0].grad = torch.ones_like(params[0])
        optimizer.step()
    torch.testing.assert_close(singles[0].double(), doubles[0], rtol=0, atol=1e-6)
    assert first.state[doubles[0]]["memory"][12].dtype == torch.float64  # its own state is left alone


def test_states_loaded_from_a_fused_optimizer_do_not_follow_its_steps() -> None:
    params = make_params()
    optimizer, other = (ProgramOptimizer(params, ADAMW, fused=True) for _ in range(2))
    random_grads(params, 0)
    optimizer.step()
    other.load_state_dict(optimizer.state_dict())
    before = other.state[params[0]]["memory"][12].clone()
    optimizer.step()
    assert torch.equal(other.state[params[0]]["memory"][12], before)


@pytest.mark.parametrize(
    ("param", "property"),
    [
        (torch.ones(2, dtype=torch.float64), r"torch\.float64 on cpu"),
        (torch.ones(2, dtype=torch.bfloat16), r"torch\.bfloat16 on cpu"),
        (torch.ones(2, device="meta"), r"torch\.float32 on meta"),
        (torch.ones(3, 2).t(), "not contiguous"),
    ],
)
def test_parameters_that_fused_does_not_support_are_refused(param: torch.Tensor, property: str) -> None:
    with pytest.raises(ValueError, match=f"fused=True takes contiguous float32.*{property}.*fused=False"):
        ProgramOptimizer([nn.Parameter(param)], ADAMW, fused=True)
