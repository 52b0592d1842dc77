"""Renders library objects for training data: z-buffer with an alpha test inside it, which the package's own rasteriser has no need of.

Leaves, fences and nets of the library are flat faces with holes in their texture's alpha: a sample whose texture is
see-through must leave what lies behind it, so the test belongs between the depth comparison and the write.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from .objects import RenderObject

SIDE_LIGHT = np.array([0.5, 0.6, 0.62], np.float32) / np.float32(np.linalg.norm([0.5, 0.6, 0.62]))
CREASE = 0.75  # cosine; a corner normal farther than this from its face's is one averaged over a hard edge
AMBIENT, SKY, SIDE = 0.70, 0.12, 0.25  # at most about 1: a white object stays white


@dataclass(frozen=True)
class TextureAtlas:
    """All mip levels of an object's textures in one flat array, so that compiled code can reach them."""

    texels: NDArray[np.uint8]  # (T, 4)
    levels: NDArray[np.int64]  # (M, L, 3): first texel, height, width; height 0 where there is no such level
    base_colors: NDArray[np.uint8]  # (M, 3)


def build_atlas(obj: RenderObject) -> TextureAtlas:
    """Mip chains of the object's textures. Colours are averaged by alpha, so that what is cut away does not bleed in."""
    depth = 12
    levels = np.zeros((len(obj.textures), depth, 3), np.int64)
    chunks: list[NDArray[np.uint8]] = []
    start = 0
    for m, texture in enumerate(obj.textures):
        level = None if texture is None else texture.astype(np.float32)
        for k in range(depth):
            if level is None:
                break
            height, width = level.shape[:2]
            levels[m, k] = start, height, width
            chunks.append(np.round(level).astype(np.uint8).reshape(-1, 4))
            start += height * width
            level = _halve(level) if max(height, width) > 1 else None
    texels = np.concatenate(chunks) if chunks else np.zeros((1, 4), np.uint8)
    return TextureAtlas(texels, levels, obj.base_colors)


def _halve(level: NDArray[np.float32]) -> NDArray[np.float32]:
    height, width = level.shape[:2]
    even = np.pad(level, ((0, height % 2 if height > 1 else 1), (0, width % 2 if width > 1 else 1), (0, 0)), mode="edge")
    blocks = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2, 4)
    alpha = blocks[..., 3:] + 1e-3
    color = (blocks[..., :3] * alpha).sum((1, 3)) / alpha.sum((1, 3))
    return np.concatenate([color, blocks[..., 3:].mean((1, 3))], axis=-1)


@dataclass(frozen=True)
class Samples:
    """One view's samples, (S, S) each: z-depth (0 = nothing there), colour (3) in [0, 1], unit world normal (3) towards the camera."""

    depth: NDArray[np.float32]
    color: NDArray[np.float32]
    normal: NDArray[np.float32]


def render_samples(obj: RenderObject, atlas: TextureAtlas, c2w: NDArray[np.float32], focal: float, size: int, shaded: bool) -> Samples:
    """One square view, one sample at each pixel's centre.

    Args:
        c2w: (4, 4) camera-to-world, OpenGL axes.
        focal: focal length as a fraction of the picture's width.
        shaded: colours are albedo times a mild light fixed in the world; otherwise albedo.
    """
    rotation, eye = c2w[:3, :3].astype(np.float64), c2w[:3, 3].astype(np.float64)
    camera = (obj.vertices - eye) @ rotation
    z = -camera[:, 2]
    screen = np.empty((len(z), 3))
    safe = np.where(np.abs(z) < 1e-6, 1e-6, z)
    screen[:, 0] = (0.5 + focal * camera[:, 0] / safe) * size
    screen[:, 1] = (0.5 - focal * camera[:, 1] / safe) * size
    screen[:, 2] = 1 / safe
    depth, face, bary = _rasterise(screen, z, obj.faces, obj.uvs, obj.face_material, atlas.texels, atlas.levels, size)
    light = np.array([AMBIENT, SKY, SIDE] if shaded else [1.0, 0.0, 0.0], np.float32)
    color, normal = _shade(
        face, bary, screen, obj.vertices, obj.faces, obj.normals, obj.uvs, obj.face_material,
        atlas.texels, atlas.levels, atlas.base_colors, eye.astype(np.float32), SIDE_LIGHT, light,
    )  # fmt: skip
    return Samples(depth, color, normal)


@numba.njit(cache=True)
def _wrap(value: float, count: int) -> int:
    return min(int((value - np.floor(value)) * count), count - 1)


