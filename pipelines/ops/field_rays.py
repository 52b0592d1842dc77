"""What rays see of a field (a density integrated, an sdf's first surface): colour, opacity, z-depth and world normal of each ray."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.field import Field
from .volume_rendering import intersect_box, render_rays

POINTS_AT_ONCE = 1 << 18
BISECTIONS = 10
NORMAL_STEP = 1 / 512  # small: a sharp density saturates within a longer one, and then all directions look alike

Seen = tuple[Tensor, Tensor, Tensor, Tensor]


def trace_density(field: Field, origins: Tensor, directions: Tensor, samples: int) -> Seen:
    """Integrates a density field along rays (R, 3) that are parametrised by z-depth.

    Returns:
        colour (R, 3) premultiplied by opacity, opacity (R,), mean depth (R,) and unit normal (R, 3); the last two are 0 where the
        opacity is below 1/2.
    """
    color, depth, alpha = render_rays(
        origins, directions, field.geometry, field.color, bound=field.bound, samples=samples, fine_samples=samples
    )
    solid = alpha >= 0.5
    depth = torch.where(solid, depth / alpha.clamp(min=0.5), torch.zeros_like(depth))
    normal = torch.zeros_like(directions)
    normal[solid] = -_gradient_direction(field, origins[solid] + depth[solid, None] * directions[solid])
    return color, alpha, depth, normal


def trace_sdf(field: Field, origins: Tensor, directions: Tensor, samples: int) -> Seen:
    """First point inside an sdf field on each ray: 2 x samples even steps, then bisection. Returns as `trace_density`, opacity 0 or 1."""
    near, far, hit = intersect_box(origins, directions, field.bound)
    samples = 2 * samples  # as many evaluations as a density gets, coarse and fine
    steps = torch.linspace(0, 1, samples, device=origins.device)
    inside = torch.zeros(len(origins), samples, dtype=torch.bool, device=origins.device)
    rays_at_once = max(1, POINTS_AT_ONCE // samples)
    for rays in torch.nonzero(hit)[:, 0].split(rays_at_once):
        depths = near[rays, None] + (far - near)[rays, None] * steps
        points = origins[rays, None] + depths[..., None] * directions[rays, None]
        inside[rays] = (field.geometry(points.reshape(-1, 3)) < 0).view(depths.shape)
    rays = torch.nonzero(inside.any(1))[:, 0]
    first = inside[rays].int().argmax(1)
    near, span, origin, direction = near[rays], (far - near)[rays], origins[rays], directions[rays]
    low, high = near + span * steps[(first - 1).clamp(min=0)], near + span * steps[first]
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        within = field.geometry(origin + middle[:, None] * direction) < 0
        low, high = torch.where(within, low, middle), torch.where(within, middle, high)
    points = origin + high[:, None] * direction

    color, normal = torch.zeros_like(origins), torch.zeros_like(origins)
    alpha, depth = torch.zeros_like(origins[:, 0]), torch.zeros_like(origins[:, 0])
    color[rays], normal[rays] = field.color(points).to(color), _gradient_direction(field, points)
    alpha[rays], depth[rays] = 1.0, high
    return color, alpha, depth, normal


def _gradient_direction(field: Field, points: Tensor) -> Tensor:
    """Unit gradient of the field's geometry (N, 3), by central differences."""
    step = NORMAL_STEP * field.bound * torch.eye(3, device=points.device)
    ahead, behind = points[:, None] + step, points[:, None] - step
    values = field.geometry(torch.stack([ahead, behind]).reshape(-1, 3)).view(2, -1, 3)
    return F.normalize(values[0] - values[1], dim=-1)
