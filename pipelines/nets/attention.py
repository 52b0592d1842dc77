"""Scaled dot-product attention as a plain function, so that a host or a training loop can bring its own."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(Protocol):
    """softmax(q k^T / sqrt(d)) v without a mask: (B, heads, Nq, d), (B, heads, Nk, d), (B, heads, Nk, d) -> (B, heads, Nq, d)."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attends; keeps q's dtype."""
        ...


def torch_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """PyTorch's fused kernel: never holds the (Nq, Nk) matrix."""
    return F.scaled_dot_product_attention(q, k, v)


def explicit_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The equation spelled out: faster than the fused kernel in a backward pass on CPU at a few hundred tokens."""
    return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1) @ v


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, heads*d) -> (B, heads, N, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, heads, N, d) -> (B, N, heads*d)."""
    return x.transpose(1, 2).flatten(-2)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b in x's dtype, whatever dtype the weights rest in."""
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


class Linear(nn.Linear):
    """nn.Linear that computes in its input's dtype: the caller chooses the precision, the stored weights stay as they are."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return linear(x, self.weight, self.bias)


class LayerNorm(nn.LayerNorm):
    """nn.LayerNorm in float32: the residual stream of a network that multiplies in half precision stays in single."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) float32 -> the same."""
        return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)
