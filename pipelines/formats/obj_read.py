"""OBJ read, as exporters of the real world write it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..data.progress import Tick, no_tick
from .file_colors import linear_colors, see_through
from .obj_materials import Finish, Materials
from .obj_statements import Rows, Statements, read_statements
from .parts import Contents, Part
from .polygons import distinct_corners, triangulate
from .texture_wrap import CLAMP, repeating


def read_obj(path: Path, tick: Tick = no_tick) -> Contents:
    """The polygons of an OBJ as triangles, a part for each material, in the file's axes.

    Vertices stay in the file's order, those that no polygon uses left out; one stands once for each pair of texture coordinate and
    normal it is used with. Colours behind positions (x y z r g b, with a seventh number alpha) are sRGB; where one is above 1 they are
    taken as 0 to 255, above 255 as 0 to 65535. Materials: see `obj_materials`.

    Raises:
        ValueError: no text, a statement that cannot be read, an index that names nothing, a position that is not finite; with its line.
    """
    contents = Contents()
    found = read_statements(path.read_bytes(), tick)
    if found.decimal_commas:
        contents.note("its numbers have decimal commas, which are read as points")
    if found.dropped:
        contents.note(f"its {' and '.join(sorted(found.dropped))} are left out")
    positions, colors = _positions(found, contents)
    uvs, normals = _uvs(found.numbers["vt"], contents), _normals(found.numbers["vn"], contents)
    corners, counts = _corners(found, len(positions), len(uvs), len(normals))
    triangles = triangulate(positions, corners[:, 0], counts, tick)
    for note in triangles.notes():
        contents.note(note)
    surfaces = np.concatenate(found.surfaces)[triangles.polygon] if found.surfaces else np.zeros(0, np.int64)
    order = np.argsort(surfaces, kind="stable")
    ids, starts = np.unique(surfaces[order], return_index=True)
    materials = Materials(path, found.libraries, [found.materials[i] for i in ids.tolist() if i >= 0], contents)
    for step, (material, chosen) in enumerate(zip(ids.tolist(), np.split(order, starts[1:]), strict=False)):
        tick(step, len(ids))
        name = found.materials[material] if material >= 0 else None
        rows = corners[triangles.corners[np.sort(chosen)]].reshape(-1, 3)
        contents.parts.append(_part(rows, positions, colors, uvs, normals, materials.finish(name), contents))
    return contents


def _positions(found: Statements, contents: Contents) -> tuple[np.ndarray, np.ndarray | None]:
    """(V, 3) float64, and (V, 3 or 4) float32 linear colours if there are any."""
    values, counts, lines = found.numbers["v"].joined()
    if (counts < 3).any():
        raise ValueError(f"line {lines[np.argmax(counts < 3)]}: a vertex has {int(counts[np.argmax(counts < 3)])} numbers, not at least 3")
    place = np.cumsum(counts) - counts
    positions = values[place[:, None] + np.arange(3)] if len(place) else np.zeros((0, 3))
    unusable = ~np.isfinite(positions).all(1)
    if unusable.any():
        raise ValueError(f"line {lines[np.argmax(unusable)]}: a vertex is not finite ({positions[np.argmax(unusable)].tolist()})")
    if ((counts == 5) | (counts > 7)).any():
        contents.note("some vertices have 5 or more than 7 numbers, of which the first three are read")
    four = counts == 4
    if four.any() and (values[place[four] + 3] != 1).any():
        contents.note("the fourth number of its vertices (a weight of curves) is left out")
    colored = (counts == 6) | (counts == 7)
    if not colored.any():
        return positions, _polypaint(found, len(positions), contents)
    given = np.ones((len(counts), 4))
    given[colored, :3] = values[place[colored][:, None] + 3 + np.arange(3)]
    seven = counts == 7
    if seven.any():
        rest = values[place[seven][:, None] + 3 + np.arange(4)]
        weighted = bool((rest[:, 0] == 1).all() and (rest[:, 3] != 1).any())
        contents.note(f"its vertices have seven numbers, which are read as x y z {'weight r g b' if weighted else 'r g b alpha'}")
        given[seven] = np.column_stack([rest[:, 1:], np.ones(len(rest))]) if weighted else rest
    read = linear_colors(given[colored], contents)
    if colored.all():
        return positions, read
    contents.note("some of its vertices have no colour and are read as white")
    colors = np.ones((len(counts), read.shape[1]), np.float32)
    colors[colored] = read
    return positions, colors


def _polypaint(found: Statements, n_vertices: int, contents: Contents) -> np.ndarray | None:
    """ZBrush's colours: comments #MRGB, for each vertex the hexadecimal bytes mask, red, green, blue."""
    if not found.polypaint:
        return None
    try:
        painted = np.frombuffer(bytes.fromhex(b"".join(found.polypaint).decode("ascii")), np.uint8)
    except ValueError:
        painted = np.zeros(0, np.uint8)
    if len(painted) != 4 * n_vertices:
        contents.note(f"its #MRGB colours are left out: they are not 8 hexadecimal digits for each of its {n_vertices} vertices")
        return None
    return linear_colors(painted.reshape(-1, 4)[:, 1:], contents, full=255)


