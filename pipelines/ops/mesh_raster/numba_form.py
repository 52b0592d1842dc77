"""CPU mesh rasteriser: z-buffer visibility and fused barycentric kernels, compiled by numba.

The differentiable functions are torch.autograd.Function pairs around one forward and one backward kernel each. Kernels
compute in float64, whatever the tensors hold: a sub-pixel triangle loses four digits to cancellation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..mesh_topology import Topology
from ..numba_jit import for_each, jit
from .torch_form import DEPTH_TOLERANCE, MINIMUM_AREA, MINIMUM_W


@jit
def _project(pos, height, width):  # type: ignore[no-untyped-def]
    """Pixel coordinates and depth z/w of each vertex; x is NaN for a vertex that is not in front of the camera."""
    n_vertices = pos.shape[0]
    sx, sy, sz = np.empty(n_vertices), np.empty(n_vertices), np.empty(n_vertices)
    for v in range(n_vertices):
        w = np.float64(pos[v, 3])
        if w > MINIMUM_W:
            sx[v] = (0.5 + 0.5 * pos[v, 0] / w) * width
            sy[v] = (0.5 - 0.5 * pos[v, 1] / w) * height
            sz[v] = pos[v, 2] / w
        else:
            sx[v], sy[v], sz[v] = np.nan, 0.0, 0.0
    return sx, sy, sz


@jit
def _visibility(pos, tri, face, depth, behind):  # type: ignore[no-untyped-def]
    height, width = face.shape
    sx, sy, sz = _project(pos, height, width)
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
                    if z >= behind[row, column] and z < depth[row, column]:
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


@jit
def _barycentrics_backward(pos, tri, face, grad_bary, grad_zw, grad_pos):  # type: ignore[no-untyped-def]
    height, width = face.shape
    for row in range(height):
        py = 1.0 - (row + 0.5) / height * 2.0
        for column in range(width):
            f = face[row, column]
            if f < 0:
                continue
            g0, g1, g2 = grad_bary[row, column, 0], grad_bary[row, column, 1], grad_bary[row, column, 2]
            gz = np.float64(grad_zw[row, column])
            if g0 == 0.0 and g1 == 0.0 and g2 == 0.0 and gz == 0.0:
                continue
            px = (column + 0.5) / width * 2.0 - 1.0
            i, j, k = tri[f, 0], tri[f, 1], tri[f, 2]
            z0, z1, z2 = np.float64(pos[i, 2]), np.float64(pos[j, 2]), np.float64(pos[k, 2])
            w0, w1, w2 = np.float64(pos[i, 3]), np.float64(pos[j, 3]), np.float64(pos[k, 3])
            x0, x1, x2 = pos[i, 0] - px * w0, pos[j, 0] - px * w1, pos[k, 0] - px * w2
            y0, y1, y2 = pos[i, 1] - py * w0, pos[j, 1] - py * w1, pos[k, 1] - py * w2
            c0, c1, c2 = x1 * y2 - x2 * y1, x2 * y0 - x0 * y2, x0 * y1 - x1 * y0
            scale = 1.0 / (c0 + c1 + c2)
            u0, u1, u2 = c0 * scale, c1 * scale, c2 * scale
            # zw = sum(u z) / sum(u w)
            gw = gz / (u0 * w0 + u1 * w1 + u2 * w2)
            zw = (u0 * z0 + u1 * z1 + u2 * z2) / (u0 * w0 + u1 * w1 + u2 * w2)
            h0, h1, h2 = g0 + gw * (z0 - zw * w0), g1 + gw * (z1 - zw * w1), g2 + gw * (z2 - zw * w2)
            # u = c / sum(c)
            mean = h0 * u0 + h1 * u1 + h2 * u2
            d0, d1, d2 = (h0 - mean) * scale, (h1 - mean) * scale, (h2 - mean) * scale
            # c_i = x_j y_k - x_k y_j
            gx0, gx1, gx2 = d2 * y1 - d1 * y2, d0 * y2 - d2 * y0, d1 * y0 - d0 * y1
            gy0, gy1, gy2 = d1 * x2 - d2 * x1, d2 * x0 - d0 * x2, d0 * x1 - d1 * x0
            grad_pos[i, 0] += gx0
            grad_pos[i, 1] += gy0
            grad_pos[i, 2] += gw * u0
            grad_pos[i, 3] -= px * gx0 + py * gy0 + gw * zw * u0
            grad_pos[j, 0] += gx1
            grad_pos[j, 1] += gy1
            grad_pos[j, 2] += gw * u1
            grad_pos[j, 3] -= px * gx1 + py * gy1 + gw * zw * u1
            grad_pos[k, 0] += gx2
            grad_pos[k, 1] += gy2
            grad_pos[k, 2] += gw * u2
            grad_pos[k, 3] -= px * gx2 + py * gy2 + gw * zw * u2


@jit
def _interpolate_backward(attr, tri, face, bary, grad_out, grad_attr, grad_bary):  # type: ignore[no-untyped-def]
    height, width = face.shape
    for row in range(height):
        for column in range(width):
            f = face[row, column]
            s0, s1, s2 = 0.0, 0.0, 0.0
            if f >= 0:
                i, j, k = tri[f, 0], tri[f, 1], tri[f, 2]
                u0, u1, u2 = bary[row, column, 0], bary[row, column, 1], bary[row, column, 2]
                for c in range(attr.shape[1]):
                    g = np.float64(grad_out[row, column, c])
                    if g == 0.0:
                        continue
                    grad_attr[i, c] += g * u0
                    grad_attr[j, c] += g * u1
                    grad_attr[k, c] += g * u2
                    s0 += g * attr[i, c]
                    s1 += g * attr[j, c]
                    s2 += g * attr[k, c]
            grad_bary[row, column, 0], grad_bary[row, column, 1], grad_bary[row, column, 2] = s0, s1, s2


@jit
def _plane_depth(sx, sy, sz, i, j, k, px, py):  # type: ignore[no-untyped-def]
    """Depth z/w of a face's plane at a screen point; z/w is affine on the screen."""
    x0, x1, x2 = sx[i] - px, sx[j] - px, sx[k] - px
    y0, y1, y2 = sy[i] - py, sy[j] - py, sy[k] - py
    c0, c1, c2 = x1 * y2 - x2 * y1, x2 * y0 - x0 * y2, x0 * y1 - x1 * y0
    total = c0 + c1 + c2
    return (c0 * sz[i] + c1 * sz[j] + c2 * sz[k]) / total if total != 0.0 else np.nan


