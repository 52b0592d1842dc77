"""glTF 2.0 primitives as triangles, morph targets applied (Khronos glTF 2.0, section 3.7.2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .gltf_accessors import floats, read_accessor
from .gltf_document import Gltf, natural
from .gltf_draco import EXTENSION as DRACO
from .gltf_draco import decode_draco
from .gltf_materials import number
from .parts import Contents

_TRIANGLES, _STRIP, _FAN = 4, 5, 6


@dataclass(frozen=True)
class Primitive:
    """Triangles of one mesh in its own axes; arrays as in `parts.Part`, float64.

    Attributes:
        material: index or None.
        uvs: by set.
        joints, weights: (V, 4 k), of every set of the skin; or None.
    """

    positions: np.ndarray
    faces: np.ndarray
    material: int | None
    normals: np.ndarray | None
    tangents: np.ndarray | None
    colors: np.ndarray | None
    uvs: dict[int, np.ndarray]
    joints: np.ndarray | None
    weights: np.ndarray | None


def read_primitive(gltf: Gltf, tree: dict[str, Any], morph: list[float], contents: Contents) -> Primitive | None:
    """One primitive, in the pose of the morph weights; None, with a note, where it has no triangles.

    Raises:
        ValueError: accessors that do not fit together, or vertices outside their range.
    """
    mode = natural(tree.get("mode", _TRIANGLES), "mode")
    if mode not in (_TRIANGLES, _STRIP, _FAN):
        contents.note("its points and lines are left out")
        return None
    attributes = tree.get("attributes")
    if not isinstance(attributes, dict) or "POSITION" not in attributes:
        contents.note("a primitive without positions is left out")
        return None
    faces: np.ndarray | None = None
    decoded: dict[str, np.ndarray] = {}
    if DRACO in (tree.get("extensions") or {}):
        faces, decoded = _draco(gltf, tree)

    def read(name: str, width: int, rows: int | None) -> np.ndarray | None:
        if name in decoded:
            values = decoded[name].astype(np.float64)
            if values.shape[1] != width or not np.isfinite(values).all():
                raise ValueError(f"its Draco-compressed {name} has {values.shape[1]} numbers or holds NaN")
            return values
        return None if name not in attributes else floats(gltf, attributes[name], width, rows, name)

    positions = read("POSITION", 3, None)
    assert positions is not None
    count = len(positions)
    if faces is None:
        faces = _faces(gltf, tree, mode, count)
    if len(faces) and (int(faces.min()) < 0 or int(faces.max()) >= count):
        raise ValueError(f"a face names vertex {int(faces.max())} of {count}")
    sets = sorted({int(name[9:]) for name in attributes if name.startswith("TEXCOORD_") and name[9:].isdigit()})
    uvs = {number: read(f"TEXCOORD_{number}", 2, count) for number in sets}
    primitive = Primitive(
        positions=positions,
        faces=faces,
        material=tree.get("material"),
        normals=read("NORMAL", 3, count),
        tangents=read("TANGENT", 4, count),
        colors=_colors(gltf, attributes, decoded, count, contents),
        uvs={number: uv for number, uv in uvs.items() if uv is not None},
        joints=_sets(gltf, attributes, decoded, "JOINTS_", count),
        weights=_sets(gltf, attributes, decoded, "WEIGHTS_", count),
    )
    return _morphed(gltf, tree, primitive, morph)


def _draco(gltf: Gltf, tree: dict[str, Any]) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
    """What Draco holds; nothing where that cannot be decoded and the file has an uncompressed copy."""
    try:
        return decode_draco(gltf, tree)
    except ValueError:
        copies = [gltf.item("accessors", index) for index in tree["attributes"].values()]
        if DRACO in (gltf.tree.get("extensionsRequired") or []) or any("bufferView" not in copy for copy in copies):
            raise
        return None, {}


def _faces(gltf: Gltf, tree: dict[str, Any], mode: int, count: int) -> np.ndarray:
    order = np.arange(count)
    if tree.get("indices") is not None:
        indices = read_accessor(gltf, tree["indices"])
        if indices.dtype.kind != "u" or indices.shape[1] != 1:
            raise ValueError("its indices are no unsigned whole numbers")
        order = indices[:, 0].astype(np.int64)
    if mode == _TRIANGLES:
        return order[: len(order) // 3 * 3].reshape(-1, 3)
    if len(order) < 3:
        return np.zeros((0, 3), np.int64)
    if mode == _FAN:
        return np.stack([order[1:-1], order[2:], np.broadcast_to(order[0], len(order) - 2)], axis=1)
    # Every second triangle of a strip is turned round, so that all wind the same way.
    odd = np.arange(len(order) - 2) % 2
    start = np.arange(len(order) - 2)
    return np.stack([order[start], order[start + 1 + odd], order[start + 2 - odd]], axis=1)


def _colors(gltf: Gltf, attributes: dict[str, Any], decoded: dict[str, Any], count: int, contents: Contents) -> np.ndarray | None:
    if "COLOR_0" not in attributes:
        return None
    values = decoded["COLOR_0"] if "COLOR_0" in decoded else read_accessor(gltf, attributes["COLOR_0"])
    if values.dtype.kind in "iu":
        contents.note("its vertex colours are whole numbers that are not marked as normalized; they are read as shares of the largest")
        values = values / float(np.iinfo(values.dtype).max)
    if len(values) != count or values.shape[1] not in (3, 4) or not np.isfinite(values).all():
        raise ValueError(f"its vertex colours have shape {values.shape}, or hold NaN, for {count} vertices")
    return values.astype(np.float64).clip(0, 1)


def _sets(gltf: Gltf, attributes: dict[str, Any], decoded: dict[str, Any], prefix: str, count: int) -> np.ndarray | None:
    """The sets PREFIX_0, PREFIX_1, ... side by side."""
    found: list[np.ndarray] = []
    while f"{prefix}{len(found)}" in attributes:
        name = f"{prefix}{len(found)}"
        values = decoded[name] if name in decoded else read_accessor(gltf, attributes[name])
        if values.shape != (count, 4) or not np.isfinite(values).all():
            raise ValueError(f"its {name} has shape {values.shape} for {count} vertices")
        found.append(values.astype(np.float64))
    return np.concatenate(found, axis=1) if found else None


def _morphed(gltf: Gltf, tree: dict[str, Any], primitive: Primitive, morph: list[float]) -> Primitive:
    targets = tree.get("targets") or []
    for target, weight in zip(targets, morph, strict=False):
        if weight == 0:
            continue
        count = len(primitive.positions)
        moved: dict[str, Any] = {}
        for name, field in (("POSITION", "positions"), ("NORMAL", "normals"), ("TANGENT", "tangents")):
            before = getattr(primitive, field)
            if name in target and before is not None:
                after = before.copy()
                after[:, :3] += weight * floats(gltf, target[name], 3, count, f"{name} of a morph target")
                moved[field] = after
        if "COLOR_0" in target and primitive.colors is not None:
            width = primitive.colors.shape[1]
            difference = floats(gltf, target["COLOR_0"], width, count, "COLOR_0 of a morph target")
            moved["colors"] = (primitive.colors + weight * difference).clip(0, 1)
        uvs = dict(primitive.uvs)
        for index in uvs:
            if f"TEXCOORD_{index}" in target:
                uvs[index] = uvs[index] + weight * floats(gltf, target[f"TEXCOORD_{index}"], 2, count, "UVs of a morph target")
        primitive = replace(primitive, uvs=uvs, **moved)
    return primitive


def morph_weights(node: dict[str, Any], mesh: dict[str, Any]) -> list[float]:
    """The node's weights, else the mesh's, else none."""
    weights = node.get("weights", mesh.get("weights")) or []
    if not isinstance(weights, list):
        raise ValueError("its morph weights are no list")
    return [number(weight) for weight in weights]