def _uvs(rows: Rows, contents: Contents) -> np.ndarray:
    """(T, 2) float64 as they stand."""
    values, counts, lines = rows.joined()
    if (counts < 1).any():
        raise ValueError(f"line {lines[np.argmax(counts < 1)]}: a texture coordinate (vt) has no number")
    uvs, place = np.zeros((len(counts), 2)), np.cumsum(counts) - counts
    for i in range(2):
        uvs[counts > i, i] = values[place[counts > i] + i]
    unusable = ~np.isfinite(uvs).all(1)
    if unusable.any():
        contents.note(
            f"{int(unusable.sum())} texture coordinates are not finite and are read as 0 (the first in line {lines[np.argmax(unusable)]})"
        )
        uvs[unusable] = 0
    return uvs


def _normals(rows: Rows, contents: Contents) -> np.ndarray:
    """(N, 3) float64 of unit length; NaN where a row has no direction."""
    values, counts, lines = rows.joined()
    if (counts < 3).any():
        raise ValueError(f"line {lines[np.argmax(counts < 3)]}: a normal (vn) has {int(counts[np.argmax(counts < 3)])} numbers, not 3")
    place = np.cumsum(counts) - counts
    normals = values[place[:, None] + np.arange(3)] if len(place) else np.zeros((0, 3))
    with np.errstate(all="ignore"):
        normals = normals / np.abs(normals).max(axis=1, keepdims=True, initial=0)
        return normals / np.linalg.norm(normals, axis=1, keepdims=True)


def _corners(found: Statements, *numbers: int) -> tuple[np.ndarray, np.ndarray]:
    """(C, 3) places that exist, and the count of corners of each polygon (F,)."""
    _, counts, lines = found.corners.joined()
    corners = np.concatenate(found.corners.values) if found.corners.values else np.zeros((0, 3), np.int64)
    for i, (word, number) in enumerate(zip(("v", "vt", "vn"), numbers, strict=True)):
        wrong = (corners[:, i] >= number) | (corners[:, i] < -1)
        if wrong.any():
            line = np.repeat(lines, counts)[np.argmax(wrong)]
            raise ValueError(f"line {line}: a polygon names a {word} that is not there; the file has {number} of them, counted from 1")
    return corners, counts


def _part(
    rows: np.ndarray,
    positions: np.ndarray,
    colors: np.ndarray | None,
    uvs: np.ndarray,
    normals: np.ndarray,
    finish: Finish,
    contents: Contents,
) -> Part:
    """One part of the corners (3F, 3) of its triangles."""
    has_uv, has_normal = rows[:, 1] >= 0, rows[:, 2] >= 0
    if has_normal.any() and not (has_normal.all() and np.isfinite(normals[rows[:, 2]]).all()):
        contents.note("some of its normals are missing or have no direction, so those of the object are computed anew")
        has_normal[:] = False
    if not has_normal.any():
        rows = np.column_stack([rows[:, :2], np.full(len(rows), -1)])
    vertices, faces = distinct_corners(rows)
    look, part_uvs = finish.look, None
    if has_uv.any():
        if not has_uv.all():
            contents.note("some of its polygons have no texture coordinates and take the texture's corner")
        part_uvs = np.where(vertices[:, 1:2] >= 0, uvs[vertices[:, 1]], 0) * finish.scale + finish.offset
        part_uvs[:, 1] = 1 - part_uvs[:, 1]
        if finish.clamp:
            look, (part_uvs,) = repeating(look, [part_uvs], (CLAMP, CLAMP), contents)
    elif look.texture is not None or look.material.maps():
        contents.note(f"material {finish.name!r} has pictures, but its polygons no texture coordinates (vt); the pictures are left out")
        look = finish.plain
    part_colors = None if colors is None else colors[vertices[:, 0]]
    return Part(
        vertices=positions[vertices[:, 0]],
        faces=faces.reshape(-1, 3),
        look=see_through(look, part_colors),
        uvs=part_uvs,
        colors=part_colors,
        normals=normals[vertices[:, 2]].astype(np.float32) if has_normal.any() else None,
    )
