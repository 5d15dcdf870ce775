"""PFNs trained side by side, with hand-written passes over stacked weights.

The passes compute the losses and gradients of `PFN` and autograd, for any number of models at once. They leave out
unused results: keys and values are computed for the context alone, the last layer for the predicted points alone.
Gradients are written straight into one buffer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from nosbench_env.tasks.pfn_model import EMBEDDING, HEADS, LAYERS, PFN

HEAD = EMBEDDING // HEADS
_NORM_EPSILON = 1e-5  # torch's default
_SCALE = 1 / math.sqrt(HEAD)


class Batch(NamedTuple):
    """The data of a step, equal for all models.

    Rows run over points, and over data sets within a point. With one more dimension in front, the tensors hold the data
    of consecutive steps.

    Attributes:
        x: `(points * data sets, 1)`, standardised.
        y: `(points * data sets, 1)`.
        bucket: `(points * data sets, 1)` int64, the bucket of each label.
        offset: `(points * data sets)`, the difference between the loss and the cross entropy of the bucket.
        num_datasets: The number of data sets.
    """

    x: Tensor
    y: Tensor
    bucket: Tensor
    offset: Tensor
    num_datasets: int

    def at(self, step: int | Tensor) -> Batch:
        """Returns a step's data; tensors `(1,)` int64 are read without synchronisation."""
        if isinstance(step, int):
            return Batch._make((*(tensor[step] for tensor in self[:4]), self.num_datasets))
        return Batch._make((*(tensor.index_select(0, step)[0] for tensor in self[:4]), self.num_datasets))


