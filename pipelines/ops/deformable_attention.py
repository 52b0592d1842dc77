"""Deformable attention from points of space to the feature maps of posed pictures (GeoLRM section 3.2; Zhu et al. 2021).

A point looks at a few places around its projection in a picture, at every level of its feature maps, and takes their weighted mean.
Work goes view by view and in chunks of points: nothing of size views x points x heads is ever held at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_levels(levels: Sequence[Tensor], locations: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean of bilinear samples, for one picture.

    Args:
        levels: maps (heads, d, H_l, W_l), one a level; 0 outside.
        locations: (heads, N, L, K, 2) places in [0, 1], x right and y down, of K samples at each of L levels.
        weights: (heads, N, L, K), their sum over levels and samples is 1.

    Returns:
        (heads, N, d) float32: half precision could not tell neighbouring pixels of a picture apart.
    """
    total: Tensor | None = None
    for index, level in enumerate(levels):
        grid = locations[:, :, index].float() * 2 - 1
        sampled = F.grid_sample(level.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)  # (heads, d, N, K)
        part = torch.einsum("hdnk,hnk->hnd", sampled, weights[:, :, index].float())
        total = part if total is None else total + part
    if total is None:
        raise ValueError("Deformable attention needs at least one level of features.")
    return total


def bytes_per_point(heads: int, dim: int, levels: int, samples: int, size: int = 4) -> int:
    """Working memory of one point in `sample_levels` and the predictions before it, for `dim` channels over all heads."""
    return size * (2 * samples * dim + 6 * heads * levels * samples + 4 * dim)
