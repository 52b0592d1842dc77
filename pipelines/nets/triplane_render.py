"""The volume renderer the NeRF variants were trained with, number for number (InstantMesh section 3.2, stage 1; after EG3D).

`pipelines/rendering` is how pictures are made; this one serves to compare with the published networks, and to train them on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops.coordinate_frames.instantmesh import to_triplane
from ..ops.volume_rendering import blur_weights, composite, sample_pdf
from .triplane_field import TriplaneField, activate_color, activate_density, sample_planes

_OUTSIDE = torch.finfo(torch.float32).min / 3


@dataclass(frozen=True)
class Draws:
    """The random numbers of one rendering, both in [0, 1).

    Attributes:
        jitter: (R, S) shifts of the coarse samples, in steps. The published networks take half their samples per ray each time.
        uniform: (R, S) where in the coarse weights' distribution the fine samples fall.
    """

    jitter: Tensor
    uniform: Tensor

    @classmethod
    def random(cls, n_rays: int, samples: int, generator: torch.Generator) -> Draws:
        """As the published code draws them from a seeded generator: the jitter sample by sample, then the rest ray by ray."""
        return cls(torch.rand(samples, n_rays, generator=generator).T, torch.rand(n_rays, samples, generator=generator))

    @classmethod
    def even(cls, n_rays: int, samples: int) -> Draws:
        """No jitter, and fine samples at even shares."""
        return cls(torch.zeros(n_rays, samples), torch.linspace(0, 1, samples).expand(n_rays, samples))


def _enter_and_leave(origins: Tensor, directions: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave the cube. Multiplies by the reciprocal as the published code does: without jitter, the first and the
    last sample lie on the cube's faces, and the last bit decides whether they count as inside."""
    inverse = 1 / directions
    low, high = (-bound - origins) * inverse, (bound - origins) * inverse
    return torch.minimum(low, high).amax(-1), torch.maximum(low, high).amin(-1)


def render_rays_as_trained(field: TriplaneField, origins: Tensor, directions: Tensor, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
    """Colour on white (R, 3), depth (R,) and opacity (R,) of world rays with unit directions (R, 3), through a density field.

    Depth is along the ray, weighted by opacity and not divided by it, and kept within the range of all samples. Rays that miss the cube
    are sampled between the nearest and the farthest entry of the others, where nothing is.
    """
    if field.kind != "density":
        raise ValueError("Only the NeRF variants are rendered through a density; this field is a signed distance.")
    samples = draws.jitter.shape[1]
    near, far = _enter_and_leave(origins, directions, field.bound)
    hit = far > near
    if bool(hit.any()):
        near, far = torch.where(hit, near, near[hit].min()), torch.where(hit, far, near[hit].max())
    steps = torch.arange(samples, dtype=near.dtype) / (samples - 1)
    coarse = near[:, None] + (far - near)[:, None] * (steps + draws.jitter / (samples - 1))

    def look(depths: Tensor) -> tuple[Tensor, Tensor]:
        points = origins[:, None] + depths[..., None] * directions[:, None]
        inside = (points.abs() <= field.bound).all(dim=-1)
        out = field.decoder.net(sample_planes(field.planes[None], to_triplane(points).flatten(0, 1)[None])[0])
        raw, color = out[:, 0].view(inside.shape), activate_color(out[:, 1:]).view(*inside.shape, 3)
        return torch.where(inside, raw, _OUTSIDE), torch.where(inside[..., None], color, 0.0)

    raw, color = look(coarse)
    with torch.no_grad():
        weights = composite(coarse, raw, color, activation=activate_density).weights
        middles = 0.5 * (coarse[:, 1:] + coarse[:, :-1])
        # the published edges lie one interval before the weights they belong to
        fine = sample_pdf(middles[:, :-1], blur_weights(weights)[:, 1:-1], draws.uniform)
    fine_raw, fine_color = look(fine)
    depths, order = torch.cat([coarse, fine], dim=1).sort(dim=1)
    raw = torch.cat([raw, fine_raw], dim=1).gather(1, order)
    color = torch.cat([color, fine_color], dim=1).gather(1, order[..., None].expand(-1, -1, 3))
    seen = composite(depths, raw, color, activation=activate_density)
    depth = seen.depth.clamp(depths.min(), depths.max())
    return seen.color + (1 - seen.alpha)[:, None], depth, seen.alpha