class PFNPopulation:
    """The weights and gradients of several PFNs.

    Args:
        weights: `(size, parameters)`. A row holds the tensors of a model one after the other.
        shapes: The shapes of a model's tensors, in the order of its parameters.

    Attributes:
        grads: `(size, parameters)`, the gradients of the last call of `loss_and_gradients`.
    """

    def __init__(self, weights: Tensor, shapes: Sequence[torch.Size]) -> None:
        self.weights, self.shapes = weights, list(shapes)
        self.grads = torch.zeros_like(weights)
        self._parts, self._grad_parts = self._stacked(self.weights), self._stacked(self.grads)

    @classmethod
    def copies(cls, model: PFN, size: int, device: torch.device | str = "cpu") -> PFNPopulation:
        """Makes a population of `size` copies of a model."""
        params = list(model.parameters())
        row = torch.cat([param.detach().reshape(-1) for param in params])
        return cls(row.to(device).repeat(size, 1), [param.shape for param in params])

    @property
    def size(self) -> int:
        """The number of models."""
        return self.weights.shape[0]

    def tensors(self, row: Tensor) -> list[Tensor]:
        """Returns a model's tensors, views of a `weights` or `grads` row."""
        parts = torch.split(row, [shape.numel() for shape in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def _stacked(self, rows: Tensor) -> _Parts:
        """Returns views of rows: tensors `(size, *shape)`, or `shape` for one."""
        if len(rows) == 1:
            return _Parts.of(self.tensors(rows[0]))
        parts = torch.split(rows, [shape.numel() for shape in self.shapes], dim=1)
        return _Parts.of([part.view(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)])

    def keep(self, models: Sequence[int]) -> PFNPopulation:
        """Returns a population of some of the models."""
        index = torch.tensor(models, device=self.weights.device)
        return PFNPopulation(self.weights.index_select(0, index), self.shapes)

    @torch.no_grad()
    def loss(self, batch: Batch, num_context: int) -> Tensor:
        """Returns mean negative log likelihoods after the context, `(size,)`, in nats."""
        return _Forward(self._parts, batch, num_context, for_backward=False).loss.view(self.size)

    @torch.no_grad()
    def loss_and_gradients(self, batch: Batch, num_context: int) -> Tensor:
        """Returns the losses like `loss`, and writes their gradients to `grads`."""
        forward = _Forward(self._parts, batch, num_context, for_backward=True)
        forward.backward(self._grad_parts)
        return forward.loss.view(self.size)


# In the shapes below, "..." is the number of models. For a single model the dimension is left out, since plain matrix
# products and fused operations are faster than those of stacks.


class _Linear(NamedTuple):
    weight: Tensor  # (..., outputs, inputs)
    bias: Tensor  # (..., outputs)

    def __call__(self, x: Tensor) -> Tensor:
        """Maps `x` `(..., rows, inputs)` to `(..., rows, outputs)`."""
        if x.dim() == 2:
            return torch.addmm(self.bias, x, self.weight.t())
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight.mT)

    def add_input_gradient(self, grad_input: Tensor, grad_output: Tensor) -> None:
        """Adds the gradient of the input to `grad_input`."""
        if grad_input.dim() == 2:
            grad_input.addmm_(grad_output, self.weight)
        else:
            grad_input.baddbmm_(grad_output, self.weight)

    def set_gradients(self, x: Tensor, grad_output: Tensor) -> None:
        """Overwrites these tensors with the gradients of a map applied to `x`."""
        torch.matmul(grad_output.mT, x, out=self.weight)
        torch.sum(grad_output, dim=-2, out=self.bias)

    def rows(self, start: int, end: int) -> _Linear:
        """Returns the map to the outputs from `start` to `end`."""
        return _Linear(self.weight[..., start:end, :], self.bias[..., start:end])


class _Norm(NamedTuple):
    weight: Tensor  # (..., embedding)
    bias: Tensor

    def __call__(self, x: Tensor) -> tuple[Tensor, _Normed]:
        """Returns the normalised `x` and the inputs of `backward`."""
        if x.dim() == 2:
            y, mean, deviation = torch.native_layer_norm(x, (EMBEDDING,), self.weight, self.bias, _NORM_EPSILON)
            return y, _Normed(x, y, mean, deviation)
        normed, mean, deviation = torch.native_layer_norm(x, (EMBEDDING,), None, None, _NORM_EPSILON)
        return torch.addcmul(self.bias.unsqueeze(1), normed, self.weight.unsqueeze(1)), _Normed(
            x, normed, mean, deviation
        )

    def backward(self, grad: _Norm, saved: _Normed, grad_output: Tensor) -> Tensor:
        """Writes its gradients to `grad` and returns that of the input."""
        backward = torch.ops.aten.native_layer_norm_backward
        statistics = saved.x, (EMBEDDING,), saved.mean, saved.deviation
        if grad_output.dim() == 2:
            grad_input, grad_weight, grad_bias = backward(
                grad_output, *statistics, self.weight, self.bias, (True, True, True)
            )
            grad.weight.copy_(grad_weight)
            grad.bias.copy_(grad_bias)
        else:
            torch.sum(grad_output * saved.normed, dim=1, out=grad.weight)
            torch.sum(grad_output, dim=1, out=grad.bias)
            scaled = grad_output * self.weight.unsqueeze(1)
            grad_input = backward(scaled, *statistics, None, None, (True, False, False))[0]
        result: Tensor = grad_input
        return result


class _Normed(NamedTuple):
    x: Tensor
    normed: Tensor  # for stacks before weight and bias are applied
    mean: Tensor
    deviation: Tensor


class _Layer(NamedTuple):
    """The tensors of a layer, in the order of its parameters."""

    attention_in: _Linear
    attention_out: _Linear
    hidden: _Linear
    output: _Linear
    norm1: _Norm
    norm2: _Norm


class _Parts(NamedTuple):
    """The tensors of a model by their use."""

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


def _unpack(attention_in: _Linear) -> tuple[_Linear, _Linear]:
    """Splits the packed projection: queries; keys and values."""
    return attention_in.rows(0, EMBEDDING), attention_in.rows(EMBEDDING, 3 * EMBEDDING)


class _LayerForward:
    """The forward pass of a layer, kept for the backward pass.

    Args:
        layer: The layer.
        tokens: `(..., rows, embedding)`.
        num_context: The number of rows that are context.
        num_datasets: The number of rows per point.
        predicted_only: True to compute only the rows after the context.
    """

    def __init__(
        self, layer: _Layer, tokens: Tensor, num_context: int, num_datasets: int, *, predicted_only: bool
    ) -> None:
        self.layer, self.tokens, self.num_datasets = layer, tokens, num_datasets
        self.context = tokens[..., :num_context, :]
        self.asking = tokens[..., num_context:, :] if predicted_only else tokens
        if num_context:
            for_query, for_context = _unpack(layer.attention_in)
            query = for_query(self.asking)
            key, value = for_context(self.context).chunk(2, dim=-1)
            # Attention within a data set and a head: (size * data sets * heads, points, head). The scale, a power of
            # two, comes before the product: it is exact, and large products don't overflow.
            self.query, self.key, self.value = (self._split(part) for part in (query * _SCALE, key, value))
            self.attention = torch.softmax(torch.bmm(self.query, self.key.transpose(1, 2)), dim=-1)
            self.attended = self._join(torch.bmm(self.attention, self.value))
            projected = layer.attention_out(self.attended)
        else:  # attention to nothing is 0
            projected = layer.attention_out.bias.unsqueeze(-2)
        between, self.normed1 = layer.norm1(self.asking + projected)
        self.between = between
        self.hidden = layer.hidden(between)
        self.activated = F.gelu(self.hidden)
        self.result, self.normed2 = layer.norm2(between + layer.output(self.activated))

    def backward(self, grad: _Layer, grad_result: Tensor) -> Tensor:
        """Writes its gradients to `grad` and returns that of `tokens`."""
        layer = self.layer
        grad_sum = layer.norm2.backward(grad.norm2, self.normed2, grad_result)
        grad.output.set_gradients(self.activated, grad_sum)
        grad_hidden = torch.ops.aten.gelu_backward(torch.matmul(grad_sum, layer.output.weight), self.hidden)
        grad.hidden.set_gradients(self.between, grad_hidden)
        layer.hidden.add_input_gradient(grad_sum, grad_hidden)
        grad_asking = layer.norm1.backward(grad.norm1, self.normed1, grad_sum)
        num_context = self.context.shape[-2]
        if not num_context:
            for unused in (*grad.attention_in, grad.attention_out.weight):
                unused.zero_()
            torch.sum(grad_asking, dim=-2, out=grad.attention_out.bias)
            return grad_asking

        grad.attention_out.set_gradients(self.attended, grad_asking)
        grad_attended = self._split(torch.matmul(grad_asking, layer.attention_out.weight))
        grad_value = torch.bmm(self.attention.transpose(1, 2), grad_attended)
        grad_attention = torch.bmm(grad_attended, self.value.transpose(1, 2))
        grad_scores = torch._softmax_backward_data(grad_attention, self.attention, -1, self.attention.dtype)
        grad_query = self._join(torch.bmm(grad_scores, self.key)) * _SCALE
        grad_key = self._join(torch.bmm(grad_scores.transpose(1, 2), self.query))
        grad_key_value = torch.cat([grad_key, self._join(grad_value)], dim=-1)
        for_query, for_context = _unpack(layer.attention_in)
        grad_of_query, grad_of_context = _unpack(grad.attention_in)
        grad_of_query.set_gradients(self.asking, grad_query)
        grad_of_context.set_gradients(self.context, grad_key_value)
        for_query.add_input_gradient(grad_asking, grad_query)
        if self.asking is not self.tokens:
            return torch.cat([torch.matmul(grad_key_value, for_context.weight), grad_asking], dim=-2)
        for_context.add_input_gradient(grad_asking[..., :num_context, :], grad_key_value)
        return grad_asking

    def _split(self, rows: Tensor) -> Tensor:
        """Reshapes `(..., points * data sets, embedding)` to `(... * data sets * heads, points, head)`."""
        *models, num_rows, _ = rows.shape
        num_points = num_rows // self.num_datasets
        points = rows.reshape(*models, num_points, self.num_datasets * HEADS, HEAD)
        return points.transpose(-3, -2).reshape(-1, num_points, HEAD)

    def _join(self, parts: Tensor) -> Tensor:
        """Inverts `_split`."""
        models, num_points = self.tokens.shape[:-2], parts.shape[1]
        parts = parts.view(*models, self.num_datasets * HEADS, num_points, HEAD).transpose(-3, -2)
        return parts.reshape(*models, num_points * self.num_datasets, EMBEDDING)


class _Forward:
    """The forward pass of all models on a batch.

    Args:
        parts: The models' tensors.
        batch: The data.
        num_context: The number of context points.
        for_backward: True to keep the inputs of the backward pass.
    """

    def __init__(self, parts: _Parts, batch: Batch, num_context: int, *, for_backward: bool) -> None:
        self.parts, self.batch = parts, batch
        self.num_context = num_context * batch.num_datasets  # rows
        self.models = parts.x_encoder.weight.shape[:-2]  # () or (size,)
        self.x = batch.x.expand(*self.models, -1, -1)
        self.y = batch.y[: self.num_context].expand(*self.models, -1, -1)
        tokens = parts.x_encoder(self.x)
        tokens[..., : self.num_context, :] += parts.y_encoder(self.y)
        self.layers: list[_LayerForward] = []
        for layer in parts.layers:
            last = layer is parts.layers[-1]
            forward = _LayerForward(layer, tokens, self.num_context, batch.num_datasets, predicted_only=last)
            tokens = forward.result
            if for_backward:
                self.layers.append(forward)
        self.predicted = tokens
        self.hidden = parts.decoder_hidden(tokens)
        self.activated = F.gelu(self.hidden)
        self.log_probabilities = torch.log_softmax(parts.decoder_output(self.activated), dim=-1)
        self.buckets = batch.bucket[self.num_context :].expand(*self.models, -1, -1)
        label_log_probabilities = self.log_probabilities.gather(-1, self.buckets).squeeze(-1)
        losses = batch.offset[self.num_context :] - label_log_probabilities
        self.dataset_losses = losses.view(*self.models, -1, batch.num_datasets).mean(dim=-2)
        self.loss = self.dataset_losses.nanmean(dim=-1)

    def backward(self, grad: _Parts) -> None:
        """Writes the gradients of the losses to `grad`."""
        parts, num_datasets = self.parts, self.batch.num_datasets
        num_points = self.log_probabilities.shape[-2] // num_datasets
        counted = (~self.dataset_losses.isnan()).to(self.dataset_losses.dtype)
        label_weights = counted / (counted.sum(dim=-1, keepdim=True) * num_points)  # equal within a data set
        grad_logits = self.log_probabilities.exp_()
        grad_logits.scatter_add_(-1, self.buckets, grad_logits.new_full(self.buckets.shape, -1.0))
        by_point = grad_logits.view(*self.models, num_points, num_datasets, -1)
        by_point *= label_weights.unsqueeze(-2).unsqueeze(-1)

        grad.decoder_output.set_gradients(self.activated, grad_logits)
        grad_hidden = torch.ops.aten.gelu_backward(torch.matmul(grad_logits, parts.decoder_output.weight), self.hidden)
        grad.decoder_hidden.set_gradients(self.predicted, grad_hidden)
        grad_tokens = torch.matmul(grad_hidden, parts.decoder_hidden.weight)
        for forward, layer_grad in zip(reversed(self.layers), reversed(grad.layers), strict=True):
            grad_tokens = forward.backward(layer_grad, grad_tokens)
        grad.x_encoder.set_gradients(self.x, grad_tokens)
        grad.y_encoder.set_gradients(self.y, grad_tokens[..., : self.num_context, :])
