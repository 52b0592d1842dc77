"""Fields to meshes, and what a mesh needs before it can be textured: cleaning, fewer faces, uvs."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .data.field import Field
from .data.mesh import Mesh
from .data.progress import Tick, no_tick
from .ops.color import srgb_to_linear
from .ops.flexicubes import flexicubes, grid_axis, regular_grid
from .ops.mesh_tools import face_components, face_vectors, taubin, weld
from .ops.sampling import sample_texture

Method = Literal["flexicubes", "marching_cubes"]
POINTS_AT_ONCE = 1 << 18
SLOW_FACES = 50_000  # unwrapping 20k faces takes seconds, 100k half a minute
MOST_FACES = 200_000


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


def clean(
    mesh: Mesh,
    *,
    min_component: float = 0.005,
    largest_only: bool = False,
    smoothing: int = 0,
) -> Mesh:
    """Welds equal vertices and drops what is not surface: degenerate and doubled faces, crumbs, unused vertices.

    Vertices weld only where their uvs and colours agree too, so textures and hard colour edges stay.

    Args:
        min_component: connected parts with a smaller share of the whole area go; 0 keeps all.
        largest_only: keep only the part with the largest area.
        smoothing: iterations of Taubin smoothing, 0 for none.

    Raises:
        ValueError: nothing would be left.
    """
    number, first = weld(mesh.vertices, mesh.uvs, mesh.vertex_colors)
    mesh = _rows(mesh, first, number[mesh.faces])

    place, places = weld(mesh.vertices)
    faces = mesh.faces[_sound_faces(mesh.vertices, mesh.faces, place)]
    if faces.shape[0] == 0:
        raise ValueError("Cleaning: the mesh has no faces with an area; there is nothing to keep.")
    part = face_components(place[faces], len(places))
    area = torch.zeros(int(part.max()) + 1, dtype=torch.float64)
    area.index_add_(0, part, face_vectors(mesh.vertices.double(), faces).norm(dim=1))
    keep = torch.zeros_like(area, dtype=torch.bool) if largest_only else area >= min_component * area.sum()
    keep[area.argmax()] = True
    mesh = _drop_unused(_rows(mesh, None, faces[keep[part]]))
    if smoothing > 0:
        place, places = weld(mesh.vertices)
        smooth = taubin(mesh.vertices[places], place[mesh.faces], smoothing)[place]
        mesh = Mesh(smooth, mesh.faces, mesh.uvs, mesh.texture, mesh.vertex_colors)
    return mesh


def simplify(mesh: Mesh, faces: int) -> Mesh:
    """The mesh with about `faces` triangles, by quadric edge collapse (Garland and Heckbert 1997, fast-simplification).

    Colours are those of the nearest vertex before. A texture does not survive: its colours go to the vertices; bake anew afterwards.
    A mesh that is small enough comes back as it is.

    Raises:
        ValueError: `faces` below 4, or a mesh that collapses to nothing.
    """
    if faces < 4:
        raise ValueError(f"Simplifying: {faces} faces are too few for a solid; use 4 or more.")
    if mesh.faces.shape[0] <= faces:
        return mesh
    import fast_simplification
    from scipy.spatial import cKDTree

    place, places = weld(mesh.vertices)
    points = mesh.vertices[places]
    welded = place[mesh.faces]
    welded = welded[_sound_faces(points, welded)]
    vertices, triangles = fast_simplification.simplify(points.double().numpy(), welded.int().numpy(), target_count=faces)
    small = Mesh(torch.from_numpy(vertices).float(), torch.from_numpy(triangles).long())
    sound = small.faces[_sound_faces(small.vertices, small.faces)]
    if sound.shape[0] == 0:
        raise ValueError("Simplifying: the mesh collapsed to nothing; it may be flat or broken. Clean it first, or ask for more faces.")
    small = _drop_unused(_rows(small, None, sound))
    colors = colors_at_vertices(mesh)
    if colors is not None:
        nearest = cKDTree(mesh.vertices.numpy()).query(small.vertices.numpy())[1]
        colors = colors[torch.from_numpy(nearest)]
    return Mesh(small.vertices, small.faces, vertex_colors=colors)


def unwrap(mesh: Mesh, *, texture_size: int = 1024, tick: Tick = no_tick) -> Mesh:
    """The mesh with uvs in the unit square, charts apart by a few texels of a texture of `texture_size` (xatlas).

    Vertices are repeated along seams, faces keep their order. A texture of old uvs does not fit the new ones: its colours go to the
    vertices. The work is done in a child process, which ends at once when `tick` raises; `tick` is called ten times a second with a
    guess of how far it is.

    Raises:
        ValueError: no faces, or more than 200 000 (time grows faster than their number): simplify first.
        RuntimeError: the child process failed.
    """
    n_faces = mesh.faces.shape[0]
    if n_faces == 0:
        raise ValueError("Unwrapping: the mesh has no faces.")
    if n_faces > MOST_FACES:
        raise ValueError(f"Unwrapping: {n_faces} faces would take very long (at most {MOST_FACES}); simplify the mesh first, to 20000 say.")
    if n_faces > SLOW_FACES:
        logging.getLogger(__name__).warning("Unwrapping %d faces takes a while; simplify the mesh first to make it quick.", n_faces)
    with tempfile.TemporaryDirectory(prefix="lathe_") as folder:
        given, made, words = (Path(folder) / name for name in ("in.npz", "out.npz", "words.txt"))
        padding = np.array(max(2, texture_size // 256))
        np.savez(given, vertices=mesh.vertices.numpy(), faces=mesh.faces.numpy(), size=np.array(texture_size), padding=padding)
        _run_child([str(given), str(made)], words, 1.2e-4 * n_faces * max(1.0, n_faces / 20_000), tick)
        with np.load(made) as result:
            rows = torch.from_numpy(result["rows"])
            faces, uvs = torch.from_numpy(result["faces"]), torch.from_numpy(result["uvs"])
    colors = colors_at_vertices(mesh)
    return Mesh(mesh.vertices[rows], faces, uvs, vertex_colors=None if colors is None else colors[rows])


def _run_child(arguments: list[str], words: Path, expected_seconds: float, tick: Tick) -> None:
    """Runs `uv_worker.py` to its end in this Python, calling `tick` meanwhile; ends it if anything is raised."""
    worker = Path(__file__).with_name("uv_worker.py")
    flags = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # Windows only
    command = [sys.executable, str(worker), *arguments]
    with open(words, "wb") as log:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, creationflags=flags)
    start = time.monotonic()
    try:
        while child.poll() is None:
            done = 1 - math.exp(-(time.monotonic() - start) / expected_seconds)
            tick(int(99 * done), 100)
            try:
                child.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    if child.returncode != 0:
        said = words.read_text(errors="replace").strip().splitlines()
        reason = said[-1] if said else f"it ended with code {child.returncode}"
        raise RuntimeError(f"Unwrapping failed: {reason}. Clean and simplify the mesh, then try again.")
    tick(100, 100)


def fit_to_cube(mesh: Mesh, radius: float = 0.95) -> Mesh:
    """The mesh moved and scaled so that its bounding box is centred on the origin and its farthest vertex lies at `radius`.

    Raises:
        ValueError: the mesh has no size.
    """
    lower, upper = mesh.vertices.amin(0), mesh.vertices.amax(0)
    centred = mesh.vertices - (lower + upper) / 2
    farthest = float(centred.norm(dim=1).max())
    if farthest <= 0:
        raise ValueError("Fitting: the mesh is a single point, so it has no size.")
    return Mesh(centred * (radius / farthest), mesh.faces, mesh.uvs, mesh.texture, mesh.vertex_colors)


def colors_at_vertices(mesh: Mesh) -> Tensor | None:
    """Linear colours (V, 3) of the vertices: their own times the texture's there, as glTF multiplies them; None for a bare mesh."""
    if mesh.texture is None or mesh.uvs is None:
        return mesh.vertex_colors
    colors = srgb_to_linear(sample_texture(mesh.texture, mesh.uvs))
    return colors if mesh.vertex_colors is None else colors * mesh.vertex_colors


