"""Fields to meshes: FlexiCubes and marching cubes."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..data.field import Field
from ..data.mesh import Mesh
from ..data.progress import Tick, no_tick
from ..ops.color import srgb_to_linear
from ..ops.flexicubes import flexicubes, grid_axis, regular_grid

Method = Literal["flexicubes", "marching_cubes"]
POINTS_AT_ONCE = 1 << 18


def field_to_mesh(
    field: Field,
    method: Method = "flexicubes",
    resolution: int | None = None,
    *,
    level: float | None = None,
    device: torch.device | str = "cpu",
    tick: Tick = no_tick,
) -> Mesh:
    """The surface of a field as a mesh with vertex colours, faces counter-clockwise seen from outside.

    Args:
        field: what to mesh. FlexiCubes uses the displacements and weights of a field that has them, and plain cubes otherwise.
        method: "flexicubes" (Shen et al. 2023) or "marching_cubes" (Lewiner et al. 2003, scikit-image).
        resolution: cubes along an edge of the field's cube; None takes what the field was made for, else 128.
        level: density at the surface; None takes the field's own. Ignored by an sdf, whose surface is at 0.
        device: where the field is evaluated.
        tick: called for each part of the field that is evaluated.

    Raises:
        ValueError: the field has no surface, or gives numbers that are not finite.
    """
    if method not in ("flexicubes", "marching_cubes"):
        raise ValueError(f"Meshing: unknown method {method!r}; choose flexicubes or marching_cubes.")
    if resolution is not None and resolution < 2:
        raise ValueError(f"Meshing: resolution {resolution} is too coarse; use 2 or more (128 is usual).")
    field = field.to(device)
    level = field.level if level is None else level
    with torch.no_grad():
        tick(0, 1)
        grid = field.flexi_grid(resolution, tick=tick) if method == "flexicubes" else None
        if grid is not None:
            tick(1, 1)
            _require_surface(field, grid.sdf, 0.0)
            corners = grid.vertices if grid.deformation is None else grid.vertices + grid.deformation
            surface = flexicubes(corners, grid.sdf, grid.resolution, grid.weights)
            vertices, faces = surface.vertices, surface.faces
        else:
            cubes = resolution or 128
            sdf = _sample(field, cubes, level, device, tick)
            _require_surface(field, sdf, level)
            if method == "flexicubes":
                vertices, faces = flexicubes(regular_grid(cubes, 2 * field.bound).to(sdf), sdf, cubes)[:2]
            else:
                vertices, faces = marching_cubes(sdf.reshape(cubes + 1, cubes + 1, cubes + 1), field.bound)
        if faces.shape[0] == 0:
            raise ValueError("Meshing: the field's surface lies only at the border of its cube; check the images' framing and masks.")
        colors = torch.cat([field.color(part.to(device)).float().cpu() for part in vertices.split(POINTS_AT_ONCE)])
    return Mesh(vertices.float().cpu(), faces.cpu(), vertex_colors=srgb_to_linear(colors.clamp(0, 1)))


def _sample(field: Field, cubes: int, level: float, device: torch.device | str, tick: Tick) -> Tensor:
    """The field at the corners of `regular_grid`, (cubes + 1)^3 numbers, negative inside."""
    n = cubes + 1
    slabs = max(1, POINTS_AT_ONCE // n**2)
    axis = grid_axis(cubes, 2 * field.bound).to(device)
    parts = []
    for start in range(0, n, slabs):
        tick(start, n)
        values = field.geometry(torch.cartesian_prod(axis[start : start + slabs], axis, axis))
        parts.append(values.float() if field.kind == "sdf" else level - values.float())
    tick(n, n)
    return torch.cat(parts)


def _require_surface(field: Field, sdf: Tensor, level: float) -> None:
    if not torch.isfinite(sdf).all():
        raise ValueError("Meshing: the field gives NaN or infinite numbers; the network or its precision failed, try float32.")
    low, high = float(sdf.min()), float(sdf.max())
    if low < 0 <= high:
        return
    if field.kind == "density":
        remedy = "lower the threshold" if low >= 0 else "raise the threshold"
        numbers = f"its density runs from {level - high:.3g} to {level - low:.3g} and never crosses {level:.3g}"
    else:
        remedy = "try other views"
        numbers = f"its signed distance runs from {low:.3g} to {high:.3g} and never crosses 0"
    raise ValueError(f"Meshing: the field has no surface: {numbers}; {remedy}, or check the images and masks it was made from.")


def marching_cubes(sdf: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Surface sdf = 0 of a volume (X, Y, Z) whose corners tile [-bound, bound]^3, negative inside. Returns (V, 3) and (F, 3)."""
    from skimage import measure

    vertices, faces, _, _ = measure.marching_cubes(sdf.float().cpu().numpy(), 0.0)
    scale = 2 * bound / (np.array(sdf.shape) - 1)
    return torch.from_numpy((vertices * scale - bound).astype(np.float32)), torch.from_numpy(faces.astype(np.int64))
