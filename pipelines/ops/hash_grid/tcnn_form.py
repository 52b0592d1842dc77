"""Hash encoding by tiny-cuda-nn: one of its grids for each level, because its own placing of several levels shares border corners.

tiny-cuda-nn puts x at x * (resolution - 1) + 0.5 among `resolution` corners. With R + 1 corners and x moved by half a cell, that is this
project's placing; rows, primes and smoothstep are the same. Gradients are summed by atomic additions: not the same bits at each run.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import tinycudann
import torch
from torch import Tensor
from torch.func import functional_call

if TYPE_CHECKING:
    from .layout import HashLayout

ATOMICS = True
"""Gradients are summed by atomic additions: not the same bits at each run."""


@lru_cache(maxsize=64)
def _level(resolution: int, rows: int, dense: bool) -> torch.nn.Module:
    config = {
        "otype": "Grid",
        "type": "Dense" if dense else "Hash",
        "n_levels": 1,
        "n_features_per_level": 2,
        "log2_hashmap_size": rows.bit_length() - 1,
        "base_resolution": resolution + 1,
        "interpolation": "Smoothstep",
    }
    return tinycudann.Encoding(3, config, dtype=torch.float32)


def encode(table: Tensor, points: Tensor, layout: HashLayout, levels: int) -> Tensor:
    """See `torch_form.encode`."""
    unit = (points.clamp(-1, 1) + 1) / 2
    made = [table.new_zeros((len(points), 0))]
    for level in range(levels):
        start, end, resolution = layout.starts[level], layout.starts[level + 1], layout.resolutions[level]
        grid = _level(resolution, end - start, layout.dense[level])
        made.append(functional_call(grid, {"params": table[start:end].reshape(-1)}, (unit - 0.5 / resolution,)))
    return torch.cat(made, dim=1)
