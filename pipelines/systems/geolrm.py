"""GeoLRM (Zhang et al. 2024, arXiv 2406.15333): posed views to occupied voxels, these to splats, and a mesh of them.

    views -> voxels -> splats -> textured mesh

The paper's views are SV3D's 21; any 1 to 24 do. The template `views_to_splat_mini` is the same as a graph; a test holds the two equal.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..cameras.join_and_select import join_cameras
from ..cameras.orbits import orbit_cameras
from ..data.mesh import Mesh
from ..data.progress import Tick, no_tick
from ..data.splats import Splats
from ..data.views import AssetViews
from ..meshes.clean import clean
from ..meshes.extract import field_to_mesh
from ..meshes.fit import fit_meshes
from ..meshes.fit_settings import load_mesh_preset
from ..reconstruction.geolrm.stages import GeoLRM, propose, reconstruct
from ..rendering.splats import render_splats
from ..splats.field import splat_field

THRESHOLD, TOKENS = 0.5, 16_384  # occupied cells, at most; each token becomes 32 Gaussians of the published network
CELLS, LEVEL = 96, 20.0  # of the splats read as a field: cells along an edge, density at the surface


def views_to_voxels(views: AssetViews, model: GeoLRM, *, device: torch.device | str = "cpu", tick: Tick = no_tick) -> Tensor:
    """Section 3.1, the proposal transformer: how likely each cell is occupied, (1, Z, Y, X)."""
    return propose(model, *views, device=device, tick=tick)


def voxels_to_splats(
    voxels: Tensor, views: AssetViews, model: GeoLRM, *, threshold: float = THRESHOLD, tokens: int = TOKENS, seed: int = 0,
    device: torch.device | str = "cpu", tick: Tick = no_tick,
) -> Splats:  # fmt: skip
    """Section 3.1, the reconstruction transformer: Gaussians at the cells above `threshold`, at most `tokens` of them."""
    return reconstruct(model, voxels, *views, threshold=threshold, tokens=tokens, seed=seed, device=device, tick=tick)[0]


def views_to_splats(views: AssetViews, model: GeoLRM, *, seed: int = 0, device: torch.device | str = "cpu", tick: Tick = no_tick) -> Splats:
    """Both transformers, one after the other."""
    voxels = views_to_voxels(views, model, device=device, tick=tick)
    return voxels_to_splats(voxels, views, model, seed=seed, device=device, tick=tick)


def splats_to_asset(
    splats: Splats, *, cells: int = CELLS, size: int = 256, preset: str = "geolrm", seed: int = 0,
    device: torch.device | str = "cpu", tick: Tick = no_tick, **changes: Any,
) -> Mesh:  # fmt: skip
    """Section A.2, a mesh of the splats: their surface, fitted to their own renders from twenty sides.

    Args:
        cells: along an edge of the field that the splats are read as.  size: of the renders, pixels.
        changes: of the preset's settings.
    """
    field = splat_field(splats, resolution=cells, level=LEVEL, tick=tick)
    mesh = clean(field_to_mesh(field, resolution=cells, device=device, tick=tick), smoothing=2)
    around = join_cameras(orbit_cameras(12, elevation=5.0), orbit_cameras(8, elevation=45.0))
    seen = render_splats(splats, around, size, size, supersample=2, device=device, tick=tick)
    settings = replace(load_mesh_preset(preset), **changes)
    return fit_meshes([mesh], seen.images, seen.masks, around, settings=settings, seed=seed, device=device, tick=tick)[0].mesh
