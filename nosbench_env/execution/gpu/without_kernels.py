"""Populations by torch's operations, without kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nosbench_env.execution.step_code import StepCode, step_codes
from nosbench_env.language.functions import REDUCTIONS
from nosbench_env.language.live_code import Kind, apply
from nosbench_env.language.program import Program


class UnfusedPopulation:
    """Several programs with a model each, stepped in turn.

    Has the interface of `GpuPopulation`. It needs no kernels and takes programs of any size, but is slower. Nothing
    waits for the device, so the launches can be captured in a graph.

    Args:
        programs: The programs, one per model.
        sizes: Number of elements of each tensor of a model; all models are alike.
        device: The device of all tensors.
        scaled_gradient: Multiplies the gradients by `grad_scales`.

    Attributes:
        grad_scales: `(programs,)` float32.
        step: `(1,)` int32, the number of the step, counted from 1.
        died_at: `(programs,)` int32: the step that made a parameter non-finite, or 0.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        sizes: Sequence[int],
        device: torch.device | str,
        *,
        scaled_gradient: bool = False,
    ) -> None:
        self.device = torch.device(device)
        self._programs, self._scaled_gradient = list(programs), scaled_gradient
        self._codes = [step_codes(program, scaled_gradient=scaled_gradient) for program in programs]
        self._sizes = list(sizes)
        self._numel = torch.tensor(self._sizes, dtype=torch.float32, device=self.device)
        self._tensor_of_element = torch.repeat_interleave(
            torch.arange(len(sizes), device=self.device), torch.tensor(self._sizes, device=self.device)
        )
        self._constants: dict[str, Tensor] = {}
        self._memories: list[dict[int, Tensor]] = [{} for _ in programs]
        self._current: list[StepCode] = []  # of the step that `launch` runs
        self.grad_scales = torch.ones(len(programs), device=self.device)
        self.step = torch.ones(1, dtype=torch.int32, device=self.device)
        self.died_at = torch.zeros(len(programs), dtype=torch.int32, device=self.device)

    def bind_rows(self, weights: Tensor, grads: Tensor) -> None:
        """Sets the parameters and gradients, both `(programs, parameters)`."""
        self._weights, self._grads = weights, grads

    def prepare(self, step: int) -> bool:
        """Chooses a step's code; returns True if all later steps keep it."""
        self._current = [codes.at(step) for codes in self._codes]
        for code in self._current:
            for node in code.nodes:
                if node.op == "const" and repr(node.detail) not in self._constants:
                    self._constants[repr(node.detail)] = torch.tensor(node.detail, device=self.device)
        return all(step >= len(codes.steps) for codes in self._codes)

    def clip(self) -> None:
        """Sets `grad_scales` to clip each model's gradients to global norm 1."""
        norms = [torch.linalg.vector_norm(part, dim=1) for part in torch.split(self._grads, self._sizes, dim=1)]
        total = torch.linalg.vector_norm(torch.stack(norms), dim=0)
        self.grad_scales.copy_(torch.clamp(1.0 / (total + 1e-6), max=1.0))

    def launch(self) -> None:
        """Runs a step of all programs."""
        for program, code in enumerate(self._current):
            self._run(program, code)
        self.step += 1

    def keep(self, programs: Sequence[int]) -> UnfusedPopulation:
        """Returns these programs before the same step, with tensors unbound."""
        kept = UnfusedPopulation(
            [self._programs[program] for program in programs],
            self._sizes,
            self.device,
            scaled_gradient=self._scaled_gradient,
        )
        kept._memories = [self._memories[program] for program in programs]
        kept.step.copy_(self.step)
        return kept

    def _run(self, program: int, code: StepCode) -> None:
        memory, weights = self._memories[program], self._weights[program]
        values: list[Tensor] = []
        for node in code.nodes:
            match node.op:
                case "param":
                    value = weights
                case "grad":
                    value = self._grads[program]
                case "grad_scale":
                    value = self.grad_scales[program]
                case "step":
                    value = self.step[0].float()
                case "numel":
                    value = self._numel
                case "const":
                    value = self._constants[repr(node.detail)]
                case "slot":
                    slot = int(node.detail)
                    if slot not in memory:
                        memory[slot] = torch.zeros((), device=self.device)
                    value = memory[slot]
                case op if op in REDUCTIONS and code.nodes[node.inputs[0]].kind == Kind.ARRAY:
                    parts = torch.split(values[node.inputs[0]], self._sizes)
                    value = torch.stack([apply(op, part) for part in parts])
                case op if node.kind == Kind.ARRAY:
                    value = apply(op, *(self._for_elements(code, source, values[source]) for source in node.inputs))
                case op if op in REDUCTIONS:  # the norm of a scalar
                    value = torch.abs(values[node.inputs[0]])
                case op:
                    value = apply(op, *(values[source] for source in node.inputs))
            values.append(value)

        # Copied first, since a slot may take the old value of another slot or of the parameter.
        after = {slot: values[index].clone() for slot, index in code.carried.items()}
        for slot, value in after.items():
            if slot in memory and memory[slot].shape == value.shape:
                memory[slot].copy_(value)  # in place: captured graphs know the address
            else:
                memory[slot] = value
        weights.sub_(self._for_elements(code, code.update, values[code.update]))
        dies = ~weights.isfinite().all() & (self.died_at[program] == 0)
        self.died_at[program] = torch.where(dies, self.step[0], self.died_at[program])

    def _for_elements(self, code: StepCode, index: int, value: Tensor) -> Tensor:
        """Spreads a per-tensor scalar over elements; returns others unchanged."""
        return value[self._tensor_of_element] if code.nodes[index].kind == Kind.TENSOR else value
