"""Textures that do not repeat outside the unit square, made to: Lathe's meshes, like glTF's default sampler, repeat theirs."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from .parts import Contents, Look
from .pictures import LARGEST_SIDE

REPEAT, MIRROR, CLAMP = 0, 1, 2
_SLACK = 1e-3


def repeating(look: Look, uvs: list[np.ndarray], wrap: tuple[int, int], contents: Contents) -> tuple[Look, list[np.ndarray]]:
    """The look and the uvs (V, 2) that use it, changed so that repeating shows what mirroring or clamping did.

    The texture is laid out over the tiles that the uvs reach; nothing changes where they stay in the unit square.
    """
    reached = [u for u in uvs if len(u)]
    for axis in (0, 1):
        low = min((float(u[:, axis].min()) for u in reached), default=0.0)
        high = max((float(u[:, axis].max()) for u in reached), default=1.0)
        if wrap[axis] == REPEAT or (low >= -_SLACK and high <= 1 + _SLACK):
            continue
        first, last = (0, 2) if wrap[axis] == MIRROR else (math.floor(low + _SLACK), math.ceil(high - _SLACK))
        sides = [image.shape[1 - axis] for image in _images(look)]
        if (last - first) * max(sides, default=1) > LARGEST_SIDE:
            contents.note("a texture that is clamped far outside its square is read as if its border were clamped at the vertices")
            uvs = [_clipped(u, axis) for u in uvs]
            continue
        look = _changed(look, axis, first, last, wrap[axis])
        for i, u in enumerate(uvs):
            moved = u.copy()
            moved[:, axis] = (moved[:, axis] - first) / (last - first)
            uvs[i] = moved
    return look, uvs


def _clipped(uv: np.ndarray, axis: int) -> np.ndarray:
    uv = uv.copy()
    uv[:, axis] = uv[:, axis].clip(0, 1)
    return uv


def _images(look: Look) -> list[np.ndarray]:
    maps = [image.numpy() for image in look.material.maps().values()]
    return maps if look.texture is None else [look.texture, *maps]


def _changed(look: Look, axis: int, first: int, last: int, wrap: int) -> Look:
    def tiled(image: np.ndarray) -> np.ndarray:
        size = image.shape[1 - axis]
        place = np.arange(first * size, last * size)
        if wrap == CLAMP:
            place = place.clip(0, size - 1)
        else:
            place = place % (2 * size)
            place = np.where(place < size, place, 2 * size - 1 - place)
        return np.ascontiguousarray(image.take(place, axis=1 - axis))

    maps = {name: torch.from_numpy(tiled(image.numpy())) for name, image in look.material.maps().items()}
    texture = None if look.texture is None else tiled(look.texture)
    return Look(texture, look.factor, replace(look.material, **maps))  # type: ignore[arg-type]
