"""3D Gaussians seen by pinhole cameras: their 2D Gaussians on the screen (EWA splatting, Zwicker et al. 2001, as in Kerbl et al. 2023).

Cameras are OpenCV's here: x right, y down, z forward; pixel centres lie at +0.5.
"""

from __future__ import annotations

from math import log
from typing import NamedTuple

import torch
from torch import Tensor

from ..quaternions import rotation_matrices

ALPHA_MIN = 1 / 255
"""Below this a Gaussian does not touch a pixel."""
FRUSTUM_MARGIN = 0.3
"""The Jacobian is taken at most this share of half the field of view outside the frustum; beyond, the affine approximation explodes."""


class Projected(NamedTuple):
    """N Gaussians on the screens of C cameras. Where radii are 0 the other numbers are finite and mean nothing.

    Attributes:
        means2d: (C, N, 2) centres, pixels.
        depths: (C, N) z-depth of the centres.
        conics: (C, N, 3) inverse 2D covariances (xx, xy, yy), per pixel squared.
        opacities: (C, N), times the antialiasing factor where that is asked for.
        radii: (C, N, 2) int32 half sizes of the box where alpha reaches 1/255, rounded up; 0 where nothing is seen.
    """

    means2d: Tensor
    depths: Tensor
    conics: Tensor
    opacities: Tensor
    radii: Tensor


def project(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    near: float,
    far: float,
    eps2d: float,
    antialiased: bool,
) -> Projected:
    """The obvious form, differentiable with respect to the first four; arguments as for `dispatch.render_gaussians`."""
    axes = rotation_matrices(quats) * scales[:, None, :]
    turn = viewmats[:, None, :3, :3]
    camera = (turn @ means[None, :, :, None])[..., 0] + viewmats[:, None, :3, 3]
    depths = camera[..., 2]
    ahead = (depths > near) & (depths < far)
    z = torch.where(ahead, depths, 1.0)
    slope = torch.where(ahead[..., None], camera[..., :2], 0.0) / z[..., None]
    focal = torch.stack([Ks[:, 0, 0], Ks[:, 1, 1]], dim=-1)[:, None]
    centre = Ks[:, None, :2, 2]
    means2d = focal * slope + centre

    size = torch.tensor([width, height], dtype=means.dtype, device=means.device)
    margin = FRUSTUM_MARGIN * 0.5 * size / focal
    near_edge = torch.clamp(slope, -centre / focal - margin, (size - centre) / focal + margin)
    scale = focal / z[..., None]
    jacobian = torch.cat([torch.diag_embed(scale), (-scale * near_edge)[..., None]], dim=-1)
    screen_axes = jacobian @ (turn @ axes)
    covariance = screen_axes @ screen_axes.transpose(-1, -2)
    sharp = covariance[..., 0, 0] * covariance[..., 1, 1] - covariance[..., 0, 1] ** 2
    xx, yy, xy = covariance[..., 0, 0] + eps2d, covariance[..., 1, 1] + eps2d, covariance[..., 0, 1]
    determinant = xx * yy - xy * xy
    drawable = ahead & (determinant > 0)
    safe = torch.where(drawable, determinant, 1.0)
    conics = torch.stack([yy / safe, -xy / safe, xx / safe], dim=-1)
    shown = opacities.expand(len(viewmats), -1)
    if antialiased:
        shown = shown * antialiasing(sharp, safe)

    with torch.no_grad():
        reach = 2 * (torch.log(shown.clamp(min=1e-12)) - log(ALPHA_MIN))  # squared Mahalanobis distance at which alpha is 1/255
        extent = (reach.clamp(min=0)[..., None] * torch.stack([xx, yy], dim=-1)).clamp(min=0).sqrt()
        inside = ((means2d + extent > 0) & (means2d - extent < size)).all(-1)
        seen = drawable & (reach > 0) & inside
        # A box far larger than any picture says no more than one of 2^24 pixels, which float32 still counts exactly.
        radii = torch.where(seen[..., None], extent.ceil().clamp(max=2.0**24), 0.0).to(torch.int32)
    return Projected(means2d, depths, conics, shown, radii)


def antialiasing(sharp: Tensor, blurred: Tensor) -> Tensor:
    """How much fainter a Gaussian must be so that adding eps2d to its covariance adds no light (Mip-Splatting, Yu et al. 2024).

    Args:
        sharp, blurred: determinants of the 2D covariance before and after.
    """
    return (sharp / blurred).clamp(min=1e-6).sqrt()
