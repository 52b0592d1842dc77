"""Meshes in files: GLB and OBJ written with texture and material, GLB, glTF, OBJ, PLY, STL and OFF read."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .data.mesh import Mesh
from .ops.color import linear_to_srgb, srgb_to_linear
from .ops.mesh_tools import vertex_normals
from .ops.sampling import sample_texture

READABLE = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")
WRITABLE = (".glb", ".obj")
_FLOAT, _UINT = 5126, 5125  # glTF component types


def png_bytes(texture: Tensor) -> bytes:
    """(H, W, 3) in [0, 1] as an 8-bit PNG."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray((texture.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()).save(stream, "png")
    return stream.getvalue()


def glb_bytes(mesh: Mesh) -> bytes:
    """The mesh as one binary glTF 2.0 file: smooth normals, matt non-metallic material, colours as 32-bit floats.

    Written here because the usual exporters store linear colours in 8 bits, which shows as bands in dark places.
    """
    parts: list[bytes] = []
    views: list[dict[str, int]] = []
    accessors: list[dict[str, Any]] = []

    def add_bytes(data: bytes, **view: int) -> int:
        views.append({"buffer": 0, "byteOffset": sum(map(len, parts)), "byteLength": len(data), **view})
        parts.append(data + b"\0" * (-len(data) % 4))
        return len(views) - 1

    def add_array(values: np.ndarray, kind: str, component: int, target: int) -> int:
        view = add_bytes(values.tobytes(), target=target)
        accessors.append({"bufferView": view, "componentType": component, "count": len(values), "type": kind})
        return len(accessors) - 1

    vertices = mesh.vertices.numpy().astype("<f4")
    attributes = {"POSITION": add_array(vertices, "VEC3", _FLOAT, 34962)}
    if len(vertices):
        accessors[-1].update(min=vertices.min(axis=0).tolist(), max=vertices.max(axis=0).tolist())
    attributes["NORMAL"] = add_array(_unit_normals(mesh).astype("<f4"), "VEC3", _FLOAT, 34962)
    if mesh.uvs is not None:
        attributes["TEXCOORD_0"] = add_array(mesh.uvs.numpy().astype("<f4"), "VEC2", _FLOAT, 34962)
    if mesh.vertex_colors is not None:
        attributes["COLOR_0"] = add_array(mesh.vertex_colors.clamp(0, 1).numpy().astype("<f4"), "VEC3", _FLOAT, 34962)
    indices = add_array(mesh.faces.numpy().astype("<u4").reshape(-1), "SCALAR", _UINT, 34963)
    surface: dict[str, Any] = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
    tree: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "Lathe"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": attributes, "indices": indices, "material": 0, "mode": 4}]}],
        "materials": [{"pbrMetallicRoughness": surface, "doubleSided": False}],
    }
    if mesh.texture is not None:
        surface["baseColorTexture"] = {"index": 0}
        tree["images"] = [{"bufferView": add_bytes(png_bytes(mesh.texture)), "mimeType": "image/png"}]
        tree["samplers"] = [{"magFilter": 9729, "minFilter": 9987, "wrapS": 10497, "wrapT": 10497}]
        tree["textures"] = [{"source": 0, "sampler": 0}]
    body = b"".join(parts)
    tree |= {"accessors": accessors, "bufferViews": views, "buffers": [{"byteLength": len(body)}]}
    head = json.dumps(tree, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 4)
    chunks = struct.pack("<II", len(head), 0x4E4F534A) + head + struct.pack("<II", len(body), 0x004E4942) + body
    return struct.pack("<III", 0x46546C67, 2, 12 + len(chunks)) + chunks


def obj_files(mesh: Mesh, stem: str) -> dict[str, bytes]:
    """The mesh as `stem`.obj, and with a texture `stem`.mtl and `stem`.png; vertex colours are written as sRGB behind the positions.

    OBJ counts texture rows from the bottom, so v is turned here and back in `read_mesh`.
    """
    columns = [mesh.vertices.numpy()]
    if mesh.vertex_colors is not None and mesh.texture is None:
        columns.append(linear_to_srgb(mesh.vertex_colors.clamp(0, 1)).numpy())
    lines = ["# Lathe"]
    files: dict[str, bytes] = {}
    if mesh.texture is not None:
        lines += [f"mtllib {stem}.mtl", "usemtl surface"]
        material = ["newmtl surface", "Ka 0 0 0", "Kd 1 1 1", "Ks 0 0 0", "d 1", "illum 1", f"map_Kd {stem}.png"]
        files[f"{stem}.mtl"] = ("\n".join(material) + "\n").encode()
        files[f"{stem}.png"] = png_bytes(mesh.texture)
    lines += _rows("v", np.concatenate(columns, axis=1))
    if mesh.uvs is not None:
        lines += _rows("vt", np.stack([mesh.uvs[:, 0].numpy(), 1 - mesh.uvs[:, 1].numpy()], axis=1))
    lines += _rows("vn", _unit_normals(mesh))
    corner = "{0}/{0}/{0}" if mesh.uvs is not None else "{0}//{0}"
    pattern = "f " + " ".join(corner.replace("0", str(i)) for i in range(3))
    lines += [pattern.format(*face) for face in (mesh.faces + 1).tolist()]
    return {**files, f"{stem}.obj": ("\n".join(lines) + "\n").encode()}


def _rows(word: str, values: np.ndarray) -> list[str]:
    pattern = word + " %.9g" * values.shape[1]
    return [pattern % tuple(row) for row in values.tolist()]


def _unit_normals(mesh: Mesh) -> np.ndarray:
    normals = vertex_normals(mesh.vertices, mesh.faces).numpy()
    normals[np.linalg.norm(normals, axis=1) < 0.5] = (0.0, 0.0, 1.0)  # vertices of no face: glTF asks for unit length
    return normals


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