@jit
def _silhouette(sx, sy, edges, offsets, opposite, e):  # type: ignore[no-untyped-def]
    """+1 or -1 when all faces of the edge lie on one side of it on the screen, 0 when they do not."""
    a, b = edges[e, 0], edges[e, 1]
    positive, negative = False, False
    for n in range(offsets[e], offsets[e + 1]):
        o = opposite[n]
        side = (sx[b] - sx[a]) * (sy[o] - sy[a]) - (sy[b] - sy[a]) * (sx[o] - sx[a])
        positive |= side > 0.0
        negative |= side < 0.0
    return int(positive) - int(negative)


@jit
def _crossings(pos, tri, face, zw, edges, offsets, opposite):  # type: ignore[no-untyped-def]
    height, width = face.shape
    sx, sy, sz = _project(pos, height, width)
    # Per pair of pixels (named by its left or upper one, per axis) the outermost crossing: distance, edge, which is inner.
    distance = np.full((2, height, width), -1.0)
    owner = np.full((2, height, width), -1)
    inner_is_high = np.zeros((2, height, width), np.bool_)
    for e in range(edges.shape[0]):
        side = _silhouette(sx, sy, edges, offsets, opposite, e)
        if side == 0:
            continue
        a, b = edges[e, 0], edges[e, 1]
        steep = abs(sy[b] - sy[a]) >= abs(sx[b] - sx[a])
        along, across = (sx, sy) if steep else (sy, sx)
        length, lines = (width, height) if steep else (height, width)
        run = across[b] - across[a]
        high = (side > 0) == (run < 0) if steep else (side > 0) == (run > 0)
        first = np.int64(min(max(np.ceil(min(across[a], across[b]) - 0.5), 0.0), np.float64(lines)))
        last = np.int64(min(max(np.ceil(max(across[a], across[b]) - 0.5), 0.0), np.float64(lines)))
        for line in range(first, last):
            s = (line + 0.5 - across[a]) / run
            crossing = along[a] + s * (along[b] - along[a])
            if not (crossing >= 0.5 and crossing < length - 0.5):
                continue
            low = np.int64(np.floor(crossing - 0.5))
            inner, outer = (low + 1, low) if high else (low, low + 1)
            far = abs(crossing - 0.5 - inner)
            axis = 0 if steep else 1
            row, column = (line, low) if steep else (low, line)
            if far <= distance[axis, row, column]:
                continue
            face_in = face[line, inner] if steep else face[inner, line]
            face_out = face[line, outer] if steep else face[outer, line]
            if face_in < 0:
                continue
            if face_out >= 0:
                px, py = (crossing, line + 0.5) if steep else (line + 0.5, crossing)
                depth = sz[a] + s * (sz[b] - sz[a])
                z_in = np.float64(zw[line, inner] if steep else zw[inner, line])
                z_out = np.float64(zw[line, outer] if steep else zw[outer, line])
                plane_in = _plane_depth(sx, sy, sz, tri[face_in, 0], tri[face_in, 1], tri[face_in, 2], px, py)
                plane_out = _plane_depth(sx, sy, sz, tri[face_out, 0], tri[face_out, 1], tri[face_out, 2], px, py)
                if plane_in < z_in:
                    z_in = plane_in
                if plane_out < z_out:
                    z_out = plane_out
                if not (z_out - depth > DEPTH_TOLERANCE and z_in - depth < 0.5 * (z_out - depth)):
                    continue
            distance[axis, row, column] = far
            owner[axis, row, column] = e
            inner_is_high[axis, row, column] = high
    out = np.empty((np.count_nonzero(owner >= 0), 5), np.int64)
    n = 0
    for axis in range(2):
        step = 1 if axis == 0 else width
        for row in range(height):
            for column in range(width):
                e = owner[axis, row, column]
                if e < 0:
                    continue
                pixel = row * width + column
                high = inner_is_high[axis, row, column]
                out[n, 0], out[n, 1] = (pixel + step, pixel) if high else (pixel, pixel + step)
                out[n, 2], out[n, 3], out[n, 4] = edges[e, 0], edges[e, 1], axis
                n += 1
    return out


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(tensor.detach().cpu().numpy())


