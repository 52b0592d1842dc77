"""Binary glTF 2.0, written."""

from __future__ import annotations

import io
import json
import struct
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.mesh import Mesh
from ..ops.mesh_tools import vertex_normals

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
    attributes["NORMAL"] = add_array(unit_normals(mesh).astype("<f4"), "VEC3", _FLOAT, 34962)
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


def unit_normals(mesh: Mesh) -> np.ndarray:
    normals = vertex_normals(mesh.vertices, mesh.faces).numpy()
    normals[np.linalg.norm(normals, axis=1) < 0.5] = (0.0, 0.0, 1.0)  # vertices of no face: glTF asks for unit length
    return normals
