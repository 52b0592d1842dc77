"""Meshes in files: GLB and OBJ written, GLB, glTF, OBJ, PLY, STL and OFF read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.mesh import Mesh
from ..disk.atomic import write_files
from ..ops.color import linear_to_srgb, srgb_to_linear
from ..ops.texture_sampling import sample_texture
from .glb import glb_bytes
from .obj import obj_files

READABLE = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")
WRITABLE = (".glb", ".obj")


def save_mesh(mesh: Mesh, path: Path | str) -> list[Path]:
    """Writes a .glb, or an .obj with its .mtl and .png. Returns the files written, the one asked for last.

    Vertex colours are kept beside a texture in GLB (they multiply); OBJ keeps them only without one.

    Raises:
        ValueError: another kind of file, a mesh without faces, or a folder that cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in WRITABLE:
        raise ValueError(f"A mesh is saved as one of {', '.join(WRITABLE)}, not as {path.name!r}.")
    if mesh.faces.shape[0] == 0:
        raise ValueError("Saving: the mesh has no faces.")
    # OBJ separates words by blanks, so its side files have none in their names.
    stem = re.sub(r"\s+", "_", path.stem)
    contents = {path.name: glb_bytes(mesh)} if suffix == ".glb" else obj_files(mesh, stem)
    if suffix == ".obj":
        contents[path.name] = contents.pop(f"{stem}.obj")
    write_files(path.parent, contents)
    return [path.parent / name for name in contents]


def load_mesh(path: Path | str) -> Mesh:
    """Reads a .glb, .gltf, .obj, .ply, .stl or .off as one mesh; see `read_mesh`."""
    return read_mesh(Path(path))


def read_mesh(path: Path) -> Mesh:
    """The file's triangles in one mesh, in the file's own axes.

    Several objects are put together. A texture stays where all of them share one; otherwise colours go to the vertices.

    Raises:
        ValueError: no such file, an unknown kind, a broken file, or one without triangles.
    """
    suffix = path.suffix.lower()
    if suffix not in READABLE:
        raise ValueError(f"{path.name} is not a mesh file that can be read; use one of {', '.join(READABLE)}.")
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    import trimesh

    try:
        scene = trimesh.load_scene(path, process=False)
        exact = _gltf_colors(path) if suffix in (".glb", ".gltf") else {}
    except Exception as error:  # the reader raises many kinds of errors on a broken file
        raise ValueError(f"{path.name} cannot be read as {suffix[1:].upper()}, it may be cut short or damaged: {error}") from error
    parts = []
    for node in scene.graph.nodes_geometry:
        matrix, name = scene.graph[node]
        geometry = scene.geometry[name]
        if isinstance(geometry, trimesh.Trimesh) and len(geometry.faces):
            parts.append(_Part(geometry, matrix, exact.get(str(name)), linear=suffix in (".glb", ".gltf")))
    if not parts:
        raise ValueError(f"{path.name} holds no triangles; a point cloud or an empty scene cannot be used as a mesh.")
    return _joined(parts)


def _gltf_colors(path: Path) -> dict[str, np.ndarray]:
    """COLOR_0 of each geometry as it stands in the file: once loaded, colours are rounded to 8 bits."""
    from trimesh.exchange.gltf import load_glb, load_gltf
    from trimesh.resolvers import FilePathResolver

    with open(path, "rb") as stream:
        parsed = load_glb(stream) if path.suffix.lower() == ".glb" else load_gltf(stream, resolver=FilePathResolver(str(path)))
    found = {name: part.get("vertex_colors") for name, part in parsed.get("geometry", {}).items()}
    return {name: colors for name, colors in found.items() if colors is not None}


