"""Differentiable rasterisation of 3D Gaussians (Kerbl et al. 2023): colour, alpha, depth and any further channels in one pass.

Every backend draws the same picture: a Gaussian touches the pixels where its alpha is at least 1/255, alpha is clamped to 0.999, and
a pixel is finished when no more than 1e-4 of the light would be left.

Forms, chosen by `choose_backend`: on CUDA gsplat, else Lathe's own CUDA kernels, else numba's on the CPU (tensors of other devices are
copied there and back, which costs little beside the many small operations of the PyTorch form); elsewhere numba; at last the PyTorch form
on the device. float64 is for tests: the PyTorch form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from ...data.cameras import Cameras
from .. import camera_math, spherical_harmonics
from ..choose_backend import SPLAT, choose
from . import torch_form

__all__ = ["Rendered", "backend_for", "render_gaussians", "splat_cameras"]


@dataclass(frozen=True)
class Rendered:
    """C pictures of N Gaussians, channels last, in the dtype and on the device of the Gaussians.

    Attributes:
        color: (C, H, W, D), over the background where one was given.
        alpha: (C, H, W, 1) in [0, 1].
        depth: (C, H, W, 1) sum of weight times z-depth: not divided by alpha.
        extra: (C, H, W, E) the further channels, over 0; None where none were given.
        means2d: (C, N, 2) centres in pixels. After `means2d.retain_grad()` backward leaves their gradients there; with `absgrad`
            also the sums of the absolute gradients of the pixels in `means2d.absgrad`.
        radii: (C, N, 2) int32 half sizes in pixels of what is drawn, (0, 0) for Gaussians that are not seen.
    """

    color: Tensor
    alpha: Tensor
    depth: Tensor
    extra: Tensor | None
    means2d: Tensor
    radii: Tensor


def splat_cameras(cameras: Cameras, height: int, width: int) -> tuple[Tensor, Tensor]:
    """World-to-camera matrices (C, 4, 4) in OpenCV's axes and pixel intrinsics (C, 3, 3) of the cameras of one asset.

    Raises:
        ValueError: the cameras of several assets.
    """
    if cameras.n_assets is not None:
        raise ValueError(f"Splats are drawn with the cameras of one asset, not those of {cameras.n_assets}: take cameras.of_asset(index).")
    flip = torch.tensor([1.0, -1.0, -1.0, 1.0])
    viewmats = flip[:, None] * camera_math.world_to_camera(cameras.c2w)
    Ks = torch.zeros(cameras.n_views, 3, 3)
    Ks[:, 0, 0], Ks[:, 0, 2] = cameras.K[:, 0] * width, cameras.K[:, 2] * width
    Ks[:, 1, 1], Ks[:, 1, 2] = cameras.K[:, 1] * height, cameras.K[:, 3] * height
    Ks[:, 2, 2] = 1
    return viewmats, Ks


def backend_for(device: torch.device) -> ModuleType:
    """The form in use on a device."""
    return choose(SPLAT, device)


def render_gaussians(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    sh_degree: int | None = None,
    extra: Tensor | None = None,
    near: float = 0.01,
    far: float = 1e10,
    eps2d: float = 0.3,
    antialiased: bool = False,
    background: Tensor | None = None,
    absgrad: bool = False,
) -> Rendered:
    """Draws N Gaussians with C cameras, differentiable with respect to the first five arguments and extra.

    Args:
        means: (N, 3) centres, world.
        quats: (N, 4) rotations, w first, of any length above 0.
        scales: (N, 3) standard deviations, linear.
        opacities: (N,) in [0, 1].
        colors: (N, D) colours as they are, or (N, K, 3) spherical harmonics where sh_degree is given.
        viewmats: (C, 4, 4) world to camera, rigid, OpenCV's axes (x right, y down, z forward).
        Ks: (C, 3, 3) intrinsics in pixels, without skew.
        width, height: pixels.
        sh_degree: 0 to 3, at most what colors hold.
        extra: (N, E), or (C, N, E) where each camera has its own: blended in the same pass.
        near, far: centres outside are not drawn, world units.
        eps2d: added to the 2D variances, pixels squared.
        antialiased: makes small Gaussians fainter by as much as eps2d makes them larger.
        background: (D,) colour behind everything.
        absgrad: also sum absolute gradients, see `Rendered`.

    Raises:
        ValueError: shapes that do not fit together, a size below 1, numbers that are not finite.
    """
    degree = _check(means, quats, scales, opacities, colors, viewmats, Ks, width, height, sh_degree, extra, background)
    viewmats, Ks = viewmats.to(means), Ks.to(means)
    seen = colors[None] if degree is None else spherical_harmonics.colors(colors, means, viewmats, degree)
    features = seen
    if extra is not None:
        views = len(viewmats) if len(seen) > 1 or extra.ndim == 3 else 1
        features = torch.cat([part.expand(views, -1, -1) for part in (seen, extra if extra.ndim == 3 else extra[None])], dim=-1)
    backend = backend_for(means.device) if means.dtype == torch.float32 else torch_form
    options = {"near": near, "far": far, "eps2d": eps2d, "antialiased": antialiased, "absgrad": absgrad}
    blended, depth, alpha, means2d, radii = backend.draw(means, quats, scales, opacities, features, viewmats, Ks, width, height, **options)
    color, rest = blended.split([seen.shape[-1], features.shape[-1] - seen.shape[-1]], dim=-1)
    if background is not None:
        color = color + (1 - alpha) * background.to(color)
    return Rendered(color, alpha, depth, None if extra is None else rest, means2d, radii)


def _check(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    sh_degree: int | None,
    extra: Tensor | None,
    background: Tensor | None,
) -> int | None:
    """Refuses what cannot be drawn; returns the degree of the spherical harmonics, None where there are none."""
    n, views = len(means), len(viewmats)
    expected = {
        "means": (means, (n, 3)),
        "quats": (quats, (n, 4)),
        "scales": (scales, (n, 3)),
        "opacities": (opacities, (n,)),
        "viewmats": (viewmats, (views, 4, 4)),
        "Ks": (Ks, (views, 3, 3)),
    }
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"render_gaussians: {name} must have shape {shape}, not {tuple(tensor.shape)}.")
    if sh_degree is None:
        if colors.ndim != 2 or len(colors) != n:
            raise ValueError(f"render_gaussians: colors must be ({n}, D), or ({n}, K, 3) with sh_degree, not {tuple(colors.shape)}.")
        channels = colors.shape[1]
    else:
        channels, terms = 3, (sh_degree + 1) ** 2
        if colors.ndim != 3 or len(colors) != n or colors.shape[2] != 3 or colors.shape[1] < terms:
            raise ValueError(
                f"render_gaussians: spherical harmonics of degree {sh_degree} must have shape ({n}, {terms} or more, 3), "
                f"not {tuple(colors.shape)}."
            )
    if extra is not None and (extra.ndim not in (2, 3) or extra.shape[-2] != n or (extra.ndim == 3 and len(extra) != views)):
        raise ValueError(f"render_gaussians: extra must have shape ({n}, E) or ({views}, {n}, E), not {tuple(extra.shape)}.")
    if background is not None and tuple(background.shape) != (channels,):
        raise ValueError(f"render_gaussians: background must have shape ({channels},), not {tuple(background.shape)}.")
    if width < 1 or height < 1:
        raise ValueError(f"render_gaussians: a picture needs at least 1 x 1 pixels, not {width} x {height}.")
    given = {name: tensor for name, (tensor, _) in expected.items()} | {"colors": colors}
    if extra is not None:
        given["extra"] = extra
    with torch.no_grad():  # a sum is finite only if all it adds is: one pass, and one wait for the device
        if not math.isfinite(sum(tensor.sum().to(means.device) for tensor in given.values())):
            for name, tensor in given.items():
                if not torch.isfinite(tensor).all():
                    raise ValueError(f"render_gaussians: {name} hold NaN or infinite numbers.")
    return sh_degree
