"""Fields to pictures: density integrated along rays, or the first point inside a signed distance."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..data.cameras import Cameras
from ..data.field import Field
from ..data.progress import Tick, no_tick
from ..ops import camera_math, field_rays
from .mesh import to_pixels
from .views import RenderedViews, preview_of, requested_cameras

RAYS_AT_ONCE = 4096


def render_field(
    field: Field,
    cameras: Cameras,
    height: int,
    width: int,
    *,
    background: Sequence[float] = (1.0, 1.0, 1.0),
    samples: int = 64,
    supersample: int = 1,
    device: torch.device | str = "cpu",
    tick: Tick = no_tick,
) -> RenderedViews:
    """Renders a field inside its cube.

    A density is integrated along each ray (`samples` even samples and as many where they matter); masks are the opacity, depth
    and normals are those of the mean depth where the opacity is at least 1/2. An sdf is searched for its first sign change in
    2 x `samples` even steps, which is then bisected: sharp, but parts thinner than a step can be missed, and masks are binary
    unless `supersample=2`. Not differentiable (for training see `ops.volume`).

    Args and errors: as for `render_mesh`; `tick` is called after each chunk of rays.
    """
    cameras = requested_cameras(cameras, height, width, supersample)
    device = torch.device(device)
    field = field.to(device)
    trace = field_rays.trace_density if field.kind == "density" else field_rays.trace_sdf
    rows, columns = height * supersample, width * supersample
    shade = torch.tensor(list(background), dtype=torch.float32, device=device)
    chunks = -(-rows * columns // RAYS_AT_ONCE)
    views = []
    with torch.no_grad():
        for index in range(cameras.n_views):
            one = cameras.select([index])
            origins, directions = camera_math.rays(one.c2w.to(device), one.K.to(device), rows, columns)
            parts = []
            pairs = zip(origins.reshape(-1, 3).split(RAYS_AT_ONCE), directions.reshape(-1, 3).split(RAYS_AT_ONCE), strict=True)
            for number, (o, d) in enumerate(pairs, start=1):
                parts.append(trace(field, o, d, samples))
                if number < chunks:
                    tick(index * chunks + number, cameras.n_views * chunks, None)
            color, alpha, depth, normal = (torch.cat(part) for part in zip(*parts, strict=True))
            alpha, depth = alpha[:, None], depth[:, None]
            picture = torch.cat([color + (1 - alpha) * shade, alpha, depth, normal @ one.c2w[0, :3, :3].to(device)], dim=-1)
            fine = picture.T.reshape(1, 8, rows, columns).split([3, 1, 1, 3], dim=1)
            views.append([part.cpu() for part in to_pixels(fine, supersample)])
            tick((index + 1) * chunks, cameras.n_views * chunks, preview_of(views[-1][0]))
    return RenderedViews(*(torch.cat(parts) for parts in zip(*views, strict=True)))
