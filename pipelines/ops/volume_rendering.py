"""Volume rendering along rays (Mildenhall et al. 2020, arXiv 2003.08934; Max 1995), with coarse and fine samples.

The integral is taken between consecutive samples, with the mean density and colour of the two: n samples give n - 1 intervals.
Fine samples are drawn where the coarse weights are, after the max and mean filter of mip-NeRF (Barron et al. 2021, eq. 18).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Composited:
    """What R rays see: color (R, C) premultiplied by alpha, depth (R,) = sum of weight x depth, alpha (R,), weights (R, S - 1)."""

    color: Tensor
    depth: Tensor
    alpha: Tensor
    weights: Tensor


def intersect_box(origins: Tensor, directions: Tensor, bound: float) -> tuple[Tensor, Tensor, Tensor]:
    """Where rays (R, 3) enter and leave the cube [-bound, bound]^3, in units of their directions.

    Returns:
        near (R,) >= 0, far (R,) >= near, and hit (R,) bool; near = far = 0 where the ray misses the cube.
    """
    safe = torch.where(directions.abs() < 1e-12, torch.full_like(directions, 1e-12), directions)
    low, high = (-bound - origins) / safe, (bound - origins) / safe
    near = torch.minimum(low, high).amax(-1).clamp(min=0)
    far = torch.maximum(low, high).amin(-1)
    hit = far > near
    zero = torch.zeros_like(near)
    return torch.where(hit, near, zero), torch.where(hit, far, zero), hit


def stratified(near: Tensor, far: Tensor, samples: int, generator: torch.Generator | None = None) -> Tensor:
    """One depth in each of `samples` equal bins of [near, far] (R,): at random with a generator, else the bins' middles. (R, S)."""
    steps = torch.arange(samples, device=near.device, dtype=near.dtype).expand(len(near), samples)
    offset = 0.5 if generator is None else torch.rand(steps.shape, generator=generator, dtype=near.dtype).to(near.device)
    return near[:, None] + (far - near)[:, None] * (steps + offset) / samples


def blur_weights(weights: Tensor, floor: float = 0.01) -> Tensor:
    """Weights (R, S) spread to their neighbours, so that fine samples also fall just before a surface (mip-NeRF, eq. 18)."""
    padded = torch.nn.functional.pad(weights[:, None], (1, 1), mode="replicate")[:, 0]
    peak = torch.maximum(padded[:, :-1], padded[:, 1:])
    return 0.5 * (peak[:, :-1] + peak[:, 1:]) + floor


def sample_pdf(edges: Tensor, weights: Tensor, uniform: Tensor, epsilon: float = 1e-5) -> Tensor:
    """Draws from the piecewise constant density with the given weights, by inverting its cumulative sum.

    Args:
        edges: (R, S + 1) ascending bin edges.
        weights: (R, S) not negative; epsilon is added to each, so that a ray without any weight is sampled evenly.
        uniform: (R, N) numbers in [0, 1]: random ones, or evenly spaced ones for a deterministic choice.

    Returns:
        (R, N), ascending where `uniform` is.
    """
    share = weights + epsilon
    share = share / share.sum(-1, keepdim=True)
    cumulative = torch.cat([torch.zeros_like(share[:, :1]), share.cumsum(-1)], dim=-1)
    above = torch.searchsorted(cumulative, uniform.contiguous(), right=True)
    low, high = (above - 1).clamp(min=0), above.clamp(max=weights.shape[1])
    start, end = cumulative.gather(1, low), cumulative.gather(1, high)
    width = torch.where(end - start < epsilon, torch.ones_like(start), end - start)
    left, right = edges.gather(1, low), edges.gather(1, high)
    return left + (uniform - start) / width * (right - left)


def composite(
    depths: Tensor,
    densities: Tensor,
    colors: Tensor,
    lengths: Tensor | float = 1.0,
    activation: Callable[[Tensor], Tensor] | None = None,
) -> Composited:
    """Emission and absorption along rays.

    Args:
        depths: (R, S) ascending.
        densities: (R, S) at those depths, per world unit; before `activation` where one is given.
        colors: (R, S, C).
        lengths: (R, 1) lengths of the rays' directions, where a step of depth is not a world unit.
        activation: applied to the mean density of each interval.
    """
    density = 0.5 * (densities[:, 1:] + densities[:, :-1])
    if activation is not None:
        density = activation(density)
    optical = density * depths.diff(dim=-1) * lengths
    before = torch.nn.functional.pad(optical.cumsum(-1)[:, :-1], (1, 0))
    weights = -torch.expm1(-optical) * torch.exp(-before)
    color = (weights[..., None] * 0.5 * (colors[:, 1:] + colors[:, :-1])).sum(1)
    depth = (weights * 0.5 * (depths[:, 1:] + depths[:, :-1])).sum(1)
    return Composited(color, depth, weights.sum(1), weights)


def render_rays(
    origins: Tensor,
    directions: Tensor,
    density: Callable[[Tensor], Tensor],
    color: Callable[[Tensor], Tensor],
    *,
    bound: float,
    samples: int = 64,
    fine_samples: int = 64,
    points_at_once: int = 1 << 18,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Renders rays through a field in the cube [-bound, bound]^3, a chunk of rays at a time.

    Args:
        origins, directions: (R, 3). Directions need no unit length: depth is counted in units of them.
        density: (N, 3) world points -> (N,), not negative, per world unit.
        color: (N, 3) world points -> (N, C).
        samples, fine_samples: per ray, even and by importance.
        points_at_once: bounds the memory of one chunk.
        generator: draws the sample positions; without one they are deterministic.

    Returns:
        color (R, C) premultiplied by alpha (add (1 - alpha) x background), depth (R,) premultiplied, alpha (R,). Differentiable
        through `density` and `color`; the sample positions are constants.
    """
    rays_at_once = max(1, points_at_once // (samples + fine_samples))
    parts = [
        _render_chunk(o, d, density, color, bound, samples, fine_samples, generator)
        for o, d in zip(origins.split(rays_at_once), directions.split(rays_at_once), strict=True)
    ]
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))  # type: ignore[return-value]


def _render_chunk(
    origins: Tensor,
    directions: Tensor,
    density: Callable[[Tensor], Tensor],
    color: Callable[[Tensor], Tensor],
    bound: float,
    samples: int,
    fine_samples: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor, Tensor]:
    near, far, hit = intersect_box(origins, directions, bound)
    rays = torch.nonzero(hit)[:, 0]
    origins, directions = origins[rays], directions[rays]
    lengths = directions.norm(dim=-1, keepdim=True)

    def points(depths: Tensor) -> Tensor:
        return (origins[:, None] + depths[..., None] * directions[:, None]).reshape(-1, 3)

    depths = stratified(near[rays], far[rays], samples, generator)
    densities = density(points(depths)).view(depths.shape)
    if fine_samples:
        with torch.no_grad():
            weights = composite(depths, densities, depths[..., None], lengths).weights
            uniform = stratified(torch.zeros_like(near[rays]), torch.ones_like(far[rays]), fine_samples, generator)
            fine = sample_pdf(depths, blur_weights(weights), uniform)
        densities = torch.cat([densities, density(points(fine)).view(fine.shape)], dim=1)
        depths, order = torch.cat([depths, fine], dim=1).sort(dim=1)
        densities = densities.gather(1, order)
    colors = color(points(depths)).unflatten(0, depths.shape)
    seen = composite(depths, densities, colors, lengths)
    full = [part.new_zeros((len(hit), *part.shape[1:])).index_copy(0, rays, part) for part in (seen.color, seen.depth, seen.alpha)]
    return full[0], full[1], full[2]
