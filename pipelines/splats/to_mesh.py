"""Splats to a mesh, by way of their field."""

from __future__ import annotations

from ..data.mesh import Mesh
from ..data.progress import Tick, no_tick
from ..data.splats import Splats
from ..meshes.clean import clean
from ..meshes.extract import Method, field_to_mesh
from ..meshes.simplify import simplify
from .field import LEVEL, RESOLUTION, splat_field


def splats_to_mesh(
    splats: Splats,
    method: Method = "flexicubes",
    resolution: int = RESOLUTION,
    *,
    level: float = LEVEL,
    faces: int | None = None,
    min_component: float = 0.005,
    tick: Tick = no_tick,
) -> Mesh:
    """The outer surface of the splats with vertex colours, crumbs dropped.

    Args:
        method, resolution, level: as for `field_to_mesh` and `splat_field`.
        faces: simplified to about so many, None keeps all.
        min_component: connected parts with a smaller share of the whole area go.

    Raises:
        ValueError: nothing to see, or no surface at this level.
    """
    field = splat_field(splats, resolution=resolution, level=level, tick=tick)
    mesh = clean(field_to_mesh(field, method, resolution, tick=tick), min_component=min_component)
    return mesh if faces is None else simplify(mesh, faces)