@numba.njit(cache=True)
def _rasterise(screen, z, faces, uvs, face_material, texels, levels, size):  # type: ignore[no-untyped-def]
    """Nearest opaque sample at each pixel centre: z-depth, face (-1 = none), perspective-correct weights of corners 1 and 2."""
    nearness = np.zeros((size, size), np.float64)
    face = np.full((size, size), -1, np.int32)
    bary = np.zeros((size, size, 2), np.float32)
    for f in range(faces.shape[0]):
        i0, i1, i2 = faces[f, 0], faces[f, 1], faces[f, 2]
        if z[i0] < 0.05 or z[i1] < 0.05 or z[i2] < 0.05:
            continue
        x0, y0, w0 = screen[i0, 0], screen[i0, 1], screen[i0, 2]
        x1, y1, w1 = screen[i1, 0], screen[i1, 1], screen[i1, 2]
        x2, y2, w2 = screen[i2, 0], screen[i2, 1], screen[i2, 2]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if area == 0.0 or not np.isfinite(area):
            continue
        left = max(int(np.ceil(min(x0, x1, x2) - 0.5)), 0)
        right = min(int(np.floor(max(x0, x1, x2) - 0.5)), size - 1)
        top = max(int(np.ceil(min(y0, y1, y2) - 0.5)), 0)
        bottom = min(int(np.floor(max(y0, y1, y2) - 0.5)), size - 1)
        m = face_material[f]
        start, height, width = levels[m, 0, 0], levels[m, 0, 1], levels[m, 0, 2]
        for row in range(top, bottom + 1):
            py = row + 0.5
            for column in range(left, right + 1):
                px = column + 0.5
                b1 = ((px - x0) * (y2 - y0) - (x2 - x0) * (py - y0)) / area
                b2 = ((x1 - x0) * (py - y0) - (px - x0) * (y1 - y0)) / area
                b0 = 1.0 - b1 - b2
                if b0 < 0.0 or b1 < 0.0 or b2 < 0.0:
                    continue
                near = b0 * w0 + b1 * w1 + b2 * w2
                if near <= nearness[row, column]:
                    continue
                c1, c2 = b1 * w1 / near, b2 * w2 / near
                if height > 0:
                    c0 = 1.0 - c1 - c2
                    u = c0 * uvs[i0, 0] + c1 * uvs[i1, 0] + c2 * uvs[i2, 0]
                    v = c0 * uvs[i0, 1] + c1 * uvs[i1, 1] + c2 * uvs[i2, 1]
                    if texels[start + _wrap(v, height) * width + _wrap(u, width), 3] < 128:
                        continue
                nearness[row, column] = near
                face[row, column] = f
                bary[row, column, 0] = c1
                bary[row, column, 1] = c2
    depth = np.zeros((size, size), np.float32)
    for row in range(size):
        for column in range(size):
            if face[row, column] >= 0:
                depth[row, column] = 1.0 / nearness[row, column]
    return depth, face, bary


@numba.njit(cache=True)
def _mip_level(screen, uvs, i0, i1, i2, height, width):  # type: ignore[no-untyped-def]
    """log2 of texels a pixel over this triangle, by the ratio of its areas in the texture and on the screen."""
    a, b, c = screen[i0], screen[i1], screen[i2]
    pixels = abs((b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1]))
    a, b, c = uvs[i0], uvs[i1], uvs[i2]
    area = abs((b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1]))
    ratio = area * height * width / max(pixels, 1e-9)
    return max(0.0, 0.5 * np.log2(max(ratio, 1e-9)))


@numba.njit(cache=True)
def _shade(face, bary, screen, vertices, faces, normals, uvs, face_material, texels, levels, base_colors, eye, side, light):  # type: ignore[no-untyped-def]
    size = face.shape[0]
    color = np.zeros((size, size, 3), np.float32)
    normal = np.zeros((size, size, 3), np.float32)
    n = np.zeros(3, np.float32)
    for row in range(size):
        for column in range(size):
            f = face[row, column]
            if f < 0:
                continue
            i0, i1, i2 = faces[f, 0], faces[f, 1], faces[f, 2]
            c1, c2 = bary[row, column, 0], bary[row, column, 1]
            c0 = 1 - c1 - c2
            # the flat normal turned to the camera decides sign and crease of the smooth ones: neither winding nor vn can be trusted
            flat = np.cross(vertices[i1] - vertices[i0], vertices[i2] - vertices[i0])
            flat /= np.sqrt(np.dot(flat, flat)) + np.float32(1e-20)
            if np.dot(flat, eye - vertices[i0]) < 0:
                flat = -flat
            n[:] = 0
            for corner in range(3):
                i = faces[f, corner]
                weight = c0 if corner == 0 else bary[row, column, corner - 1]
                agreement = np.dot(normals[i], flat)
                if abs(agreement) < CREASE:
                    n += weight * flat
                elif agreement < 0:
                    n -= weight * normals[i]
                else:
                    n += weight * normals[i]
            n /= np.sqrt(np.dot(n, n)) + np.float32(1e-20)
            normal[row, column] = n
            shade = light[0] + light[1] * n[1] + light[2] * max(np.dot(n, side), np.float32(0))
            m = face_material[f]
            if levels[m, 0, 1] > 0:
                u = c0 * uvs[i0, 0] + c1 * uvs[i1, 0] + c2 * uvs[i2, 0]
                v = c0 * uvs[i0, 1] + c1 * uvs[i1, 1] + c2 * uvs[i2, 1]
                k = int(_mip_level(screen, uvs, i0, i1, i2, levels[m, 0, 1], levels[m, 0, 2]) + 0.5)
                while k > 0 and (k >= levels.shape[1] or levels[m, k, 1] == 0):
                    k -= 1
                start, height, width = levels[m, k, 0], levels[m, k, 1], levels[m, k, 2]
                fu, fv = (u - np.floor(u)) * width - 0.5, (v - np.floor(v)) * height - 0.5
                x, y = int(np.floor(fu)), int(np.floor(fv))
                total = np.float32(0)
                for dy in range(2):
                    for dx in range(2):
                        t = start + ((y + dy) % height) * width + (x + dx) % width
                        weight = (1 - abs(fu - x - dx)) * (1 - abs(fv - y - dy)) * (texels[t, 3] + np.float32(1e-3))
                        total += weight
                        for c in range(3):
                            color[row, column, c] += weight * texels[t, c]
                for c in range(3):
                    color[row, column, c] /= total * np.float32(255)
            else:
                for c in range(3):
                    color[row, column, c] = base_colors[m, c] / np.float32(255)
            for c in range(3):
                color[row, column, c] = min(color[row, column, c] * shade, np.float32(1))
    return color, normal
