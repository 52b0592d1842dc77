"""Splats to pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ..data.cameras import Cameras
from ..data.progress import Tick, no_tick
from ..data.splats import Splats
from ..ops.quaternions import rotation_matrices
from ..ops.splat_raster.dispatch import render_gaussians, splat_cameras
from .mesh import to_pixels
from .views import RenderedViews, preview_of, requested_cameras


def render_splats(
    splats: Splats,
    cameras: Cameras,
    height: int,
    width: int,
    *,
    background: Sequence[float] = (1.0, 1.0, 1.0),
    supersample: int = 1,
    device: torch.device | str = "cpu",
    tick: Tick = no_tick,
) -> RenderedViews:
    """Renders 3D Gaussians; masks are their opacity.

    Depth is the mean of the Gaussians' centres, weighted as the colours are. The normal of a Gaussian is its shortest axis, turned to the
    camera; a pixel's is their weighted mean. Both are 0 where the opacity is below 1/2. Differentiable with respect to the splats' tensors.
    No Gaussians give the background.

    Args and errors: as for `render_mesh`.
    """
    cameras = requested_cameras(cameras, height, width, supersample)
    device = torch.device(device)
    rows, columns = height * supersample, width * supersample
    viewmats, Ks = splat_cameras(cameras, rows, columns)
    means, scales, quats = (part.to(device) for part in (splats.positions, splats.scales, splats.rotations))
    opacities, sh = splats.opacities.to(device), splats.sh.to(device)
    shortest = scales.argmin(dim=-1)[:, None, None].expand(-1, 3, 1)
    axis = rotation_matrices(quats).gather(-1, shortest)[..., 0]
    shade = torch.tensor(list(background), dtype=torch.float32, device=device)
    views = []
    for index in range(cameras.n_views):
        c2w = cameras.c2w[index].to(device)
        away = (axis * (means - c2w[:3, 3])).sum(-1, keepdim=True) > 0
        drawn = render_gaussians(
            means, quats, scales, opacities, sh, viewmats[index, None], Ks[index, None], columns, rows,
            sh_degree=splats.degree, extra=torch.where(away, -axis, axis) @ c2w[:3, :3], background=shade,
        )  # fmt: skip
        assert drawn.extra is not None
        solid = drawn.alpha >= 0.5
        depth = torch.where(solid, drawn.depth / drawn.alpha.clamp(min=0.5), 0.0)
        normal = torch.where(solid, F.normalize(drawn.extra, dim=-1), 0.0)
        fine = [part.permute(0, 3, 1, 2) for part in (drawn.color.clamp(0, 1), drawn.alpha.clamp(0, 1), depth, normal)]
        views.append([part.cpu() for part in to_pixels(fine, supersample)])
        tick(index + 1, cameras.n_views, preview_of(views[-1][0]))
    return RenderedViews(*(torch.cat(parts) for parts in zip(*views, strict=True)))
