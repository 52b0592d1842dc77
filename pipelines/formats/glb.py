"""Binary glTF 2.0, written."""

from __future__ import annotations

import io
import json
import math
import struct
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.material import Material
from ..data.mesh import Mesh
from ..ops.mesh_tools import vertex_normals

_FLOAT, _UINT = 5126, 5125  # glTF component types
_ARRAY, _ELEMENTS = 34962, 34963  # glTF buffer targets


def png_bytes(image: Tensor) -> bytes:
    """(H, W, 1, 3 or 4) in [0, 1] as an 8-bit PNG."""
    from PIL import Image

    stream = io.BytesIO()
    pixels = (image.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(stream, "png")
    return stream.getvalue()


def glb_bytes(mesh: Mesh) -> bytes:
    """The mesh as one binary glTF 2.0 file, with everything `Mesh` and `Material` hold; colours as 32-bit floats.

    Written here because the usual exporters store linear colours in 8 bits, which shows as bands in dark places.
    """
    writer = _Writer()
    vertices = mesh.vertices.numpy().astype("<f4")
    attributes = {"POSITION": writer.array(vertices, "VEC3", _FLOAT, _ARRAY)}
    if len(vertices):
        writer.accessors[-1].update(min=vertices.min(axis=0).tolist(), max=vertices.max(axis=0).tolist())
    attributes["NORMAL"] = writer.array(unit_normals(mesh).astype("<f4"), "VEC3", _FLOAT, _ARRAY)
    if mesh.tangents is not None:
        attributes["TANGENT"] = writer.array(_unit_tangents(mesh.tangents).astype("<f4"), "VEC4", _FLOAT, _ARRAY)
    if mesh.uvs is not None:
        attributes["TEXCOORD_0"] = writer.array(mesh.uvs.numpy().astype("<f4"), "VEC2", _FLOAT, _ARRAY)
    if mesh.vertex_colors is not None:
        colors = mesh.vertex_colors.clamp(0, 1).numpy().astype("<f4")
        attributes["COLOR_0"] = writer.array(colors, f"VEC{colors.shape[1]}", _FLOAT, _ARRAY)
    indices = writer.array(mesh.faces.numpy().astype("<u4").reshape(-1), "SCALAR", _UINT, _ELEMENTS)
    extensions: list[str] = []
    tree: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "Lathe"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": attributes, "indices": indices, "material": 0, "mode": 4}]}],
        "materials": [_material(mesh.texture, mesh.material, writer, extensions)],
    }
    if extensions:
        tree["extensionsUsed"] = extensions
    if writer.images:
        tree["images"] = writer.images
        tree["samplers"] = [{"magFilter": 9729, "minFilter": 9987, "wrapS": 10497, "wrapT": 10497}]
        tree["textures"] = [{"source": index, "sampler": 0} for index in range(len(writer.images))]
    return writer.file(tree)


class _Writer:
    """The binary part of a file as it grows."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.views: list[dict[str, int]] = []
        self.accessors: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []

    def view(self, data: bytes, **view: int) -> int:
        self.views.append({"buffer": 0, "byteOffset": sum(map(len, self.parts)), "byteLength": len(data), **view})
        self.parts.append(data + b"\0" * (-len(data) % 4))
        return len(self.views) - 1

    def array(self, values: np.ndarray, kind: str, component: int, target: int) -> int:
        view = self.view(values.tobytes(), target=target)
        self.accessors.append({"bufferView": view, "componentType": component, "count": len(values), "type": kind})
        return len(self.accessors) - 1

    def texture(self, image: Tensor) -> dict[str, int]:
        """A texture info; texture and image have one index."""
        self.images.append({"bufferView": self.view(png_bytes(image)), "mimeType": "image/png"})
        return {"index": len(self.images) - 1}

    def file(self, tree: dict[str, Any]) -> bytes:
        body = b"".join(self.parts)
        tree |= {"accessors": self.accessors, "bufferViews": self.views, "buffers": [{"byteLength": len(body)}]}
        head = json.dumps(tree, separators=(",", ":")).encode()
        head += b" " * (-len(head) % 4)
        chunks = struct.pack("<II", len(head), 0x4E4F534A) + head + struct.pack("<II", len(body), 0x004E4942) + body
        return struct.pack("<III", 0x46546C67, 2, 12 + len(chunks)) + chunks


def _material(texture: Tensor | None, material: Material, writer: _Writer, extensions: list[str]) -> dict[str, Any]:
    surface: dict[str, Any] = {"metallicFactor": _share(material.metallic), "roughnessFactor": _share(material.roughness)}
    tree: dict[str, Any] = {"pbrMetallicRoughness": surface, "doubleSided": material.double_sided}
    if texture is not None:
        surface["baseColorTexture"] = writer.texture(texture)
    if material.metallic_roughness is not None:
        surface["metallicRoughnessTexture"] = writer.texture(material.metallic_roughness)
        if material.occlusion_in_red:
            strength = _share(material.occlusion_strength)
            tree["occlusionTexture"] = {**surface["metallicRoughnessTexture"], **({} if strength == 1 else {"strength": strength})}
    if material.normal_map is not None:
        scale = {} if material.normal_scale == 1 else {"scale": material.normal_scale}
        tree["normalTexture"] = {**writer.texture(material.normal_map), **scale}
    if material.emissive is not None:
        tree["emissiveTexture"] = writer.texture(material.emissive)
    if any(material.emissive_factor):
        # Each component is at most 1; brighter light takes the extension.
        factor = [max(0.0, value) * max(0.0, material.emissive_strength) for value in material.emissive_factor]
        strength = max(1.0, *factor)
        tree["emissiveFactor"] = [value / strength for value in factor]
        if strength > 1:
            tree.setdefault("extensions", {})["KHR_materials_emissive_strength"] = {"emissiveStrength": strength}
            extensions.append("KHR_materials_emissive_strength")
    if material.alpha_mode != "OPAQUE":
        tree["alphaMode"] = material.alpha_mode
    if material.alpha_mode == "MASK":
        tree["alphaCutoff"] = max(0.0, material.alpha_cutoff)
    if material.unlit:
        tree.setdefault("extensions", {})["KHR_materials_unlit"] = {}
        extensions.append("KHR_materials_unlit")
    return tree


def _share(value: float) -> float:
    return min(1.0, max(0.0, value))


def unit_normals(mesh: Mesh) -> np.ndarray:
    """(V, 3) of length 1: the mesh's own, else smooth ones."""
    if mesh.normals is not None:
        return _unit(mesh.normals.numpy(), (0.0, 0.0, 1.0))
    # Areas of a very small or large mesh leave float32's range; a power of two changes no digit.
    size = float(mesh.vertices.abs().max()) if len(mesh.vertices) else 0.0
    near_one = torch.ldexp(mesh.vertices, torch.tensor(-math.frexp(size)[1]))
    return _unit(vertex_normals(near_one, mesh.faces).numpy(), (0.0, 0.0, 1.0))


def _unit_tangents(tangents: Tensor) -> np.ndarray:
    direction = _unit(tangents[:, :3].numpy(), (1.0, 0.0, 0.0))
    return np.concatenate([direction, np.where(tangents[:, 3:].numpy() < 0, -1.0, 1.0)], axis=1)


def _unit(rows: np.ndarray, stand_in: tuple[float, float, float]) -> np.ndarray:
    """Each row at length 1, as glTF asks; rows of zeros, those of vertices of no face, become the stand-in."""
    length = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    exact = np.where(np.abs(length - 1) < 1e-4, 1.0, length)
    return np.where(length > 0, rows / np.where(length > 0, exact, 1.0), np.array(stand_in))
