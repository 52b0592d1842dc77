"""Rotary position embedding of points on a 3D grid (Su et al. 2021; GeoLRM section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor

BASE = 10000.0


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Turns queries or keys by their positions, so that their products depend on differences of positions only.

    The channels of a head are three equal parts, one an axis; inside a part the first half and the second are the two components that
    pair i turns by position * BASE^(-i / pairs).

    Args:
        x: (B, heads, N, d), d a multiple of 6.
        positions: (B, N, 3) integers.

    Returns:
        (B, heads, N, d) in x's dtype; the turn itself is computed in float32.
    """
    if x.shape[-1] % 6:
        raise ValueError(f"A 3D rotary embedding needs channels in multiples of 6 a head, not {x.shape[-1]}.")
    pairs = x.shape[-1] // 6
    frequency = BASE ** (-torch.arange(pairs, dtype=torch.float32, device=x.device) / pairs)
    angle = positions[:, None, :, :, None].float() * frequency  # (B, 1, N, 3, pairs)
    cos, sin = angle.cos(), angle.sin()
    u, v = x.float().unflatten(-1, (3, 2, pairs)).unbind(-2)
    return torch.stack([u * cos - v * sin, v * cos + u * sin], dim=-2).flatten(-3).to(x.dtype)
