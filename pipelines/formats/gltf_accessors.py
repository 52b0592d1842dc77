"""glTF 2.0 accessors as arrays (Khronos glTF 2.0, sections 3.6.2 and 3.11)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .gltf_document import Gltf, natural, shown

_COMPONENTS = {5120: np.int8, 5121: np.uint8, 5122: np.int16, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_MOST_EMPTY = 1 << 26  # numbers of all accessors without data, which a file of a few bytes can ask for


def read_accessor(gltf: Gltf, index: Any) -> np.ndarray:
    """An accessor's elements (N, components) in the type of the file; normalized integers as float64 in [-1, 1].

    Raises:
        ValueError: an unknown type, or elements outside the buffer.
    """
    accessor = gltf.item("accessors", index)
    dtype, width = _element(accessor, index)
    count = natural(accessor.get("count"), "count")
    if accessor.get("bufferView") is not None:
        values = _elements(gltf, accessor["bufferView"], accessor.get("byteOffset", 0), dtype, width, count, index)
    else:
        gltf.empty_numbers += count * width
        if gltf.empty_numbers > _MOST_EMPTY:
            raise ValueError(f"accessor {index} has {count} elements and no data, too many with those before")
        values = np.zeros((count, width), dtype)
    if accessor.get("sparse") is not None:
        values = _with_sparse(gltf, accessor["sparse"], values, index)
    if accessor.get("normalized", False) and dtype is not np.float32:
        # Signed integers have one value more below zero; it means -1 too.
        return np.maximum(values / float(np.iinfo(dtype).max), -1.0)
    return values


def _element(accessor: dict[str, Any], index: Any) -> tuple[type, int]:
    kind, component = accessor.get("type"), accessor.get("componentType")
    if kind not in _WIDTHS or component not in _COMPONENTS:
        raise ValueError(f"accessor {index} is of type {shown(kind)} and component type {shown(component)}, which glTF 2.0 does not know")
    if kind in ("MAT2", "MAT3") and component != 5126:
        raise ValueError(f"accessor {index} holds matrices of integers, which nothing in a mesh uses")
    return _COMPONENTS[component], _WIDTHS[kind]


def _elements(gltf: Gltf, view: Any, offset: Any, dtype: type, width: int, count: int, index: Any) -> np.ndarray:
    data, stride = gltf.view(view)
    start, size = natural(offset, "byteOffset"), np.dtype(dtype).itemsize * width
    stride = stride or size
    if count and start + stride * (count - 1) + size > len(data):
        raise ValueError(f"accessor {index} reaches behind its buffer view; the file may be cut short")
    if count == 0:
        return np.zeros((0, width), dtype)
    rows = np.ndarray((count, width), np.dtype(dtype).newbyteorder("<"), data, start, (stride, np.dtype(dtype).itemsize))
    return rows.astype(dtype)


def _with_sparse(gltf: Gltf, sparse: dict[str, Any], values: np.ndarray, index: Any) -> np.ndarray:
    count = natural(sparse.get("count"), "count")
    where, new = sparse.get("indices") or {}, sparse.get("values") or {}
    if where.get("componentType") not in (5121, 5123, 5125):
        raise ValueError(f"accessor {index} has sparse indices of component type {shown(where.get('componentType'))}")
    kind = _COMPONENTS[where["componentType"]]
    rows = _elements(gltf, where.get("bufferView"), where.get("byteOffset", 0), kind, 1, count, index)[:, 0].astype(np.int64)
    if count and int(rows.max()) >= len(values):
        raise ValueError(f"accessor {index} replaces an element that it does not have")
    values = values.copy()
    values[rows] = _elements(gltf, new.get("bufferView"), new.get("byteOffset", 0), values.dtype.type, values.shape[1], count, index)
    return values


def floats(gltf: Gltf, index: Any, width: int, rows: int | None, what: str) -> np.ndarray:
    """An accessor as float64 (N, width).

    Raises:
        ValueError: another width, another number of rows than `rows`, or numbers that are not finite.
    """
    values = read_accessor(gltf, index).astype(np.float64)
    if values.shape[1] != width or (rows is not None and len(values) != rows):
        raise ValueError(f"its {what} has shape {values.shape}, {(rows if rows is not None else 'N', width)} is right")
    if not np.isfinite(values).all():
        raise ValueError(f"its {what} holds NaN or infinite numbers")
    return values
