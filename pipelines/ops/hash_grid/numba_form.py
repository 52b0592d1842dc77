"""CPU hash encoding: SIMD kernels by numba for 2 features a level, forward, and backward to table and points.

A level's rows are touched by one thread only, in the order of the points, and a point's gradient is summed by one thread in the order of
the levels: no atomics, the same bits at any number of threads. Numbers are float32; tensors of other devices are copied to the CPU and
back. Features lie in memory feature after feature, which is how both passes walk through them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..numba_jit import for_each, jit_fast

if TYPE_CHECKING:
    from .layout import HashLayout

BLOCK = 128
"""Points whose corners are found together, in SIMD loops, before the table is read."""
POINTS_AT_ONCE = 1 << 17  # of the points' gradient: fewer, and the table is read from memory for each chunk anew
U = np.uint64  # numba adds a wraparound for negative indices to signed ones, which keeps loops from becoming SIMD


@jit_fast
def _axis(x, resolution, factor, share, low, high):  # type: ignore[no-untyped-def]
    """Along one axis: how far into its cell each point lies, and the numbers of the cell's two corners times `factor`."""
    cells, top = np.float32(resolution), np.int32(resolution - 1)
    for q in range(U(len(x))):
        place = x[q] * cells
        cell = np.int32(place)
        cell = top if cell > top else cell
        share[q] = place - np.float32(cell)
        corner = np.uint32(cell) * factor
        low[q], high[q] = np.uint32(corner), np.uint32(corner + factor)


@jit_fast
def _dense_rows(x0, x1, y, z, row0, row1):  # type: ignore[no-untyped-def]
    for q in range(U(len(x0))):
        yz = y[q] + z[q]
        row0[q], row1[q] = np.uint32(x0[q] + yz), np.uint32(x1[q] + yz)


@jit_fast
def _hashed_rows(x0, x1, y, z, mask, row0, row1):  # type: ignore[no-untyped-def]
    for q in range(U(len(x0))):
        yz = y[q] ^ z[q]
        row0[q], row1[q] = np.uint32((x0[q] ^ yz) & mask), np.uint32((x1[q] ^ yz) & mask)


@jit_fast
def _locate(points, start, end, resolution, dense, count, share, corners, rows):  # type: ignore[no-untyped-def]
    """Places in their cells (3, BLOCK) and rows (8, BLOCK) of the cells' corners, for some of points (3, N); `count` rows in the level."""
    n = end - start  # rows are cut where they are used: numba knows such a cut to lie in one piece, of a cut table it does not
    if dense:
        second, third = np.uint32(resolution + 1), np.uint32((resolution + 1) * (resolution + 1))
    else:
        second, third = np.uint32(2654435761), np.uint32(805459861)
    _axis(points[0, start:end], resolution, np.uint32(1), share[0], corners[0], corners[1])
    _axis(points[1, start:end], resolution, second, share[1], corners[2], corners[3])
    _axis(points[2, start:end], resolution, third, share[2], corners[4], corners[5])
    for c in range(4):
        y, z = corners[2 + (c & 1)], corners[4 + (c >> 1)]
        if dense:
            _dense_rows(corners[0, :n], corners[1], y, z, rows[2 * c], rows[2 * c + 1])
        else:
            _hashed_rows(corners[0, :n], corners[1], y, z, np.uint32(count - 1), rows[2 * c], rows[2 * c + 1])


@jit_fast
def _weigh(u, v, w, weights):  # type: ignore[no-untyped-def]
    """Weights (8, BLOCK) of the corners, x fastest, of points at (u, v, w) in their cells."""
    w0, w1, w2, w3, w4, w5, w6, w7 = weights[0], weights[1], weights[2], weights[3], weights[4], weights[5], weights[6], weights[7]
    one, two, three = np.float32(1), np.float32(2), np.float32(3)
    for q in range(U(len(u))):
        u1, v1, z1 = u[q], v[q], w[q]
        u1, v1, z1 = u1 * u1 * (three - two * u1), v1 * v1 * (three - two * v1), z1 * z1 * (three - two * z1)
        u0, v0, z0 = one - u1, one - v1, one - z1
        a, b, c, d = v0 * z0, v1 * z0, v0 * z1, v1 * z1
        w0[q], w1[q], w2[q], w3[q] = u0 * a, u1 * a, u0 * b, u1 * b
        w4[q], w5[q], w6[q], w7[q] = u0 * c, u1 * c, u0 * d, u1 * d


