"""Primitives compressed by Draco (KHR_draco_mesh_compression), decoded by DracoPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from .gltf_document import Gltf

EXTENSION = "KHR_draco_mesh_compression"


def decode_draco(gltf: Gltf, primitive: dict[str, Any]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Faces (F, 3) int64, and the decoded attributes (V, components) by their glTF names.

    Raises:
        ValueError: DracoPy is not installed, the data is damaged, or an attribute is missing.
    """
    try:
        import DracoPy
    except ImportError as error:
        raise ValueError("its geometry is compressed with Draco; install DracoPy to read it, or save it uncompressed") from error
    extension = primitive["extensions"][EXTENSION]
    names = extension.get("attributes")
    if not isinstance(names, dict):
        raise ValueError(f"its {EXTENSION} names no attributes")
    data = bytes(gltf.view(extension.get("bufferView"))[0])
    try:
        mesh = DracoPy.decode(data)
        decoded = {name: mesh.get_attribute_by_unique_id(number) for name, number in names.items()}
        faces = np.asarray(mesh.faces).astype(np.int64).reshape(-1, 3)
    except Exception as error:  # the decoder raises its own kinds
        raise ValueError(f"its Draco-compressed geometry cannot be decoded ({error}); save it uncompressed") from error
    missing = [name for name, attribute in decoded.items() if attribute is None]
    if missing:
        raise ValueError(f"its Draco-compressed geometry lacks {', '.join(missing)}")
    count = len(mesh.points)
    return faces, {name: _scaled(gltf, primitive, name, np.asarray(a["data"]).reshape(count, -1)) for name, a in decoded.items()}


def _scaled(gltf: Gltf, primitive: dict[str, Any], name: str, values: np.ndarray) -> np.ndarray:
    """Integers whose accessor says normalized -> shares."""
    accessor = gltf.item("accessors", (primitive.get("attributes") or {}).get(name))
    if accessor.get("normalized", False) and values.dtype.kind in "iu":
        return np.maximum(values / float(np.iinfo(values.dtype).max), -1.0)
    return values
