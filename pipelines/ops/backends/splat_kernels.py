"""The loops of the CPU splat rasteriser: Gaussians outside, the pixels of a tile inside, so that pixels become SIMD lanes.

What keeps them fast: loop bounds and flat indices are uint64 (signed ones make numba check for negative indices, and LLVM gives up
vectorising); every literal is float32; choices are selects; long bodies are cut into short loops through small arrays.
"""

from __future__ import annotations

import numpy as np

from ..splat_projection import ALPHA_MIN
from .numba_jit import jit, jit_fast
from .splat_torch import ALPHA_MAX, TRANSMITTANCE_MIN

TILE_X, TILE_Y = 16, 8
PIXELS = TILE_X * TILE_Y
GEOMETRY = 6
"""Leading columns of a gradient row: sums of h, h dx, h dy, h dx dx, h dx dy, h dy dy, with h = alpha times its gradient."""
CHECK_EVERY = np.uint64(15)
"""Bits of the Gaussian's number that must be 0 for a look whether the tile is finished."""

_ALPHA_MIN, _ALPHA_MAX, _LEFT_MIN = np.float32(ALPHA_MIN), np.float32(ALPHA_MAX), np.float32(TRANSMITTANCE_MIN)
_0, _1, _HALF = np.float32(0), np.float32(1), np.float32(0.5)
_LOG2E = np.float32(np.log2(np.e))
# 2^-f for f in [-1/2, 1/2]: minimax to 2e-8.
_E1, _E2, _E3, _E4, _E5, _E6 = (np.float32((-np.log(2.0)) ** k / f) for k, f in ((1, 1), (2, 2), (3, 6), (4, 24), (5, 120), (6, 720)))


@jit_fast
def exp_minus(x):  # type: ignore[no-untyped-def]
    """exp(-x) for x in [0, 80], to 2e-7 of its value, in instructions that every SIMD unit has."""
    t = min(x, np.float32(80)) * _LOG2E
    whole = np.floor(t + _HALF)
    f = t - whole
    series = _1 + f * (_E1 + f * (_E2 + f * (_E3 + f * (_E4 + f * (_E5 + f * _E6)))))
    return series * np.int32((np.int32(127) - np.int32(whole)) << np.int32(23)).view(np.float32)


@jit
def depth_order(depths, radii, order, spare):  # type: ignore[no-untyped-def]
    """Indices of the Gaussians seen, front to back, ties by index, into order (N,); returns how many. A radix sort of positive floats."""
    bits = depths.view(np.uint32)
    seen = 0
    for g in range(len(depths)):
        if radii[g, 0] > 0:
            order[seen] = g
            seen += 1
    counts = np.empty(2048, np.int64)
    source, target = order, spare
    for shift in (0, 11, 22):
        counts[:] = 0
        for k in range(seen):
            counts[(bits[source[k]] >> shift) & 2047] += 1
        total = 0
        for b in range(2048):
            total, counts[b] = total + counts[b], total
        for k in range(seen):
            b = (bits[source[k]] >> shift) & 2047
            target[counts[b]] = source[k]
            counts[b] += 1
        source, target = target, source
    order[:seen] = source[:seen]
    return seen


@jit
def tile_box(x, y, rx, ry, across, down):  # type: ignore[no-untyped-def]
    """First and last-plus-one tile columns and rows whose pixel centres come within (rx, ry) of (x, y)."""
    x0 = max(np.int64(np.floor((np.ceil(x - rx - 0.5)) / TILE_X)), 0)
    x1 = min(np.int64(np.floor((np.floor(x + rx - 0.5)) / TILE_X)) + 1, across)
    y0 = max(np.int64(np.floor((np.ceil(y - ry - 0.5)) / TILE_Y)), 0)
    y1 = min(np.int64(np.floor((np.floor(y + ry - 0.5)) / TILE_Y)) + 1, down)
    return x0, x1, y0, y1


@jit
def count_tiles(splats, radii, first, starts, across, down):  # type: ignore[no-untyped-def]
    """How many tiles each Gaussian touches, summed up into first (N + 1), and where each tile's list starts, into starts (tiles + 1)."""
    starts[:] = 0
    first[0] = 0
    for g in range(len(splats)):
        touched = 0
        if radii[g, 0] > 0:
            x0, x1, y0, y1 = tile_box(splats[g, 0], splats[g, 1], splats[g, 6], splats[g, 7], across, down)
            for ty in range(y0, y1):
                for tx in range(x0, x1):
                    starts[ty * across + tx + 1] += 1
                    touched += 1
        first[g + 1] = first[g] + touched
    for t in range(across * down):
        starts[t + 1] += starts[t]