@jit_fast
def _buffers():  # type: ignore[no-untyped-def]
    floats, whole = np.empty((11, BLOCK), np.float32), np.empty((14, BLOCK), np.uint32)
    return floats[:3], floats[3:], whole[:6], whole[6:]


@jit_fast
def _gather(table, rows, weights, out0, out1):  # type: ignore[no-untyped-def]
    r0, r1, r2, r3, r4, r5, r6, r7 = rows[0], rows[1], rows[2], rows[3], rows[4], rows[5], rows[6], rows[7]
    w0, w1, w2, w3, w4, w5, w6, w7 = weights[0], weights[1], weights[2], weights[3], weights[4], weights[5], weights[6], weights[7]
    f, g = U(0), U(1)
    for q in range(U(len(out0))):
        a, b, c, d = U(r0[q]), U(r1[q]), U(r2[q]), U(r3[q])
        i, j, k, m = U(r4[q]), U(r5[q]), U(r6[q]), U(r7[q])
        out0[q] = (
            w0[q] * table[a, f] + w1[q] * table[b, f] + w2[q] * table[c, f] + w3[q] * table[d, f]
            + w4[q] * table[i, f] + w5[q] * table[j, f] + w6[q] * table[k, f] + w7[q] * table[m, f]
        )  # fmt: skip
        out1[q] = (
            w0[q] * table[a, g] + w1[q] * table[b, g] + w2[q] * table[c, g] + w3[q] * table[d, g]
            + w4[q] * table[i, g] + w5[q] * table[j, g] + w6[q] * table[k, g] + w7[q] * table[m, g]
        )  # fmt: skip


@jit_fast
def _forward(points, table, resolution, dense, out):  # type: ignore[no-untyped-def]
    """Features (2, N) that one level, whose rows are `table`, gives to points (3, N) in [0, 1]."""
    share, weights, corners, rows = _buffers()
    for start in range(0, points.shape[1], BLOCK):
        end = min(start + BLOCK, points.shape[1])
        _locate(points, start, end, resolution, dense, len(table), share, corners, rows)
        _weigh(share[0, : end - start], share[1], share[2], weights)
        _gather(table, rows, weights, out[0, start:end], out[1, start:end])


@jit_fast
def _scatter(g0, g1, rows, weights, g_table):  # type: ignore[no-untyped-def]
    f, g = U(0), U(1)
    for q in range(U(len(g0))):
        first, second = g0[q], g1[q]
        for c in range(8):
            row, weight = U(rows[U(c), q]), weights[U(c), q]
            g_table[row, f] += weight * first
            g_table[row, g] += weight * second


@jit_fast
def _backward_table(points, grad, resolution, dense, g_table):  # type: ignore[no-untyped-def]
    """Adds the gradient of one level's rows, from that of its features (2, N)."""
    share, weights, corners, rows = _buffers()
    for start in range(0, points.shape[1], BLOCK):
        end = min(start + BLOCK, points.shape[1])
        _locate(points, start, end, resolution, dense, len(g_table), share, corners, rows)
        _weigh(share[0, : end - start], share[1], share[2], weights)
        _scatter(grad[0, start:end], grad[1, start:end], rows, weights, g_table)


@jit_fast
def _climb(table, g0, g1, rows, share, resolution, to_x, to_y, to_z):  # type: ignore[no-untyped-def]
    f, g, one, two, three, six = U(0), U(1), np.float32(1), np.float32(2), np.float32(3), np.float32(6) * np.float32(resolution)
    for q in range(U(len(g0))):
        s, t = g0[q], g1[q]
        i, j, k, m = U(rows[U(0), q]), U(rows[U(1), q]), U(rows[U(2), q]), U(rows[U(3), q])
        v0, v1, v2, v3 = (s * table[i, f] + t * table[i, g], s * table[j, f] + t * table[j, g],
                          s * table[k, f] + t * table[k, g], s * table[m, f] + t * table[m, g])  # fmt: skip
        i, j, k, m = U(rows[U(4), q]), U(rows[U(5), q]), U(rows[U(6), q]), U(rows[U(7), q])
        v4, v5, v6, v7 = (s * table[i, f] + t * table[i, g], s * table[j, f] + t * table[j, g],
                          s * table[k, f] + t * table[k, g], s * table[m, f] + t * table[m, g])  # fmt: skip
        x, y, z = share[U(0), q], share[U(1), q], share[U(2), q]
        x1, y1, z1 = x * x * (three - two * x), y * y * (three - two * y), z * z * (three - two * z)
        x0, y0, z0 = one - x1, one - y1, one - z1
        along = z0 * (y0 * (v1 - v0) + y1 * (v3 - v2)) + z1 * (y0 * (v5 - v4) + y1 * (v7 - v6))
        to_x[q] += six * x * (one - x) * along
        along = z0 * (x0 * (v2 - v0) + x1 * (v3 - v1)) + z1 * (x0 * (v6 - v4) + x1 * (v7 - v5))
        to_y[q] += six * y * (one - y) * along
        along = y0 * (x0 * (v4 - v0) + x1 * (v5 - v1)) + y1 * (x0 * (v6 - v2) + x1 * (v7 - v3))
        to_z[q] += six * z * (one - z) * along


