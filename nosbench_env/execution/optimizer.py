"""`ProgramOptimizer`: the definition of running a program."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache
from itertools import chain
from numbers import Real
from typing import Any, overload

import torch
from torch import Tensor

from nosbench_env.execution.fused_cpu import FusedCpuProgram
from nosbench_env.execution.gpu.bytecode import TooLarge
from nosbench_env.execution.gpu.fused_gpu import FusedGpuProgram
from nosbench_env.execution.gpu.nvrtc import cuda_kernels
from nosbench_env.language.functions import FUNCTIONS
from nosbench_env.language.program import CONSTANTS, FIRST_WRITABLE_SLOT, GRAD, PARAM, STEP, Program


class ProgramOptimizer(torch.optim.Optimizer):
    """A `torch.optim` optimizer that runs a program (paper, Section 3.1).

    Each step runs the program once for each parameter tensor that has a gradient. It subtracts `lr` times the value of
    the last instruction. Each tensor has its own memory and step counter. Scalars are computed in the parameter's
    precision, and in float32 for half-precision parameters.

    Args:
        params: Parameters or parameter groups, as in `torch.optim.Optimizer`; real floating point.
        program: The program to run.
        lr: Multiplier of the update. The benchmark always uses 1; programs contain their own learning rate.
        fused: Runs the program compiled, in a few passes over memory. Results agree except for the last bit; a step is
            several times as fast as with one torch operation per instruction. Parameters must be contiguous float32
            tensors on a CPU or a GPU, and no two may share memory.

    Raises:
        TypeError: If `program` is not a `Program`.
        ValueError: If `lr` is not a finite number >= 0, a parameter is not real floating point, or `fused` does not
            support a parameter.

    >>> from nosbench_env import KNOWN_PROGRAMS
    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> optimizer = ProgramOptimizer([weight], KNOWN_PROGRAMS["SGD"])
    >>> weight.sum().backward()
    >>> optimizer.step()
    >>> weight.data
    tensor([0.9900, 0.9900])
    """

    def __init__(self, params: Iterable[Any], program: Program, lr: float = 1.0, *, fused: bool = False) -> None:
        if not isinstance(program, Program):
            raise TypeError(f"program must be a Program, got {type(program).__name__}")
        self.program = program
        self.fused = fused
        self._fused_programs: dict[int, FusedCpuProgram | FusedGpuProgram] = {}  # by device number; -1: the CPU
        super().__init__(params, {"lr": lr})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a parameter group, which may have its own `lr`."""
        super().add_param_group(param_group)
        try:
            _check_group(self.param_groups[-1], fused=self.fused)
        except ValueError:
            self.param_groups.pop()
            raise

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Runs the program once for every parameter with a gradient.

        Args:
            closure: Clears the gradients, computes the loss, calls `backward` and returns the loss.

        Returns:
            The value of `closure`, or None without one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            if self.fused:
                self._step_fused(params, group["lr"])
            else:
                for param in params:
                    param.add_(self._update(param), alpha=-group["lr"])
        return loss

    def _step_fused(self, params: list[Tensor], lr: float) -> None:
        """Runs the compiled program, once for all tensors of a step count."""
        for param in params:
            _check_fused(param)
            if param.get_device() not in self._fused_programs:
                self._fused_programs[param.get_device()] = _fused_program(self.program, param.device)
        alike: dict[tuple[int, int], tuple[list[Tensor], list[Tensor], list[dict[int, Tensor]]]] = {}
        for param in params:
            state, device = self._advance(param), param.get_device()  # a number: cheaper than torch.device here
            of_params, of_grads, of_memories = alike.setdefault((state["step"], device), ([], [], []))
            of_params.append(param)
            of_grads.append(_plain_gradient(param))
            of_memories.append(state["memory"])
            for slot, value in state["memory"].items():
                # The model was moved, or the state was loaded from another device or precision.
                if value.get_device() != device or value.dtype != torch.float32:
                    state["memory"][slot] = value.to(param)
        for (step, device), (of_params, of_grads, of_memories) in alike.items():
            self._fused_programs[device].step(of_params, of_grads, of_memories, step, lr=lr)
        # Autograd may have saved the old parameters and can't see the change by itself.
        torch.autograd.graph.increment_version([param for param in params if not param.is_inference()])

    def _advance(self, param: Tensor) -> dict[str, Any]:
        """Adds 1 to a tensor's step count; returns its state."""
        if param.grad is None or param.grad.is_sparse:
            raise RuntimeError("ProgramOptimizer does not support sparse gradients")
        state: dict[str, Any] = self.state[param]
        if not state:
            state["step"] = 0
            state["memory"] = {}
        state["step"] += 1
        return state

    def _update(self, param: Tensor) -> Tensor:
        """Computes a tensor's update, 0-d or in its shape."""
        state = self._advance(param)
        assert param.grad is not None
        # All functions return new storage, so a slot never aliases another slot, the parameter or its gradient.
        dtype = torch.promote_types(param.dtype, torch.float32)
        step = torch.tensor(float(state["step"]), dtype=dtype, device=param.device)
        constants, zero = _constants(dtype, param.device)
        memory = {slot: value.to(param.device) for slot, value in state["memory"].items()}
        memory |= {PARAM: param, GRAD: param.grad, STEP: step, **constants}
        update = zero
        for instruction in self.program:
            inputs = (memory.get(slot, zero) for slot in instruction.inputs)
            update = memory[instruction.output] = FUNCTIONS[instruction.function](*inputs)
        state["memory"] = {slot: value for slot, value in memory.items() if slot >= FIRST_WRITABLE_SLOT}
        return update

    def state_dict(self) -> dict[str, Any]:
        """Returns torch's state (tensors, numbers) and the JSON form of "program"."""
        return super().state_dict() | {"program": self.program.to_json()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores a state; training then continues to the last bit.

        Tensors are moved to their parameter's device.

        Raises:
            ValueError: If the state belongs to another program or to other parameter groups.
        """
        if "program" not in state_dict:
            raise ValueError("this state is not one of a ProgramOptimizer: it has no 'program'")
        if state_dict["program"] != self.program.to_json():
            raise ValueError(
                f"this state belongs to another program:\n{Program.from_json(state_dict['program'])}\n"
                f"and can't continue:\n{self.program}"
            )
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        # torch casts all state to the parameter's precision, which would round half precision's float32 scalars.
        saved_ids = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        params = chain.from_iterable(group["params"] for group in self.param_groups)
        for saved_id, param in zip(saved_ids, params, strict=True):
            if saved_id in state_dict["state"]:
                memory = state_dict["state"][saved_id]["memory"]
                self.state[param]["memory"] = {
                    slot: value.to(param.device, copy=True) for slot, value in memory.items()
                }

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"program": self.program, "fused": self.fused, "_fused_programs": {}}

    def __repr__(self) -> str:
        groups = super().__repr__().partition("(")[2]
        return f"{type(self).__name__}({self.program!r}, {groups}"


@cache
def _constants(dtype: torch.dtype, device: torch.device) -> tuple[dict[int, Tensor], Tensor]:
    """Returns constant slots and the zero of unset ones, shared by tensors."""
    with torch.inference_mode(False):  # tensors made in inference mode can't be used outside it
        constants = {slot: torch.tensor(value, dtype=dtype, device=device) for slot, value in CONSTANTS.items()}
        return constants, torch.tensor(0.0, dtype=dtype, device=device)


def _fused_program(program: Program, device: torch.device) -> FusedCpuProgram | FusedGpuProgram:
    if device.type == "cpu":
        return FusedCpuProgram(program)
    kernels = cuda_kernels(device)
    if kernels is None:
        raise RuntimeError(f"fused=True needs kernels, which can't be compiled on {device}; use fused=False")
    try:
        return FusedGpuProgram(program, kernels)
    except TooLarge as error:
        raise RuntimeError(f"fused=True can't run this program on {device}: {error}; use fused=False") from None


def _plain_gradient(param: Tensor) -> Tensor:
    """Returns the gradient in its parameter's memory layout."""
    grad = param.grad
    assert grad is not None
    if grad.shape != param.shape or grad.get_device() != param.get_device() or type(grad) is not Tensor:
        raise ValueError(
            f"fused=True needs a gradient like its parameter: got {type(grad).__name__} of shape {tuple(grad.shape)} "
            f"on {grad.device} for a parameter of shape {tuple(param.shape)} on {param.device}"
        )
    if grad.dtype == param.dtype and grad.is_contiguous() and not grad.is_neg():
        return grad
    return grad.to(param.dtype).resolve_neg().contiguous()


def _check_fused(param: Tensor) -> None:
    """Raises a ValueError for parameters that `fused` does not support."""
    if type(param) not in (torch.nn.Parameter, Tensor) or param.layout != torch.strided:
        raise ValueError(
            f"fused=True takes plain parameters, got {type(param).__name__} with layout {param.layout}; "
            "use fused=False for it"
        )
    contiguous = param.is_contiguous() and not param.is_neg()
    if not (param.is_cpu or param.is_cuda) or param.dtype != torch.float32 or not contiguous:
        raise ValueError(
            f"fused=True takes contiguous float32 parameters on a CPU or a GPU, got {param.dtype} on {param.device}"
            f"{'' if contiguous else ', not contiguous'}; use fused=False for it"
        )


def _check_group(group: dict[str, Any], *, fused: bool) -> None:
    lr = group["lr"]
    if isinstance(lr, bool) or not isinstance(lr, Real) or not math.isfinite(lr) or lr < 0:
        raise ValueError(f"lr must be a finite number >= 0, got {lr!r}")
    group["lr"] = float(lr)
    for param in group["params"]:
        if not param.is_floating_point():
            raise ValueError(f"parameters must be real floating point, got {param.dtype}")
        if fused:
            _check_fused(param)