@jit
def fill_tiles(splats, order, seen, first, starts, owner, slot, across, down):  # type: ignore[no-untyped-def]
    """Tile after tile, front to back: the Gaussian of each pair, and the pair's place when ordered by Gaussian."""
    place = starts[:-1].copy()
    for k in range(seen):
        g = order[k]
        x0, x1, y0, y1 = tile_box(splats[g, 0], splats[g, 1], splats[g, 6], splats[g, 7], across, down)
        number = first[g]
        for ty in range(y0, y1):
            for tx in range(x0, x1):
                t = ty * across + tx
                owner[place[t]] = g
                slot[place[t]] = number
                place[t] += 1
                number += 1


@jit_fast
def tile_rows(y, ry, top):  # type: ignore[no-untyped-def]
    """Flat pixel range of the rows of the tile starting at row `top` whose centres come within ry of y."""
    low = max(np.int64(np.ceil(y - ry - _HALF)) - top, 0)
    high = min(np.int64(np.floor(y + ry - _HALF)) + 1 - top, TILE_Y)
    high = max(high, low)
    return np.uint64(low * TILE_X), np.uint64(high * TILE_X)


@jit_fast
def start_tile(left, top, width, height, px, py, light):  # type: ignore[no-untyped-def]
    """Pixel centres, and full light at the pixels inside the picture, none outside."""
    for p in range(np.uint64(PIXELS)):
        column, row = np.int64(p) % TILE_X, np.int64(p) // TILE_X
        px[p] = np.float32(left + column) + _HALF
        py[p] = np.float32(top + row) + _HALF
        light[p] = _1 if left + column < width and top + row < height else _0


@jit_fast
def shade(splat, n0, n1, px, py, light, alpha, weight):  # type: ignore[no-untyped-def]
    """One Gaussian at pixels n0 to n1: its alpha and weight there, and the light it leaves, 0 at pixels that are finished."""
    mx, my, opacity = splat[0], splat[1], splat[5]
    a, b, c = _HALF * splat[2], splat[3], _HALF * splat[4]
    for p in range(n0, n1):
        dx, dy = px[p] - mx, py[p] - my
        shown = min(opacity * exp_minus(dx * (a * dx + b * dy) + c * dy * dy), _ALPHA_MAX)
        shown = shown if shown >= _ALPHA_MIN else _0
        before = light[p]
        after = before * (_1 - shown)
        keep = after > _LEFT_MIN
        shown = shown if keep else _0
        alpha[p] = shown
        weight[p] = before * shown
        light[p] = after if keep else _0


@jit_fast
def forward_row(ty, across, splats, features, starts, owner, picture):  # type: ignore[no-untyped-def]
    """Blends one row of tiles of one picture (H, W, F + 1), alpha last."""
    height, width, channels = picture.shape[0], picture.shape[1], features.shape[1]
    px, py, light = np.empty(PIXELS, np.float32), np.empty(PIXELS, np.float32), np.empty(PIXELS, np.float32)
    alpha, weight = np.empty(PIXELS, np.float32), np.empty(PIXELS, np.float32)
    sums = np.empty((channels + 1) * PIXELS, np.float32)
    top = ty * TILE_Y
    for tx in range(across):
        left = tx * TILE_X
        start_tile(left, top, width, height, px, py, light)
        sums[:] = _0
        t = ty * across + tx
        begin = np.uint64(starts[t])
        for k in range(begin, np.uint64(starts[t + 1])):
            if (k - begin) & CHECK_EVERY == CHECK_EVERY and np.sum(light) == _0:
                break
            g = owner[k]
            splat = splats[g]
            n0, n1 = tile_rows(splat[1], splat[7], top)
            shade(splat, n0, n1, px, py, light, alpha, weight)
            for ch in range(channels):
                value = features[g, ch]
                base = np.uint64(ch * PIXELS)
                for p in range(n0, n1):
                    sums[base + p] += weight[p] * value
            base = np.uint64(channels * PIXELS)
            for p in range(n0, n1):
                sums[base + p] += weight[p]
        for row in range(min(TILE_Y, height - top)):
            for column in range(min(TILE_X, width - left)):
                for ch in range(channels + 1):
                    picture[top + row, left + column, ch] = sums[ch * PIXELS + row * TILE_X + column]