class _Part:
    """One object of a file: geometry in the scene's axes, and its look in our conventions."""

    def __init__(self, geometry: Any, matrix: np.ndarray, exact: np.ndarray | None, linear: bool) -> None:
        from trimesh.visual.material import empty_material

        corners = np.asarray(geometry.vertices, dtype=np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
        faces = np.asarray(geometry.faces, dtype=np.int64)
        if np.linalg.det(matrix[:3, :3]) < 0:
            faces = faces[:, ::-1]
        self.vertices = torch.from_numpy(np.ascontiguousarray(corners, dtype=np.float32))
        self.faces = torch.from_numpy(np.ascontiguousarray(faces))
        self.uvs: Tensor | None = None
        self.image: Any = None
        self.factor = torch.ones(3)  # linear
        self.colors: Tensor | None = None  # linear
        visual = geometry.visual
        if visual.kind == "texture":
            material = visual.material
            self.image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
            stand_in = self.image is not None and self.image.tobytes() == empty_material().image.tobytes()
            if stand_in:
                self.image = None  # the reader invents a grey picture where a file has uvs but no material
            if visual.uv is None or len(visual.uv) != len(self.vertices):
                self.image = None
            else:
                uv = np.asarray(visual.uv, dtype=np.float32)
                self.uvs = torch.from_numpy(np.stack([uv[:, 0], 1 - uv[:, 1]], axis=1))
            if not stand_in:
                self._take_factor(material, linear)
            exact = visual.vertex_attributes.get("color", exact)
        elif exact is None and visual.kind in ("vertex", "face"):
            exact = np.asarray(visual.vertex_colors)
        if exact is not None and len(exact) == len(self.vertices):
            scale = 1.0 if exact.dtype.kind == "f" else float(np.iinfo(exact.dtype).max)
            colors = torch.from_numpy(exact[:, :3].astype(np.float32) / scale)
            self.colors = (colors if linear else srgb_to_linear(colors)).clamp(0, 1)

    def _take_factor(self, material: Any, linear: bool) -> None:
        factor = getattr(material, "baseColorFactor", None)
        if factor is None and self.image is None:
            factor = getattr(material, "diffuse", None)
        if factor is not None:
            values = np.asarray(factor)
            scale = 1.0 if values.dtype.kind == "f" else 255.0
            color = torch.from_numpy(values[:3].astype(np.float32) / scale)
            self.factor = color if linear else srgb_to_linear(color)

    def texture(self) -> Tensor:
        """(H, W, 3) sRGB, the material's factor included."""
        picture = torch.from_numpy(np.asarray(self.image.convert("RGB")).copy()).float() / 255
        if bool((self.factor == 1).all()):
            return picture
        return linear_to_srgb(srgb_to_linear(picture) * self.factor).clamp(0, 1)

    def looks_like(self, other: _Part) -> bool:
        """Whether both carry the same picture and factor."""
        if self.image is None or other.image is None or not torch.equal(self.factor, other.factor):
            return False
        same = self.image is other.image
        return same or (self.image.size == other.image.size and self.image.tobytes() == other.image.tobytes())

    def vertex_look(self) -> Tensor | None:
        """Linear colours (V, 3) of the vertices with texture, factor and own colours multiplied; None for a plain white part."""
        look = self.colors
        if self.image is not None and self.uvs is not None:
            color = srgb_to_linear(sample_texture(self.texture(), self.uvs))
        elif bool((self.factor == 1).all()):
            return look
        else:
            color = self.factor.expand_as(self.vertices)
        return color if look is None else color * look


def _joined(parts: list[_Part]) -> Mesh:
    starts = np.cumsum([0] + [len(part.vertices) for part in parts])
    vertices = torch.cat([part.vertices for part in parts])
    faces = torch.cat([part.faces + int(start) for part, start in zip(parts, starts[:-1], strict=True)])
    uvs = None if any(part.uvs is None for part in parts) else torch.cat([part.uvs for part in parts if part.uvs is not None])
    first = parts[0]
    if first.image is not None and all(first.looks_like(part) for part in parts):
        colors = [part.colors for part in parts]
        own = None if all(c is None for c in colors) else _stacked(colors, parts)
        return Mesh(vertices, faces, uvs, first.texture(), own)
    looks = [part.vertex_look() for part in parts]
    return Mesh(vertices, faces, uvs, vertex_colors=None if all(look is None for look in looks) else _stacked(looks, parts))


def _stacked(colors: list[Tensor | None], parts: list[_Part]) -> Tensor:
    return torch.cat([torch.ones_like(p.vertices) if c is None else c for c, p in zip(colors, parts, strict=True)])
