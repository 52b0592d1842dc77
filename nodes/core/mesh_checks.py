"""What a core MESH of another node must be before it is read: core's class takes anything."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

OF_VERTEX = ("uvs", "vertex_colors", "normals", "tangents")
PICTURES = ("texture", "texture_alpha", "metallic_roughness", "normal_map", "emissive")
CHANNELS = (1, 3, 4)
COLORS = ("vertex_colors", *PICTURES)
DARKEST, BRIGHTEST = -0.5, 2.0  # of colours: beyond them they were meant for another range than 0 to 1

FARTHEST_UV = 1e6  # textures repeat, but not so often


def check_core_mesh(core: Any, vertices: Sequence[Tensor], faces: Sequence[Tensor], points: bool = False) -> None:
    """Checks counts, kinds of numbers, and that each part has a row for each vertex or a picture for each mesh.

    Args:
        core: the MESH.
        vertices, faces: its (V, 3) and (F, 3) for each mesh, padding and all.
        points: whether a mesh may have no faces, as a cloud of points.

    Raises:
        ValueError: it names the part and says what is right.
    """
    if not vertices:
        raise ValueError("The MESH holds no mesh; check the node that made it.")
    _check_counts("vertex_counts", getattr(core, "vertex_counts", None), vertices)
    _check_counts("face_counts", getattr(core, "face_counts", None), faces)
    for rows in faces:
        if rows.is_complex() or (rows.is_floating_point() and not bool((torch.isfinite(rows) & (rows == rows.round())).all())):
            raise ValueError("The MESH's faces must be whole numbers, the indices of vertices.")
    counts = getattr(core, "face_counts", None)
    if not points and (any(len(rows) == 0 for rows in faces) or (counts is not None and min(map(int, counts)) == 0)):
        raise ValueError("The MESH has no faces; points alone are no surface.")
    for rows in vertices:
        if rows.is_complex():
            raise ValueError("The MESH's vertices are complex numbers; real ones are expected.")
    for name in OF_VERTEX:
        _check_rows(name, getattr(core, name, None), vertices)
    for name in PICTURES:
        _check_pictures(name, getattr(core, name, None), len(vertices))
    uvs = getattr(core, "uvs", None)
    for item in uvs if isinstance(uvs, list | tuple) else [uvs]:
        if isinstance(item, Tensor) and item.numel() and FARTHEST_UV < float(item.abs().max()) < float("inf"):
            raise ValueError(f"The MESH's uvs go beyond {FARTHEST_UV:g}; the texture lies in 0 to 1.")
    material = getattr(core, "material", None)
    if material is not None and not isinstance(material, dict):
        raise ValueError(f"The MESH's material must be a dictionary of factors, not a {type(material).__name__}.")
    for name in COLORS:
        _check_range(name, getattr(core, name, None))


def _check_counts(name: str, counts: Any, rows: Sequence[Tensor]) -> None:
    if counts is None:
        return
    numbers = counts.tolist() if isinstance(counts, Tensor | np.ndarray) else counts
    if not isinstance(numbers, list | tuple) or len(numbers) != len(rows) or not all(isinstance(n, Integral) for n in numbers):
        raise ValueError(f"The MESH's {name} must be {len(rows)} whole numbers, one for each mesh.")
    for number, row in zip(numbers, rows, strict=True):
        if not 0 <= number <= len(row):
            raise ValueError(f"The MESH's {name} say {number}, but there are {len(row)} rows.")


def _check_pictures(name: str, value: Any, count: int) -> None:
    """Pictures (H, W, C) for each mesh; those of `texture_alpha` are (H, W)."""
    if value is None:
        return
    ndim = 2 if name == "texture_alpha" else 3
    lone = isinstance(value, Tensor) and value.ndim == ndim
    items = [value] if lone or not isinstance(value, list | tuple | Tensor) else list(value)
    for picture in items:
        if not isinstance(picture, Tensor) or picture.ndim != ndim or 0 in picture.shape:
            shape = tuple(picture.shape) if isinstance(picture, Tensor) else type(picture).__name__
            raise ValueError(f"The MESH's {name} must be pictures of {ndim} dimensions, not {shape}.")
        if ndim == 3 and picture.shape[-1] not in CHANNELS:
            raise ValueError(f"The MESH's {name} must have 1, 3 or 4 channels, not {picture.shape[-1]}.")
    if len(items) != count:
        raise ValueError(f"The MESH has {len(items)} pictures as {name} for {count} meshes; each mesh needs one.")


def _check_rows(name: str, value: Any, vertices: Sequence[Tensor]) -> None:
    if value is None:
        return
    if not isinstance(value, list | tuple | Tensor) or len(value) == 0:
        shown = "empty" if isinstance(value, list | tuple | Tensor) else f"a {type(value).__name__}"
        raise ValueError(f"The MESH's {name} need a row for each vertex; they are {shown}.")
    items = [value] if isinstance(value, Tensor) and value.ndim == 2 else value
    found = [tuple(item.shape) if isinstance(item, Tensor) else type(item).__name__ for item in items]
    if len(items) != len(vertices) or any(not isinstance(i, Tensor) or len(i) != len(v) for i, v in zip(items, vertices, strict=True)):
        wanted = ", ".join(str(len(rows)) for rows in vertices)
        raise ValueError(f"The MESH's {name} need a row for each vertex, {wanted}; they are {', '.join(map(str, found))}.")
    if any(item.is_complex() for item in items):
        raise ValueError(f"The MESH's {name} are complex numbers; real ones are expected.")


def _check_range(name: str, value: Any) -> None:
    for item in value if isinstance(value, list | tuple) else [value]:
        if not isinstance(item, Tensor) or not item.numel() or item.is_complex():
            continue
        numbers = item[torch.isfinite(item)]
        lowest, highest = (float(numbers.min()), float(numbers.max())) if numbers.numel() else (0.0, 0.0)
        if lowest < DARKEST or highest > BRIGHTEST:
            raise ValueError(
                f"The MESH's {name} go from {lowest:.4g} to {highest:.4g}; colours lie in 0 to 1: divide numbers up to 255 by 255."
            )
