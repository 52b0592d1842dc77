"""Depth and normals as pictures for people and for ControlNets."""

from __future__ import annotations

from torch import Tensor


def depth_pictures(depths: Tensor) -> Tensor:
    """Depths (N, 1, H, W), 0 on the background, as grey (N, 3, H, W): each view's nearest point white, its farthest black.

    The background is black, too. A view without depth, or all at one distance, is black where there is nothing and white elsewhere.
    """
    covered = depths > 0
    far = depths.flatten(1).amax(1).reshape(-1, 1, 1, 1)
    near = depths.where(covered, far).flatten(1).amin(1).reshape(-1, 1, 1, 1)
    grey = 1 - (depths - near) / (far - near).clamp_min(1e-12)
    return grey.where(covered, grey.new_zeros(())).clamp(0, 1).expand(-1, 3, -1, -1)


def normal_pictures(normals: Tensor) -> Tensor:
    """Camera-space normals (N, 3, H, W), 0 on the background, as colours (n + 1) / 2: the background is middle grey."""
    return ((normals + 1) / 2).clamp(0, 1)
