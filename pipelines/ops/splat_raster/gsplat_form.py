"""Gaussians drawn by gsplat (Ye et al. 2024) on CUDA.

Its first call may build its kernels, which takes minutes and needs nvcc. Its rounding differs a little from ours, and so does its alpha
clamp from version to version: 0.999 up to 1.5, 0.99 after.
"""

from __future__ import annotations

import gsplat  # type: ignore[import-not-found]
import torch
from torch import Tensor

ATOMICS = True
"""Gradients are summed by atomic additions: not the same bits at each run."""
ALPHA_MAX = 0.99
"""The lowest alpha clamp of its versions."""


def draw(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, features: Tensor, viewmats: Tensor, Ks: Tensor,
    width: int, height: int, *, near: float, far: float, eps2d: float, antialiased: bool, absgrad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """See `torch_form.draw`. `packed=False` keeps one row per camera and Gaussian in what densification reads."""
    views, n = len(viewmats), len(means)
    if not n:
        empty = means.new_zeros(views, height, width, features.shape[-1] + 2)
        blended, depth, alpha = empty.split([features.shape[-1], 1, 1], dim=-1)
        return blended, depth, alpha, means[None, :, :2].expand(views, -1, -1), torch.zeros(views, 0, 2, dtype=torch.int32).to(means.device)
    picture, alpha, facts = gsplat.rasterization(
        means, quats, scales, opacities, features.expand(views, -1, -1).contiguous(), viewmats, Ks, width, height,
        near_plane=near, far_plane=far, eps2d=eps2d, packed=False, render_mode="RGB+D", absgrad=absgrad,
        rasterize_mode="antialiased" if antialiased else "classic",
    )  # fmt: skip
    blended, depth = picture.split([features.shape[-1], 1], dim=-1)
    radii = facts["radii"]
    if radii.ndim == 2:  # before 1.5: one radius for both axes
        radii = radii[..., None].expand(-1, -1, 2)
    drawn = (radii > 0).all(-1, keepdim=True)
    return blended, depth, alpha, facts["means2d"], torch.where(drawn, radii, 0).to(torch.int32)
