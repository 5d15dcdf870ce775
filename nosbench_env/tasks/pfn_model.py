"""The Prior-Data Fitted Network: a small transformer that learns in context."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EMBEDDING, HEADS, HIDDEN, LAYERS = 256, 4, 512, 4


class PFN(nn.Module):
    """A transformer that predicts points from labelled ones, the context.

    This is the paper's model: 56 tensors, 2,292,324 parameters. Modules are built in the order of its code, so that the
    same seed gives the same weights to the last bit (weights come from torch's global generator). Attention is computed
    in one call over all points, which is exact up to rounding (outputs differ by less than 1e-6).

    Args:
        num_features: The number of features of a point.
        num_outputs: The number of buckets of the predicted distribution.
    """

    def __init__(self, num_features: int, num_outputs: int) -> None:
        super().__init__()
        self.x_encoder = nn.Linear(num_features, EMBEDDING)
        layer = nn.TransformerEncoderLayer(EMBEDDING, HEADS, HIDDEN, dropout=0.0, activation="gelu")
        for linear in (layer.self_attn.out_proj, layer.linear2):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        # The layers are equal at the start, as in the paper's code.
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(LAYERS))
        self.y_encoder = nn.Linear(1, EMBEDDING)
        self.decoder = nn.Sequential(nn.Linear(EMBEDDING, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, num_outputs))

    def forward(self, x: Tensor, y: Tensor, num_context: int) -> Tensor:
        """Predicts the points after the context.

        Args:
            x: `(points, data sets, features)`, uniform in [0, 1].
            y: `(points, data sets)`; only the first `num_context` are read.
            num_context: The number of labelled points, from 0 to points - 1.

        Returns:
            Logits over the buckets, `(points - num_context, data sets, outputs)`.
        """
        tokens = self.x_encoder(standardise(x))
        context = tokens[:num_context] + self.y_encoder(y[:num_context].unsqueeze(-1))
        tokens = torch.cat([context, tokens[num_context:]])
        for layer in self.layers:
            assert isinstance(layer, nn.TransformerEncoderLayer)
            tokens = _layer(layer, tokens, num_context)
        logits: Tensor = self.decoder(tokens[num_context:])
        return logits


def standardise(x: Tensor) -> Tensor:
    """Scales inputs, uniform in [0, 1], to mean 0 and variance 1."""
    return (x - 0.5) / math.sqrt(1 / 12)


def _layer(layer: nn.TransformerEncoderLayer, tokens: Tensor, num_context: int) -> Tensor:
    """Applies a post-norm layer with attention to the context alone."""
    tokens = layer.norm1(tokens + _attention(layer.self_attn, tokens, num_context))
    hidden: Tensor = layer.norm2(tokens + layer.linear2(F.gelu(layer.linear1(tokens))))
    return hidden


def _attention(attention: nn.MultiheadAttention, tokens: Tensor, num_context: int) -> Tensor:
    """Applies multi-head attention of all tokens `(points, data sets, embedding)` to the first `num_context`."""
    points, datasets, _ = tokens.shape
    packed = F.linear(tokens, attention.in_proj_weight, attention.in_proj_bias)
    # (points, data sets, 3 * embedding) -> three of (data sets, heads, points, embedding / heads)
    heads = packed.view(points, datasets, 3, HEADS, EMBEDDING // HEADS).permute(2, 1, 3, 0, 4)
    query, key, value = heads[0], heads[1][:, :, :num_context], heads[2][:, :, :num_context]
    # Attention to an empty context is exactly 0. Computed from `query`, it gives every parameter a gradient (of zeros),
    # so that an optimizer counts the step for each of them, as in the paper's code.
    attended = F.scaled_dot_product_attention(query, key, value) if num_context else query * 0.0
    projected: Tensor = attention.out_proj(attended.permute(2, 0, 1, 3).reshape(points, datasets, EMBEDDING))
    return projected