def _zeros(shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    return np.zeros(shape, np.float64)


class _Barycentrics(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pos: Tensor, tri: Tensor, face: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(pos, tri, face)
        positions, faces, ids = _array(pos), _array(tri), _array(face)
        bary = np.empty((*ids.shape, 3), positions.dtype)
        zw = np.empty(ids.shape, positions.dtype)
        for_each(lambda b: _barycentrics(positions[b], faces, ids[b], bary[b], zw[b]), len(ids))
        return torch.from_numpy(bary).to(pos.device), torch.from_numpy(zw).to(pos.device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_bary: Tensor, grad_zw: Tensor) -> tuple[Tensor, None, None]:
        pos, tri, face = ctx.saved_tensors
        positions, faces, ids, gb, gz = _array(pos), _array(tri), _array(face), _array(grad_bary), _array(grad_zw)
        out = _zeros(positions.shape)
        for_each(lambda b: _barycentrics_backward(positions[b], faces, ids[b], gb[b], gz[b], out[b]), len(ids))
        return torch.from_numpy(out).to(pos), None, None


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, attr: Tensor, tri: Tensor, face: Tensor, bary: Tensor) -> Tensor:
        ctx.save_for_backward(attr, tri, face, bary)
        values, faces, ids, weights = _array(attr), _array(tri), _array(face), _array(bary)
        out = np.empty((*ids.shape, values.shape[-1]), values.dtype)
        shared = np.broadcast_to(values, (len(ids), *values.shape[-2:]))
        for_each(lambda b: _interpolate(np.ascontiguousarray(shared[b]), faces, ids[b], weights[b], out[b]), len(ids))
        return torch.from_numpy(out).to(attr.device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, None, None, Tensor]:
        attr, tri, face, bary = ctx.saved_tensors
        values, faces, ids, weights, go = _array(attr), _array(tri), _array(face), _array(bary), _array(grad_out)
        shared = np.broadcast_to(values, (len(ids), *values.shape[-2:]))
        grad_attr, grad_bary = _zeros(shared.shape), np.empty_like(weights)

        def work(b: int) -> None:
            value = np.ascontiguousarray(shared[b])
            _interpolate_backward(value, faces, ids[b], weights[b], go[b], grad_attr[b], grad_bary[b])

        for_each(work, len(ids))
        total = grad_attr.sum(0) if attr.ndim == 2 else grad_attr
        return torch.from_numpy(total).to(attr), None, None, torch.from_numpy(grad_bary).to(bary)


def visibility(pos: Tensor, tri: Tensor, height: int, width: int, behind: Tensor | None = None) -> Tensor:
    """Nearest face at each pixel centre: (B, V, 4) clip positions, (F, 3) faces -> (B, H, W) int64, -1 where there is none. `behind`
    (B, H, W): the least depth z/w that counts."""
    positions, faces = _array(pos), _array(tri)
    face = np.full((len(positions), height, width), -1, np.int64)
    floor = np.full(face.shape, -1.0) if behind is None else _array(behind.double())
    for_each(lambda b: _visibility(positions[b], faces, face[b], np.ones((height, width)), floor[b]), len(positions))
    return torch.from_numpy(face).to(pos.device)


def barycentrics(pos: Tensor, tri: Tensor, face: Tensor) -> tuple[Tensor, Tensor]:
    """Perspective-correct barycentrics (B, H, W, 3) and depth z/w (B, H, W) of the given faces at the pixel centres."""
    return _Barycentrics.apply(pos, tri, face)


def interpolate(attr: Tensor, tri: Tensor, face: Tensor, bary: Tensor) -> Tensor:
    """Vertex attributes (B, V, A) or (V, A) at the pixels: (B, H, W, A), zero on the background."""
    return _Interpolate.apply(attr, tri, face, bary)


def crossings(pos: Tensor, tri: Tensor, face: Tensor, zw: Tensor, topology: Topology) -> Tensor:
    """Visible silhouette edges between neighbouring pixel centres; rows as in `torch_form.crossings`."""
    positions, faces, ids, depths = _array(pos), _array(tri), _array(face), _array(zw)
    edges, offsets, opposite = _array(topology.edges), _array(topology.offsets), _array(topology.opposite)
    found: list[Any] = [None] * len(positions)

    def work(b: int) -> None:
        rows = _crossings(positions[b], faces, ids[b], depths[b], edges, offsets, opposite)
        found[b] = np.concatenate([np.full((len(rows), 1), b), rows], axis=1)

    for_each(work, len(positions))
    return torch.from_numpy(np.concatenate(found)).to(pos.device)