@jit_fast
def _backward_points(points, first, last, table, grad, resolution, dense, g_points):  # type: ignore[no-untyped-def]
    """Adds what one level says of the gradient (3, N) of the points first to last, in [0, 1]."""
    share, _, corners, rows = _buffers()
    for start in range(first, last, BLOCK):
        end = min(start + BLOCK, last)
        _locate(points, start, end, resolution, dense, len(table), share, corners, rows)
        to_x, to_y, to_z = g_points[0, start:end], g_points[1, start:end], g_points[2, start:end]
        _climb(table, grad[0, start:end], grad[1, start:end], rows, share, resolution, to_x, to_y, to_z)


def encode(table: Tensor, points: Tensor, layout: HashLayout, levels: int) -> Tensor:
    """See `torch_form.encode`."""
    if points.isfinite().all():
        return _Encode.apply(table, (points.clamp(-1, 1) + 1) / 2, layout, levels)
    # Kernels must not see what is not a number, and the caller must.
    encoded = _Encode.apply(table, (points.nan_to_num(0.0, 1.0, -1.0).clamp(-1, 1) + 1) / 2, layout, levels)
    return torch.where(points.isnan().any(dim=1, keepdim=True), torch.full_like(encoded, torch.nan), encoded)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to("cpu", torch.float32).contiguous().numpy()


def _feature_major(grad: Tensor, levels: int) -> np.ndarray:
    """(2 * levels, N) contiguous, of a gradient (N, 2 * levels). In small blocks: three times as fast as at once."""
    turned = grad.detach().to("cpu", torch.float32).numpy().T
    if turned.flags.c_contiguous:
        return turned
    out = np.empty((2 * levels, len(grad)), np.float32)
    for start in range(0, len(grad), 2 * BLOCK):
        out[:, start : start + 2 * BLOCK] = turned[:, start : start + 2 * BLOCK]
    return out


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, points: Tensor, layout: HashLayout, levels: int) -> Tensor:
        columns, rows = _array(points.detach().t()), _array(table)
        out = np.empty((2 * levels, len(points)), np.float32)

        def level(index: int) -> None:
            span = slice(layout.starts[index], layout.starts[index + 1])
            _forward(columns, rows[span], layout.resolutions[index], layout.dense[index], out[2 * index : 2 * index + 2])

        for_each(level, levels)
        ctx.save_for_backward(table, points)
        ctx.layout, ctx.levels = layout, levels
        return torch.from_numpy(out).t().to(points.device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        table, points = ctx.saved_tensors
        layout: HashLayout = ctx.layout
        columns, rows, back = _array(points.t()), _array(table), _feature_major(grad, ctx.levels)
        g_table = np.zeros_like(rows) if ctx.needs_input_grad[0] else None
        g_points = np.zeros_like(columns) if ctx.needs_input_grad[1] else None

        def to_table(index: int) -> None:
            span = slice(layout.starts[index], layout.starts[index + 1])
            _backward_table(columns, back[2 * index : 2 * index + 2], layout.resolutions[index], layout.dense[index], g_table[span])  # type: ignore[index]

        def to_points(chunk: int) -> None:
            some = chunk * POINTS_AT_ONCE, min((chunk + 1) * POINTS_AT_ONCE, len(points))
            for index in range(ctx.levels):
                span, pair = slice(layout.starts[index], layout.starts[index + 1]), slice(2 * index, 2 * index + 2)
                level = layout.resolutions[index], layout.dense[index]
                _backward_points(columns, *some, rows[span], back[pair], *level, g_points)

        if g_table is not None:
            for_each(to_table, ctx.levels)
        if g_points is not None:
            for_each(to_points, -(-len(points) // POINTS_AT_ONCE))
        made = [None if g is None else torch.from_numpy(g).to(grad.device) for g in (g_table, None if g_points is None else g_points.T)]
        return made[0], made[1], None, None
