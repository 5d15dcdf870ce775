"""PFNs of a population, trained side by side: stacked weights, with the forward and the backward pass written out.

What `PFN` and autograd compute, for any number of models at once and without work whose result nobody reads: keys and
values of the context alone, in the last layer only the points that are predicted, gradients straight into one buffer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nosbench_env.tasks.pfn_model import EMBEDDING, HEADS, LAYERS, PFN

HEAD = EMBEDDING // HEADS
_NORM_EPSILON = 1e-5  # torch's default
_SCALE = 1 / math.sqrt(HEAD)


@dataclass(frozen=True, slots=True)
class Batches:
    """Data of consecutive steps, the same for every program. Rows are points, and data sets within a point.

    Attributes:
        x: `(steps, points * data sets, 1)`, standardised.
        y: `(steps, points * data sets, 1)`.
        bucket: `(steps, points * data sets, 1)` int64: which bucket the label falls in.
        offset: `(steps, points * data sets)`: what the loss is beyond the cross entropy of the bucket.
        num_datasets: Data sets in a batch.
    """

    x: Tensor
    y: Tensor
    bucket: Tensor
    offset: Tensor
    num_datasets: int

    def at(self, step: int | Tensor) -> Batch:
        """The batch of a step; of a step that a device knows `(1,)` int64, without asking the device."""
        if isinstance(step, int):
            return Batch(self.x[step], self.y[step], self.bucket[step], self.offset[step], self.num_datasets)
        x, y, bucket, offset = (data.index_select(0, step)[0] for data in (self.x, self.y, self.bucket, self.offset))
        return Batch(x, y, bucket, offset, self.num_datasets)

    def room(self, device: torch.device, steps: int) -> Batches:
        """Room for the batches of so many steps on a device."""
        x, y, bucket, offset = (
            part.new_zeros(steps, *part.shape[1:], device=device) for part in (self.x, self.y, self.bucket, self.offset)
        )
        return Batches(x, y, bucket, offset, self.num_datasets)

    def replace(self, other: Batches) -> None:
        """Overwrites the first steps with those of `other`."""
        for name in ("x", "y", "bucket", "offset"):
            data = getattr(other, name)
            getattr(self, name)[: len(data)].copy_(data)


class Batch(NamedTuple):
    """The data of one step; see `Batches`."""

    x: Tensor
    y: Tensor
    bucket: Tensor
    offset: Tensor
    num_datasets: int


class PFNPopulation:
    """The weights and gradients of several PFNs.

    Args:
        weights: `(size, parameters)`, a model a row, its tensors one after the other.
        shapes: The shapes of a model's tensors, in the order of its parameters.

    Attributes:
        grads: `(size, parameters)`; the gradients of the last `loss_and_gradients`.
    """

    def __init__(self, weights: Tensor, shapes: Sequence[torch.Size]) -> None:
        self.weights, self.shapes = weights, list(shapes)
        self.grads = torch.zeros_like(weights)
        self._parts, self._grad_parts = _Parts.of(self.tensors(self.weights)), _Parts.of(self.tensors(self.grads))

    @classmethod
    def alike(cls, model: PFN, size: int, device: torch.device | str = "cpu") -> PFNPopulation:
        """So many models that start as this one."""
        params = list(model.parameters())
        row = torch.cat([param.detach().reshape(-1) for param in params])
        return cls(row.to(device).repeat(size, 1), [param.shape for param in params])

    @property
    def size(self) -> int:
        """How many models."""
        return self.weights.shape[0]

    def tensors(self, rows: Tensor) -> list[Tensor]:
        """A buffer `(size, parameters)` as a model's tensors, each `(size, *shape)`: views."""
        parts = torch.split(rows, [shape.numel() for shape in self.shapes], dim=1)
        return [part.view(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def keep(self, models: Sequence[int]) -> PFNPopulation:
        """These models alone."""
        index = torch.tensor(models, device=self.weights.device)
        return PFNPopulation(self.weights.index_select(0, index), self.shapes)

    @torch.no_grad()
    def loss(self, batch: Batch, num_context: int) -> Tensor:
        """The loss of each model, `(size,)`: mean negative log likelihood in nats of the points after the context."""
        return _Forward(self._parts, batch, num_context, keep=False).loss

    @torch.no_grad()
    def loss_and_gradients(self, batch: Batch, num_context: int) -> Tensor:
        """The same, and its gradients in `grads`."""
        forward = _Forward(self._parts, batch, num_context, keep=True)
        forward.backward(self._grad_parts)
        return forward.loss


class _Linear(NamedTuple):
    weight: Tensor  # (size, outputs, inputs)
    bias: Tensor  # (size, outputs)

    def __call__(self, x: Tensor) -> Tensor:
        """`x` `(size, rows, inputs)` -> `(size, rows, outputs)`."""
        if len(x) == 1:
            return torch.addmm(self.bias[0], x[0], self.weight[0].t()).unsqueeze(0)
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight.transpose(1, 2))

    def become_gradient(self, x: Tensor, grad_output: Tensor) -> None:
        """Turns these tensors into the gradients of a map that was applied to `x`."""
        _matmul(grad_output.transpose(1, 2), x, out=self.weight)
        torch.sum(grad_output, dim=1, out=self.bias)

    def rows(self, start: int, end: int) -> _Linear:
        """Some of the outputs alone."""
        return _Linear(self.weight[:, start:end], self.bias[:, start:end])


class _Norm(NamedTuple):
    weight: Tensor  # (size, embedding)
    bias: Tensor

    def __call__(self, x: Tensor) -> tuple[Tensor, _Normed]:
        """Layer normalisation, and what its backward pass needs."""
        normed, mean, deviation = torch.native_layer_norm(x, (EMBEDDING,), None, None, _NORM_EPSILON)
        y = torch.addcmul(self.bias.unsqueeze(1), normed, self.weight.unsqueeze(1))
        return y, _Normed(x, normed, mean, deviation)

    def backward(self, grad: _Norm, saved: _Normed, grad_output: Tensor) -> Tensor:
        """Writes the gradients of weight and bias; returns that of the input."""
        torch.sum(grad_output * saved.normed, dim=1, out=grad.weight)
        torch.sum(grad_output, dim=1, out=grad.bias)
        grad_input: Tensor = torch.ops.aten.native_layer_norm_backward(
            grad_output * self.weight.unsqueeze(1),
            saved.x,
            (EMBEDDING,),
            saved.mean,
            saved.deviation,
            None,
            None,
            (True, False, False),
        )[0]
        return grad_input


class _Normed(NamedTuple):
    x: Tensor
    normed: Tensor
    mean: Tensor
    deviation: Tensor


class _Layer(NamedTuple):
    """A transformer layer's tensors, in the order of its parameters."""

    attention_in: _Linear
    attention_out: _Linear
    hidden: _Linear
    output: _Linear
    norm1: _Norm
    norm2: _Norm


class _Parts(NamedTuple):
    """A model's tensors by their use."""

    x_encoder: _Linear
    layers: tuple[_Layer, ...]
    y_encoder: _Linear
    decoder_hidden: _Linear
    decoder_output: _Linear

    @classmethod
    def of(cls, tensors: list[Tensor]) -> _Parts:
        rest = iter(tensors)

        def linear() -> _Linear:
            return _Linear(next(rest), next(rest))

        def norm() -> _Norm:
            return _Norm(next(rest), next(rest))

        def layer() -> _Layer:
            return _Layer(linear(), linear(), linear(), linear(), norm(), norm())

        return cls(linear(), tuple(layer() for _ in range(LAYERS)), linear(), linear(), linear())


class _LayerForward:
    """The forward pass of a layer, which keeps what the backward pass needs.

    Args:
        layer: The layer.
        tokens: `(size, rows, embedding)`.
        num_context: Rows that are context.
        num_datasets: Rows a point.
        predicted_only: Whether only the rows after the context are asked for.
    """

    def __init__(
        self, layer: _Layer, tokens: Tensor, num_context: int, num_datasets: int, *, predicted_only: bool
    ) -> None:
        self.layer, self.tokens, self.num_datasets = layer, tokens, num_datasets
        self.context = tokens[:, :num_context]
        self.asking = tokens[:, num_context:] if predicted_only else tokens
        if num_context:
            query = layer.attention_in.rows(0, EMBEDDING)(self.asking)
            key, value = layer.attention_in.rows(EMBEDDING, 3 * EMBEDDING)(self.context).chunk(2, dim=-1)
            # Attention happens within a data set and a head: (size * data sets * heads, points, head)
            # Scaled before the product, by a power of two: exact, and large products don't overflow.
            self.query, self.key, self.value = (self._split(part) for part in (query * _SCALE, key, value))
            self.attention = torch.softmax(torch.bmm(self.query, self.key.transpose(1, 2)), dim=-1)
            self.attended = self._join(torch.bmm(self.attention, self.value))
            projected = layer.attention_out(self.attended)
        else:  # attention to nothing is 0
            projected = layer.attention_out.bias.unsqueeze(1)
        between, self.normed1 = layer.norm1(self.asking + projected)
        self.between = between
        self.hidden = layer.hidden(between)
        self.activated = F.gelu(self.hidden)
        self.result, self.normed2 = layer.norm2(between + layer.output(self.activated))

    def backward(self, grad: _Layer, grad_result: Tensor) -> Tensor:
        """Writes the gradients of the layer's tensors; returns that of `tokens`."""
        layer = self.layer
        grad_sum = layer.norm2.backward(grad.norm2, self.normed2, grad_result)
        grad.output.become_gradient(self.activated, grad_sum)
        grad_hidden = torch.ops.aten.gelu_backward(_matmul(grad_sum, layer.output.weight), self.hidden)
        grad.hidden.become_gradient(self.between, grad_hidden)
        grad_between = grad_sum + _matmul(grad_hidden, layer.hidden.weight)
        grad_asking = layer.norm1.backward(grad.norm1, self.normed1, grad_between)
        if not self.context.shape[1]:
            for unused in (*grad.attention_in, grad.attention_out.weight):
                unused.zero_()
            torch.sum(grad_asking, dim=1, out=grad.attention_out.bias)
            return grad_asking

        grad.attention_out.become_gradient(self.attended, grad_asking)
        grad_attended = self._split(_matmul(grad_asking, layer.attention_out.weight))
        grad_value = torch.bmm(self.attention.transpose(1, 2), grad_attended)
        grad_attention = torch.bmm(grad_attended, self.value.transpose(1, 2))
        grad_scores = torch._softmax_backward_data(grad_attention, self.attention, -1, self.attention.dtype)
        grad_query = self._join(torch.bmm(grad_scores, self.key)) * _SCALE
        grad_key = self._join(torch.bmm(grad_scores.transpose(1, 2), self.query))
        grad_key_value = torch.cat([grad_key, self._join(grad_value)], dim=-1)
        grad.attention_in.rows(0, EMBEDDING).become_gradient(self.asking, grad_query)
        grad.attention_in.rows(EMBEDDING, 3 * EMBEDDING).become_gradient(self.context, grad_key_value)

        grad_asking += _matmul(grad_query, layer.attention_in.weight[:, :EMBEDDING])
        grad_context = _matmul(grad_key_value, layer.attention_in.weight[:, EMBEDDING:])
        if self.asking is not self.tokens:
            return torch.cat([grad_context, grad_asking], dim=1)
        grad_asking[:, : self.context.shape[1]] += grad_context
        return grad_asking

    def _split(self, rows: Tensor) -> Tensor:
        """`(size, points * data sets, embedding)` -> `(size * data sets * heads, points, head)`."""
        size, num_rows, _ = rows.shape
        parts = self.num_datasets * HEADS
        points = rows.reshape(size, num_rows // self.num_datasets, parts, HEAD)
        return points.transpose(1, 2).reshape(size * parts, -1, HEAD)

    def _join(self, parts: Tensor) -> Tensor:
        """The inverse of `_split`."""
        num_points = parts.shape[1]
        parts = parts.view(-1, self.num_datasets * HEADS, num_points, HEAD).transpose(1, 2)
        return parts.reshape(-1, num_points * self.num_datasets, EMBEDDING)


class _Forward:
    """The forward pass of all models on a batch.

    Args:
        parts: The models' tensors.
        batch: The data.
        num_context: How many points are context.
        keep: Whether to keep what the backward pass needs.
    """

    def __init__(self, parts: _Parts, batch: Batch, num_context: int, *, keep: bool) -> None:
        self.parts, self.batch = parts, batch
        size = len(parts.x_encoder.weight)
        self.num_context = num_context * batch.num_datasets  # rows
        self.x = batch.x.expand(size, -1, -1)
        self.y = batch.y[: self.num_context].expand(size, -1, -1)
        tokens = parts.x_encoder(self.x)
        tokens[:, : self.num_context] += parts.y_encoder(self.y)
        self.layers: list[_LayerForward] = []
        for layer in parts.layers:
            last = layer is parts.layers[-1]
            forward = _LayerForward(layer, tokens, self.num_context, batch.num_datasets, predicted_only=last)
            tokens = forward.result
            if keep:
                self.layers.append(forward)
        self.predicted = tokens
        self.hidden = parts.decoder_hidden(tokens)
        self.activated = F.gelu(self.hidden)
        self.log_probabilities = torch.log_softmax(parts.decoder_output(self.activated), dim=-1)
        self.buckets = batch.bucket[self.num_context :].expand(size, -1, -1)
        of_labels = self.log_probabilities.gather(-1, self.buckets).squeeze(-1)
        losses = batch.offset[self.num_context :] - of_labels
        self.of_datasets = losses.view(size, -1, batch.num_datasets).mean(dim=1)
        self.loss = self.of_datasets.nanmean(dim=1)

    def backward(self, grad: _Parts) -> None:
        """Writes the gradients of the losses."""
        parts, num_points = self.parts, self.log_probabilities.shape[1] // self.batch.num_datasets
        counted = (~self.of_datasets.isnan()).to(self.of_datasets.dtype)
        factors = counted / (counted.sum(dim=1, keepdim=True) * num_points)  # of a data set's labels in the loss
        grad_logits = self.log_probabilities.exp_()
        grad_logits.scatter_add_(-1, self.buckets, grad_logits.new_full(self.buckets.shape, -1.0))
        grad_logits *= factors.repeat(1, num_points).unsqueeze(-1)

        grad.decoder_output.become_gradient(self.activated, grad_logits)
        grad_hidden = torch.ops.aten.gelu_backward(_matmul(grad_logits, parts.decoder_output.weight), self.hidden)
        grad.decoder_hidden.become_gradient(self.predicted, grad_hidden)
        grad_tokens = _matmul(grad_hidden, parts.decoder_hidden.weight)
        for forward, layer_grad in zip(reversed(self.layers), reversed(grad.layers), strict=True):
            grad_tokens = forward.backward(layer_grad, grad_tokens)
        grad.x_encoder.become_gradient(self.x, grad_tokens)
        grad.y_encoder.become_gradient(self.y, grad_tokens[:, : self.num_context])


def _matmul(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """`(size, n, k)` times `(size, k, m)`."""
    if len(a) == 1:  # not a batch: the processor's matrix product
        return torch.mm(a[0], b[0], out=None if out is None else out[0]).unsqueeze(0)
    return torch.bmm(a, b, out=out)