@jit_fast
def backward_row(ty, across, splats, features, starts, owner, slot, picture, grad, rows, absolute):  # type: ignore[no-untyped-def]
    """Gradient rows of the pairs in one row of tiles: the moments of `GEOMETRY`, then the channels', then two absolute sums if asked for.

    Goes front to back like the forward pass. `rest` is the gradient's product with what is still to come behind: it starts as the
    product with the finished pixel and loses each Gaussian's share.
    """
    height, width, channels = picture.shape[0], picture.shape[1], features.shape[1]
    px, py, light = np.empty(PIXELS, np.float32), np.empty(PIXELS, np.float32), np.empty(PIXELS, np.float32)
    alpha, weight = np.empty(PIXELS, np.float32), np.empty(PIXELS, np.float32)
    value, rest, h = np.empty(PIXELS, np.float32), np.empty(PIXELS, np.float32), np.empty(PIXELS, np.float32)
    g_pixel = np.empty((channels + 1) * PIXELS, np.float32)
    last = np.uint64(channels * PIXELS)
    top = ty * TILE_Y
    for tx in range(across):
        left = tx * TILE_X
        start_tile(left, top, width, height, px, py, light)
        g_pixel[:] = _0
        rest[:] = _0
        for row in range(min(TILE_Y, height - top)):
            for column in range(min(TILE_X, width - left)):
                p = row * TILE_X + column
                for ch in range(channels + 1):
                    g_pixel[ch * PIXELS + p] = grad[top + row, left + column, ch]
                    rest[p] += grad[top + row, left + column, ch] * picture[top + row, left + column, ch]
        t = ty * across + tx
        begin, end = np.uint64(starts[t]), np.uint64(starts[t + 1])
        done = end
        for k in range(begin, end):
            if (k - begin) & CHECK_EVERY == CHECK_EVERY and np.sum(light) == _0:
                done = k
                break
            g = owner[k]
            splat = splats[g]
            target = rows[slot[k]]
            n0, n1 = tile_rows(splat[1], splat[7], top)
            shade(splat, n0, n1, px, py, light, alpha, weight)
            for p in range(n0, n1):
                value[p] = g_pixel[last + p]
            for ch in range(channels):
                feature = features[g, ch]
                base = np.uint64(ch * PIXELS)
                total = _0
                for p in range(n0, n1):
                    total += weight[p] * g_pixel[base + p]
                    value[p] += feature * g_pixel[base + p]
                target[GEOMETRY + ch] = total
            for p in range(n0, n1):
                own = weight[p] * value[p]
                behind = rest[p] - own
                rest[p] = behind
                shown = alpha[p]
                full = own - behind * (shown / (_1 - shown))
                h[p] = full if shown < _ALPHA_MAX else _0
            mx, my = splat[0], splat[1]
            s, sx, sy, sxx, sxy, syy = _0, _0, _0, _0, _0, _0
            for p in range(n0, n1):
                dx, dy = px[p] - mx, py[p] - my
                hx, hy = h[p] * dx, h[p] * dy
                s += h[p]
                sx += hx
                sy += hy
                sxx += hx * dx
                sxy += hx * dy
                syy += hy * dy
            target[0], target[1], target[2], target[3], target[4], target[5] = s, sx, sy, sxx, sxy, syy
            if absolute:
                a, b, c = splat[2], splat[3], splat[4]
                ax, ay = _0, _0
                for p in range(n0, n1):
                    dx, dy = px[p] - mx, py[p] - my
                    ax += abs(h[p] * (a * dx + b * dy))
                    ay += abs(h[p] * (b * dx + c * dy))
                target[GEOMETRY + channels], target[GEOMETRY + channels + 1] = ax, ay
        for k in range(done, end):
            rows[slot[k]] = _0


@jit_fast
def gather_rows(g0, g1, splats, first, rows, g_means, g_conics, g_opacities, g_features, g_absolute):  # type: ignore[no-untyped-def]
    """Sums the rows of each Gaussian from g0 to g1, in the order of its tiles, into the gradients of what was projected."""
    columns, channels = rows.shape[1], g_features.shape[1]
    total = np.empty(columns, np.float32)
    for g in range(g0, g1):
        if first[g] == first[g + 1]:
            continue
        total[:] = _0
        for k in range(first[g], first[g + 1]):
            for c in range(columns):
                total[c] += rows[k, c]
        a, b, c = splats[g, 2], splats[g, 3], splats[g, 4]
        g_means[g, 0] = a * total[1] + b * total[2]
        g_means[g, 1] = b * total[1] + c * total[2]
        g_conics[g, 0] = -_HALF * total[3]
        g_conics[g, 1] = -total[4]
        g_conics[g, 2] = -_HALF * total[5]
        g_opacities[g] = total[0] / splats[g, 5]
        for ch in range(channels):
            g_features[g, ch] = total[GEOMETRY + ch]
        if columns > GEOMETRY + channels:
            g_absolute[g, 0], g_absolute[g, 1] = total[GEOMETRY + channels], total[GEOMETRY + channels + 1]
