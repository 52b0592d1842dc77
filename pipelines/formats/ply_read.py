"""PLY meshes, as scanners and modelling programs write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..data.material import Material
from ..data.progress import Tick, no_tick
from .beside import find_beside
from .colored_part import colored_part
from .file_colors import alpha_of, linear_colors
from .parts import Contents, Look
from .pictures import decode_picture
from .ply_header import Element, Header, read_header
from .ply_tables import Table, read_tables
from .polygons import triangulate

_COLORS = [("red", "green", "blue", "alpha"), ("diffuse_red", "diffuse_green", "diffuse_blue", "diffuse_alpha"), ("r", "g", "b", "a")]
_UVS = [("s", "t"), ("u", "v"), ("texture_u", "texture_v"), ("texture_s", "texture_t"), ("s0", "t0")]
_CORNERS = ("vertex_indices", "vertex_index")


def read_ply(path: Path, tick: Tick = no_tick) -> Contents:
    """The polygons (or triangle strips) of a PLY, a part for each of its pictures, in the file's axes.

    Colours are sRGB, whole numbers as shares of their type's largest; those of faces go to the vertices, which stand once for each
    colour. Texture coordinates of vertices (s t, u v, texture_u texture_v) or of faces (texcoord, texnumber) count from the bottom left.

    Raises:
        ValueError: a broken file, Gaussian splats, a point cloud, an index that names nothing, a position that is not finite.
    """
    data = path.read_bytes()
    header = read_header(data)
    faces_name = _check(header)
    tables = read_tables(data, header, {"vertex", faces_name}, tick)
    contents = Contents()
    vertex, face = tables["vertex"], tables[faces_name]
    if faces_name == "tristrips":
        corners, counts = _strips(*face.lists[_corner_list(header.elements, faces_name)])
    else:
        corners, counts = face.lists[_corner_list(header.elements, faces_name)]
    corners = _checked_corners(corners, counts, header)
    positions = np.stack([vertex.columns[name].astype(np.float64) for name in "xyz"], axis=1)
    unusable = ~np.isfinite(positions).all(1)
    if unusable.any():
        raise ValueError(f"vertex {int(np.argmax(unusable))} is not finite ({positions[np.argmax(unusable)].tolist()})")
    triangles = triangulate(positions, corners, counts, tick)
    for note in triangles.notes():
        contents.note(note)
    kinds = {each.name: each.kind for element in header.elements for each in element.properties}
    colors, normals = _colors(vertex, kinds, contents), _normals(vertex, contents)
    painted = None if colors is not None or faces_name == "tristrips" else _colors(face, kinds, contents)
    uvs, uv_of = _vertex_uvs(vertex, contents), None
    wedges = _wedges(face, counts, contents)
    if wedges is not None:
        uvs, uv_of = wedges
    looks = _looks(path.parent, header.comments, contents)
    sheet = np.zeros(len(triangles.corners), np.int64)
    if uvs is not None and "texnumber" in face.columns:
        sheet = np.nan_to_num(face.columns["texnumber"]).astype(np.int64)[triangles.polygon]
    elif uvs is not None and len(looks) > 1:
        contents.note(f"it names {len(looks)} pictures, but not (texnumber) which face has which; the first is used for all")
    for number in np.unique(sheet).tolist():
        chosen = sheet == number
        places = triangles.corners[chosen].reshape(-1)
        contents.parts.append(
            colored_part(
                positions,
                corners[places],
                look=looks[number] if uvs is not None and 0 <= number < len(looks) else Look(),
                colors=colors,
                normals=normals,
                uvs=uvs,
                uv_of=None if uv_of is None else uv_of[places],
                painted=painted,
                face_of=np.repeat(triangles.polygon[chosen], 3),
            )
        )
    if looks and uvs is None:
        contents.note("it names a picture (TextureFile), but has no texture coordinates; the picture is left out")
    return contents


def _check(header: Header) -> str:
    """The name of the element that holds faces. Refuses what is no mesh by name."""
    vertex = next((element for element in header.elements if element.name == "vertex"), None)
    chunks = any("packed_position" in element.names() for element in header.elements)
    if chunks or (vertex is not None and {"f_dc_0", "opacity"} & vertex.names() and "scale_0" in vertex.names()):
        raise ValueError("it holds Gaussian splats and no mesh; Load Splat reads it")
    if vertex is None or not {"x", "y", "z"} <= vertex.names():
        raise ValueError("it has no vertices with x, y and z")
    for element in header.elements:
        if element.name in ("face", "tristrips") and element.count:
            return element.name
    raise ValueError("it is a point cloud without faces; make a mesh of it first (Poisson reconstruction in MeshLab or Blender)")


def _corner_list(elements: list[Element], name: str) -> str:
    element = next(element for element in elements if element.name == name)
    for each in element.properties:
        if each.name in _CORNERS and each.length is not None:
            return each.name
    raise ValueError(f"its {name} have no list {' or '.join(_CORNERS)}")


def _checked_corners(corners: np.ndarray, counts: np.ndarray, header: Header) -> np.ndarray:
    """Whole numbers that name vertices."""
    number = next(element.count for element in header.elements if element.name == "vertex")
    wrong = ~((corners >= 0) & (corners < number))
    if corners.dtype.kind == "f":
        wrong |= corners != np.floor(corners)
    if wrong.any():
        row = int(np.repeat(np.arange(len(counts)), counts)[np.argmax(wrong)])
        raise ValueError(
            f"face {row} names a vertex {corners[np.argmax(wrong)]:g} that is not there; the file has {number}, counted from 0"
        )
    return corners.astype(np.int64)


def _strips(strips: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Triangle strips, one after the other in lists and parted by -1, as triangles."""
    ends = np.zeros(len(strips) + 1, bool)
    ends[np.cumsum(counts)] = True  # no triangle goes from one list to the next
    first = np.arange(max(0, len(strips) - 2))
    whole = (strips[first] >= 0) & (strips[first + 1] >= 0) & (strips[first + 2] >= 0) & ~ends[first + 1] & ~ends[first + 2]
    begins = np.ones(len(strips), bool)
    begins[1:] = (strips[:-1] < 0) | ends[1:-1]
    start = np.maximum.accumulate(np.where(begins, np.arange(len(strips)), 0))
    odd = (first - start[first]) % 2
    triangles = np.stack([strips[first + odd], strips[first + 1 - odd], strips[first + 2]], axis=1)[whole]
    return triangles.reshape(-1), np.full(len(triangles), 3)


