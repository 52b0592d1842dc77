"""CPU mesh rasteriser: z-buffer visibility and fused barycentric kernels, compiled by numba.

The differentiable functions are torch.autograd.Function pairs around one forward and one backward kernel each. Kernels
compute in float64, whatever the tensors hold: a sub-pixel triangle loses four digits to cancellation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .numba_jit import for_each, jit

MINIMUM_W = 1e-8
MINIMUM_AREA = 1e-12


@jit
def _visibility(pos, tri, face, depth):  # type: ignore[no-untyped-def]
    height, width = face.shape
    n_vertices = pos.shape[0]
    sx, sy, sz = np.empty(n_vertices), np.empty(n_vertices), np.empty(n_vertices)
    for v in range(n_vertices):
        w = np.float64(pos[v, 3])
        if w > MINIMUM_W:
            sx[v] = (0.5 + 0.5 * pos[v, 0] / w) * width
            sy[v] = (0.5 - 0.5 * pos[v, 1] / w) * height
            sz[v] = pos[v, 2] / w
        else:
            sx[v] = np.nan
    for f in range(tri.shape[0]):
        i, j, k = tri[f, 0], tri[f, 1], tri[f, 2]
        x0, x1, x2 = sx[i], sx[j], sx[k]
        if not (x0 + x1 + x2 == x0 + x1 + x2):
            continue
        y0, y1, y2 = sy[i], sy[j], sy[k]
        left, right = max(min(x0, x1, x2), 0.0), min(max(x0, x1, x2), np.float64(width))
        top, bottom = max(min(y0, y1, y2), 0.0), min(max(y0, y1, y2), np.float64(height))
        if left > right or top > bottom:
            continue
        column0, column1 = np.int64(np.ceil(left - 0.5)), np.int64(np.floor(right - 0.5))
        row0, row1 = np.int64(np.ceil(top - 0.5)), np.int64(np.floor(bottom - 0.5))
        column1, row1 = min(column1, width - 1), min(row1, height - 1)
        if column0 > column1 or row0 > row1:
            continue
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if abs(area) < MINIMUM_AREA:
            continue
        sign = 1.0 if area > 0 else -1.0
        # Edge functions as A x + B y + C: the two faces of an edge get exactly opposite values, so no pixel falls between.
        a0, b0, c0 = sign * (y1 - y2), sign * (x2 - x1), sign * (x1 * y2 - x2 * y1)
        a1, b1, c1 = sign * (y2 - y0), sign * (x0 - x2), sign * (x2 * y0 - x0 * y2)
        a2, b2, c2 = sign * (y0 - y1), sign * (x1 - x0), sign * (x0 * y1 - x1 * y0)
        scale = 1.0 / abs(area)
        z0, z1, z2 = sz[i] * scale, sz[j] * scale, sz[k] * scale
        za, zb, zc = a0 * z0 + a1 * z1 + a2 * z2, b0 * z0 + b1 * z1 + b2 * z2, c0 * z0 + c1 * z1 + c2 * z2
        for row in range(row0, row1 + 1):
            py = row + 0.5
            r0, r1, r2, rz = b0 * py + c0, b1 * py + c1, b2 * py + c2, zb * py + zc
            for column in range(column0, column1 + 1):
                px = column + 0.5
                if a0 * px + r0 >= 0.0 and a1 * px + r1 >= 0.0 and a2 * px + r2 >= 0.0:
                    z = za * px + rz
                    if z >= -1.0 and z < depth[row, column]:
                        depth[row, column] = z
                        face[row, column] = f


@jit
def _barycentrics(pos, tri, face, bary, zw):  # type: ignore[no-untyped-def]
    height, width = face.shape
    for row in range(height):
        py = 1.0 - (row + 0.5) / height * 2.0
        for column in range(width):
            f = face[row, column]
            if f < 0:
                bary[row, column, 0] = bary[row, column, 1] = bary[row, column, 2] = 0.0
                zw[row, column] = 0.0
                continue
            px = (column + 0.5) / width * 2.0 - 1.0
            i, j, k = tri[f, 0], tri[f, 1], tri[f, 2]
            w0, w1, w2 = np.float64(pos[i, 3]), np.float64(pos[j, 3]), np.float64(pos[k, 3])
            x0, x1, x2 = pos[i, 0] - px * w0, pos[j, 0] - px * w1, pos[k, 0] - px * w2
            y0, y1, y2 = pos[i, 1] - py * w0, pos[j, 1] - py * w1, pos[k, 1] - py * w2
            c0, c1, c2 = x1 * y2 - x2 * y1, x2 * y0 - x0 * y2, x0 * y1 - x1 * y0
            scale = 1.0 / (c0 + c1 + c2)
            u0, u1, u2 = c0 * scale, c1 * scale, c2 * scale
            bary[row, column, 0], bary[row, column, 1], bary[row, column, 2] = u0, u1, u2
            zw[row, column] = (u0 * pos[i, 2] + u1 * pos[j, 2] + u2 * pos[k, 2]) / (u0 * w0 + u1 * w1 + u2 * w2)


@jit
def _interpolate(attr, tri, face, bary, out):  # type: ignore[no-untyped-def]
    height, width = face.shape
    for row in range(height):
        for column in range(width):
            f = face[row, column]
            if f < 0:
                for c in range(attr.shape[1]):
                    out[row, column, c] = 0.0
                continue
            i, j, k = tri[f, 0], tri[f, 1], tri[f, 2]
            u0, u1, u2 = bary[row, column, 0], bary[row, column, 1], bary[row, column, 2]
            for c in range(attr.shape[1]):
                out[row, column, c] = u0 * attr[i, c] + u1 * attr[j, c] + u2 * attr[k, c]


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(tensor.detach().cpu().numpy())


def visibility(pos: Tensor, tri: Tensor, height: int, width: int) -> Tensor:
    """Nearest face at each pixel centre: (B, V, 4) clip positions, (F, 3) faces -> (B, H, W) int64, -1 where there is none."""
    batch = pos.shape[0]
    positions, faces = _array(pos), _array(tri)
    face = np.full((batch, height, width), -1, np.int64)

    def work(index: int) -> None:
        _visibility(positions[index], faces, face[index], np.full((height, width), 1.0))

    for_each(work, batch)
    return torch.from_numpy(face).to(pos.device)


def barycentrics(pos: Tensor, tri: Tensor, face: Tensor) -> tuple[Tensor, Tensor]:
    """Perspective-correct barycentrics (B, H, W, 3) and depth z/w (B, H, W) of the given faces at the pixel centres."""
    positions, faces, ids = _array(pos), _array(tri), _array(face)
    bary = np.empty((*ids.shape, 3), positions.dtype)
    zw = np.empty(ids.shape, positions.dtype)
    for_each(lambda b: _barycentrics(positions[b], faces, ids[b], bary[b], zw[b]), ids.shape[0])
    return torch.from_numpy(bary).to(pos.device), torch.from_numpy(zw).to(pos.device)


def interpolate(attr: Tensor, tri: Tensor, face: Tensor, bary: Tensor) -> Tensor:
    """Vertex attributes (B, V, A) or (V, A) at the pixels: (B, H, W, A), zero on the background."""
    values, faces, ids, weights = _array(attr), _array(tri), _array(face), _array(bary)
    out = np.empty((*ids.shape, values.shape[-1]), values.dtype)

    def work(b: int) -> None:
        _interpolate(values if values.ndim == 2 else values[b], faces, ids[b], weights[b], out[b])

    for_each(work, ids.shape[0])
    return torch.from_numpy(out).to(attr.device)