def _sound_faces(vertices: Tensor, faces: Tensor, place: Tensor | None = None) -> Tensor:
    """Indices of the faces with three different corners and an area, each set of corners once."""
    corners = (faces if place is None else place[faces]).sort(dim=1).values
    distinct = (corners[:, 0] != corners[:, 1]) & (corners[:, 1] != corners[:, 2])
    extent = float((vertices.max(0).values - vertices.min(0).values).norm()) if len(vertices) else 0.0
    area = face_vectors(vertices.double(), faces).norm(dim=1)
    rows = torch.nonzero(distinct & (area > 1e-14 * extent**2)).flatten()
    _, first = np.unique(corners[rows].numpy(), axis=0, return_index=True)
    return rows[torch.from_numpy(np.sort(first))]


def _rows(mesh: Mesh, rows: Tensor | None, faces: Tensor) -> Mesh:
    """The mesh with these vertices (None: all) and these faces."""
    if rows is None:
        return Mesh(mesh.vertices, faces, mesh.uvs, mesh.texture, mesh.vertex_colors)
    uvs = None if mesh.uvs is None else mesh.uvs[rows]
    colors = None if mesh.vertex_colors is None else mesh.vertex_colors[rows]
    return Mesh(mesh.vertices[rows], faces, uvs, mesh.texture, colors)


def _drop_unused(mesh: Mesh) -> Mesh:
    used, faces = torch.unique(mesh.faces, return_inverse=True)
    return _rows(mesh, used, faces.reshape(-1, 3))