def _colors(table: Table, kinds: dict[str, str], contents: Contents) -> np.ndarray | None:
    """(N, 3 or 4) linear colours of vertices or faces."""
    for names in _COLORS:
        if not all(name in table.columns for name in names[:3]):
            continue
        kind = kinds[names[0]]
        values = np.stack([table.columns[name].astype(np.float64) for name in names if name in table.columns], axis=1)
        return linear_colors(values, contents, full={"u1": 255.0, "u2": 65535.0}.get(kind))
    return None


def _normals(vertex: Table, contents: Contents) -> np.ndarray | None:
    """(V, 3) float32 of unit length."""
    if not all(name in vertex.columns for name in ("nx", "ny", "nz")):
        return None
    normals = np.stack([vertex.columns[name].astype(np.float64) for name in ("nx", "ny", "nz")], axis=1)
    length = np.linalg.norm(normals, axis=1)
    if not (np.isfinite(length) & (length > 0)).all():
        contents.note("some of its normals have no direction, so all are computed anew")
        return None
    return (normals / length[:, None]).astype(np.float32)


def _vertex_uvs(vertex: Table, contents: Contents) -> np.ndarray | None:
    for names in _UVS:
        if all(name in vertex.columns for name in names):
            return _from_top(np.stack([vertex.columns[name].astype(np.float64) for name in names], axis=1), contents)
    return None


def _wedges(face: Table, counts: np.ndarray, contents: Contents) -> tuple[np.ndarray, np.ndarray] | None:
    """The different texture coordinates of faces (T, 2), and which each corner has (C,)."""
    if "texcoord" not in face.lists:
        return None
    values, sizes = face.lists["texcoord"]
    if (sizes != 2 * counts).any():
        contents.note("some of its faces have fewer texture coordinates than corners; those of all faces are left out")
        return None
    pairs = np.ascontiguousarray(_from_top(values.astype(np.float64).reshape(-1, 2), contents))
    different, ids = np.unique(pairs.view(np.complex128)[:, 0], return_inverse=True)
    return different.view(np.float64).reshape(-1, 2), ids.reshape(-1)


def _from_top(uvs: np.ndarray, contents: Contents) -> np.ndarray:
    if not np.isfinite(uvs).all():
        contents.note("some of its texture coordinates are not finite and are read as 0")
        uvs = np.nan_to_num(uvs, nan=0, posinf=0, neginf=0)
    return np.stack([uvs[:, 0], 1 - uvs[:, 1]], axis=1)


def _looks(folder: Path, comments: list[str], contents: Contents) -> list[Look]:
    """The pictures that comments name (MeshLab's and Meshroom's `comment TextureFile name`), in their order."""
    looks = []
    for comment in comments:
        word, _, name = comment.partition(" ")
        if word.lower() != "texturefile":
            continue
        file = find_beside(folder, name)
        look = Look()
        if file is None:
            contents.note(f"its picture {name.strip()!r} is missing; put it beside the .ply")
        else:
            try:
                texture, alpha_mode = alpha_of(decode_picture(file.read_bytes(), file.name), "its picture", contents)
                look = Look(texture, material=Material(alpha_mode=alpha_mode))
            except (OSError, ValueError) as error:
                contents.note(f"its picture {name.strip()!r} is left out: {error}")
        looks.append(look)
    return looks
