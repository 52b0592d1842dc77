"""Gaussians blended front to back, as the paper's equation says: the oracle of the tests, and what runs where nothing faster does.

Kerbl et al. 2023, equations 2 and 3. Works tile by tile on any device, in float32 and float64. Each tile of a large scene is computed
again in the backward pass, so memory does not grow with the number of pixels times Gaussians.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .projection import ALPHA_MIN, Projected, project

ALPHA_MAX = 0.999
"""No Gaussian hides everything behind it, which keeps gradients finite; where alpha is clamped the Gaussian gets none through it."""
TRANSMITTANCE_MIN = 1e-4
"""A Gaussian that would leave no more light than this, and all behind it, are not drawn."""
TILE = 16
PAIRS_AT_ONCE = 1 << 22


def draw(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, features: Tensor, viewmats: Tensor, Ks: Tensor,
    width: int, height: int, *, near: float, far: float, eps2d: float, antialiased: bool, absgrad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """What every backend offers; arguments as for `dispatch.render_gaussians`, features (C, N, F) or (1, N, F).

    Returns:
        blended features (C, H, W, F), depth (C, H, W, 1), alpha (C, H, W, 1), means2d (C, N, 2), radii (C, N, 2).
    """
    projected = project(
        means, quats, scales, opacities, viewmats, Ks, width, height, near=near, far=far, eps2d=eps2d, antialiased=antialiased
    )
    parts = [features.expand(len(viewmats), -1, -1), projected.depths[..., None]]
    blended, alpha = composite(projected, torch.cat(parts, dim=-1), width, height, absgrad)
    return *blended.split([features.shape[-1], 1], dim=-1), alpha, projected.means2d, projected.radii


def composite(projected: Projected, features: Tensor, width: int, height: int, absgrad: bool) -> tuple[Tensor, Tensor]:
    """Blends features (C, N, F). Returns pictures (C, H, W, F) and alpha (C, H, W, 1).

    Args:
        absgrad: whether backward adds the sum over pixels of |gradient| into `projected.means2d.absgrad`.
    """
    means2d, depths, conics, opacities, radii = projected
    if absgrad:
        means2d.absgrad = torch.zeros_like(means2d)  # type: ignore[attr-defined]
    pictures = []
    for c in range(len(means2d)):
        gaussian, counts = tile_lists(means2d[c].detach(), depths[c].detach(), radii[c], width, height)
        columns = torch.cat([means2d[c], conics[c], opacities[c][:, None], features[c]], dim=-1)
        ids = gaussian.split(counts)
        across = -(-width // TILE)
        small = len(gaussian) * TILE * TILE <= PAIRS_AT_ONCE  # checkpoint would only cost time, seconds of imports at its first call
        tiles = []
        for tile, rows in enumerate(columns[gaussian].split(counts)):
            into = (means2d.absgrad[c], ids[tile]) if absgrad else None  # type: ignore[attr-defined]
            corner = (tile % across * TILE, tile // across * TILE)
            given = (rows, corner, into)
            tiles.append(_tile(*given) if small else checkpoint(_tile, *given, use_reentrant=False, preserve_rng_state=False))
        grid = torch.stack(tiles).unflatten(0, (-1, across)).unflatten(2, (TILE, TILE))
        pictures.append(grid.transpose(1, 2).flatten(2, 3).flatten(0, 1)[:height, :width])
    return torch.stack(pictures).split([features.shape[-1], 1], dim=-1)  # type: ignore[return-value]


def tile_lists(means2d: Tensor, depths: Tensor, radii: Tensor, width: int, height: int) -> tuple[Tensor, list[int]]:
    """Which Gaussians touch each tile, front to back: their indices, tile after tile, and how many each tile has."""
    across, down = -(-width // TILE), -(-height // TILE)
    seen = torch.nonzero(radii[:, 0] > 0)[:, 0]
    seen = seen[torch.argsort(depths[seen], stable=True)]
    most = torch.tensor([across, down], device=means2d.device)
    first = torch.floor((means2d[seen] - radii[seen]) / TILE).long().clamp(min=0)
    last = torch.floor((means2d[seen] + radii[seen]) / TILE).long().minimum(most - 1)
    size = (last - first + 1).clamp(min=0)
    counts = size[:, 0] * size[:, 1]
    owner = torch.repeat_interleave(torch.arange(len(seen), device=seen.device), counts)
    number = torch.arange(len(owner), device=seen.device) - (counts.cumsum(0) - counts)[owner]
    columns = size[owner, 0]
    tile = (first[owner, 1] + torch.div(number, columns, rounding_mode="floor")) * across + first[owner, 0] + number % columns
    tile, order = torch.sort(tile, stable=True)
    return seen[owner[order]], torch.bincount(tile, minlength=across * down).tolist()


def _tile(rows: Tensor, corner: tuple[int, int], into: tuple[Tensor, Tensor] | None) -> Tensor:
    """Pixels (TILE^2, F + 1) of one tile, alpha last, from the rows (G, 6 + F) of its Gaussians, front to back."""
    place = torch.arange(TILE * TILE, device=rows.device)
    x = corner[0] + place % TILE + 0.5
    y = corner[1] + torch.div(place, TILE, rounding_mode="floor") + 0.5
    pixels = torch.stack([x, y], dim=-1).to(rows.dtype)
    share = max(1, PAIRS_AT_ONCE // max(1, len(rows)))
    return torch.cat([_blend(rows, part, into) for part in pixels.split(share)])


def _blend(rows: Tensor, pixels: Tensor, into: tuple[Tensor, Tensor] | None) -> Tensor:
    means2d, conics, opacities, features = rows.split([2, 3, 1, rows.shape[1] - 6], dim=-1)
    offset = pixels[:, None] - means2d
    if into is not None and offset.requires_grad:
        total, ids = into

        def add(gradient: Tensor) -> None:
            total.index_add_(0, ids, gradient.abs().sum(0))

        offset.register_hook(add)
    dx, dy = offset.unbind(-1)
    power = 0.5 * (conics[:, 0] * dx * dx + conics[:, 2] * dy * dy) + conics[:, 1] * dx * dy
    alpha = (opacities[:, 0] * torch.exp(-power)).clamp(max=ALPHA_MAX)
    alpha = torch.where((alpha >= ALPHA_MIN) & (power >= 0), alpha, 0.0)
    left = torch.cumprod(1 - alpha, dim=1)
    before = torch.cat([torch.ones_like(left[:, :1]), left[:, :-1]], dim=1)
    weight = torch.where(left > TRANSMITTANCE_MIN, alpha * before, 0.0)
    return torch.cat([weight @ features, weight.sum(1, keepdim=True)], dim=-1)
