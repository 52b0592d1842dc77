"""The loops of the CPU splat rasteriser: Gaussians outside, the pixels of a tile inside, so that pixels become SIMD lanes.

What keeps them fast: loop bounds and flat indices are uint64 (signed ones make numba check for negative indices, and LLVM gives up
vectorising); every literal is float32; choices are selects; sums become SIMD, the maximum over a loop does not; long bodies are cut
into short loops through small arrays.
"""

from __future__ import annotations

import numpy as np

from ..numba_jit import jit, jit_fast
from .projection import ALPHA_MIN
from .torch_form import ALPHA_MAX, TRANSMITTANCE_MIN

TILE_X, TILE_Y = 16, 8
PIXELS = TILE_X * TILE_Y
# Where each quantity of a tile's pixels starts in one flat buffer: with constant distances LLVM need not check for overlaps at run time.
X, Y, LIGHT, LAST, WEIGHT = (np.uint64(k * PIXELS) for k in range(5))
SUM_ALPHA, SUM = np.uint64(5 * PIXELS), np.uint64(6 * PIXELS)
RATIO, FREE, VALUE, BEHIND, H, G = (np.uint64(k * PIXELS) for k in range(5, 11))
P1, P2, P3 = np.uint64(PIXELS), np.uint64(2 * PIXELS), np.uint64(3 * PIXELS)
FORWARD, BACKWARD = 6 * PIXELS, 10 * PIXELS
FEATURES, BLOCK = 8, 4
"""A row of `splats`: centre x and y, conic xx, xy, yy, opacity, half width and height of what is drawn (0 where unseen); from column
FEATURES on the channels, filled up with zeros to blocks of BLOCK. The first block shares the loop of the geometry."""
ABSOLUTE, CHANNEL_0 = 6, 8
"""A gradient row: sums over pixels of h, h dx, h dy, h dx dx, h dx dy, h dy dy with h = alpha times its gradient; from ABSOLUTE on the
two absolute sums of the centre's gradient; from CHANNEL_0 on the channels'."""
CHECK_EVERY = np.uint64(15)
"""Bits of the Gaussian's number that must be 0 for a look whether the tile is finished."""

_ALPHA_MIN, _ALPHA_MAX, _LEFT_MIN = np.float32(ALPHA_MIN), np.float32(ALPHA_MAX), np.float32(TRANSMITTANCE_MIN)
_0, _1, _HALF = np.float32(0), np.float32(1), np.float32(0.5)
_LOG2E = np.float32(np.log2(np.e))
# Taylor terms of 2^-f for f in [-1/2, 1/2]: the first one left out is 1e-7.
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
def pack(means2d, shapes, extents, features, splats, depths):  # type: ignore[no-untyped-def]
    """Rows of `splats` as the pixel loops read them; depth is the channel after the features."""
    channels = features.shape[1]
    for g in range(len(splats)):
        splats[g, 0], splats[g, 1] = means2d[g, 0], means2d[g, 1]
        splats[g, 2], splats[g, 3], splats[g, 4], splats[g, 5] = shapes[g, 0], shapes[g, 1], shapes[g, 2], shapes[g, 3]
        splats[g, 6], splats[g, 7] = extents[g, 0], extents[g, 1]
        for ch in range(channels):
            splats[g, FEATURES + ch] = features[g, ch]
        splats[g, FEATURES + channels] = shapes[g, 4]
        for column in range(FEATURES + channels + 1, splats.shape[1]):
            splats[g, column] = 0
        depths[g] = shapes[g, 4]


@jit
def depth_order(depths, splats, order, spare):  # type: ignore[no-untyped-def]
    """Indices of the Gaussians seen, front to back, ties by index, into order (N,); returns how many. A radix sort of positive floats."""
    bits = depths.view(np.uint32)
    seen = 0
    for g in range(len(depths)):
        if splats[g, 6] > 0:
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
def count_tiles(splats, first, starts, across, down):  # type: ignore[no-untyped-def]
    """How many tiles each Gaussian touches, summed up into first (N + 1), and where each tile's list starts, into starts (tiles + 1)."""
    starts[:] = 0
    first[0] = 0
    for g in range(len(splats)):
        touched = 0
        if splats[g, 6] > 0:
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
def start_tile(left, top, width, height, tile):  # type: ignore[no-untyped-def]
    """Pixel centres, and full light at the pixels inside the picture, none outside."""
    for row in range(TILE_Y):
        for column in range(TILE_X):
            pixel = np.uint64(row * TILE_X + column)
            tile[X + pixel] = np.float32(left + column) + _HALF
            tile[Y + pixel] = np.float32(top + row) + _HALF
            tile[LIGHT + pixel] = _1 if left + column < width and top + row < height else _0


@jit_fast
def finished(tile):  # type: ignore[no-untyped-def]
    """Whether no pixel takes any more light."""
    total = _0
    for p in range(np.uint64(PIXELS)):
        total += max(tile[LIGHT + p], _0)
    return total == _0


@jit_fast
def furthest(tile):  # type: ignore[no-untyped-def]
    """The largest `LAST` of the tile's pixels."""
    most = _0
    for p in range(np.uint64(PIXELS)):
        most = max(most, tile[LAST + p])
    return np.uint64(most)


@jit_fast
def forward_row(ty, across, splats, starts, owner, picture, light, last):  # type: ignore[no-untyped-def]
    """Blends one row of tiles of one picture (H, W, F + 1), alpha last, and writes what `backward_row` starts from.

    light (H, W): what is left of each pixel's light behind everything drawn there. last (H, W): the place in the tile's list, counted
    from 1, after which nothing is drawn at the pixel; 0 where nothing is. Places are float32 like the rest of the buffer, which keeps
    the loop SIMD; they are exact up to 2^24.
    A minus sign before the light in the buffer marks a pixel that takes no more.
    """
    height, width, channels = picture.shape[0], picture.shape[1], picture.shape[2] - 1
    blocks = (splats.shape[1] - FEATURES) // BLOCK
    tile = np.empty(FORWARD + blocks * BLOCK * PIXELS, np.float32)
    top = ty * TILE_Y
    for tx in range(across):
        left = tx * TILE_X
        tile[:] = _0
        start_tile(left, top, width, height, tile)
        t = ty * across + tx
        begin = np.uint64(starts[t])
        for k in range(begin, np.uint64(starts[t + 1])):
            if (k - begin) & CHECK_EVERY == CHECK_EVERY and finished(tile):
                break
            place = np.float32(k - begin + np.uint64(1))
            splat = splats[owner[k]]
            mx, my, opacity = splat[0], splat[1], splat[5]
            a, b, c = _HALF * splat[2], splat[3], _HALF * splat[4]
            f0, f1, f2, f3 = splat[8], splat[9], splat[10], splat[11]
            n0, n1 = tile_rows(my, splat[7], top)
            for p in range(n0, n1):
                dx, dy = tile[X + p] - mx, tile[Y + p] - my
                shown = min(opacity * exp_minus(dx * (a * dx + b * dy) + c * dy * dy), _ALPHA_MAX)
                shown = shown if shown >= _ALPHA_MIN else _0
                before = tile[LIGHT + p]
                after = before * (_1 - shown)
                keep = after > _LEFT_MIN
                weight = before * shown if keep else _0
                tile[LIGHT + p] = after if keep else -abs(before)
                tile[LAST + p] = max(tile[LAST + p], place if keep else _0)
                tile[WEIGHT + p] = weight
                tile[SUM_ALPHA + p] += weight
                tile[SUM + p] += weight * f0
                tile[SUM + P1 + p] += weight * f1
                tile[SUM + P2 + p] += weight * f2
                tile[SUM + P3 + p] += weight * f3
            for block in range(1, blocks):
                at = FEATURES + block * BLOCK
                f0, f1, f2, f3 = splat[at], splat[at + 1], splat[at + 2], splat[at + 3]
                base = np.uint64(FORWARD + block * BLOCK * PIXELS)
                for p in range(n0, n1):
                    weight = tile[WEIGHT + p]
                    tile[base + p] += weight * f0
                    tile[base + P1 + p] += weight * f1
                    tile[base + P2 + p] += weight * f2
                    tile[base + P3 + p] += weight * f3
        for row in range(min(TILE_Y, height - top)):
            for column in range(min(TILE_X, width - left)):
                pixel = np.uint64(row * TILE_X + column)
                for ch in range(channels):
                    picture[top + row, left + column, ch] = tile[SUM + np.uint64(ch * PIXELS) + pixel]
                picture[top + row, left + column, channels] = tile[SUM_ALPHA + pixel]
                light[top + row, left + column] = abs(tile[LIGHT + pixel])
                last[top + row, left + column] = tile[LAST + pixel]


@jit_fast
def backward_row(ty, across, splats, starts, owner, slot, light, last, grad, rows, absolute):  # type: ignore[no-untyped-def]
    """Gradient rows of the pairs in one row of tiles, as `ABSOLUTE` and `CHANNEL_0` lay them out, from the gradient (H, W, F + 1).

    Goes back to front from the light left at the end (Kerbl et al. 2023, section 6): the light before a Gaussian is the light after it
    divided by 1 - alpha. `BEHIND` is the sum of weight times value times gradient over what lies behind. Both are built up from the
    small to the large, so no digits cancel where a pixel's light is nearly used up. The picture's alpha is 1 minus the light left; its
    gradient enters as a last layer behind all Gaussians, whose weight is that light and whose value is -1.
    """
    height, width, channels = grad.shape[0], grad.shape[1], grad.shape[2] - 1
    blocks = (splats.shape[1] - FEATURES) // BLOCK
    tile = np.empty(BACKWARD + blocks * BLOCK * PIXELS, np.float32)
    top = ty * TILE_Y
    for tx in range(across):
        left = tx * TILE_X
        tile[:] = _0
        start_tile(left, top, width, height, tile)
        for row in range(min(TILE_Y, height - top)):
            for column in range(min(TILE_X, width - left)):
                pixel = np.uint64(row * TILE_X + column)
                for ch in range(channels):
                    tile[G + np.uint64(ch * PIXELS) + pixel] = grad[top + row, left + column, ch]
                tile[LIGHT + pixel] = light[top + row, left + column]
                tile[LAST + pixel] = last[top + row, left + column]
                tile[BEHIND + pixel] = -grad[top + row, left + column, channels] * light[top + row, left + column]
        t = ty * across + tx
        begin, end = np.uint64(starts[t]), np.uint64(starts[t + 1])
        count = min(furthest(tile), end - begin)
        for done in range(count):
            k = begin + count - np.uint64(1) - done
            place = np.float32(count - done)
            splat = splats[owner[k]]
            target = rows[slot[k]]
            mx, my, opacity = splat[0], splat[1], splat[5]
            a, b, c = _HALF * splat[2], splat[3], _HALF * splat[4]
            n0, n1 = tile_rows(my, splat[7], top)
            for p in range(n0, n1):
                dx, dy = tile[X + p] - mx, tile[Y + p] - my
                shown = min(opacity * exp_minus(dx * (a * dx + b * dy) + c * dy * dy), _ALPHA_MAX)
                shown = shown if shown >= _ALPHA_MIN else _0
                shown = shown if tile[LAST + p] >= place else _0
                ratio = shown / (_1 - shown)
                after = tile[LIGHT + p]
                weight = after * ratio
                tile[LIGHT + p] = after + weight
                tile[WEIGHT + p] = weight
                tile[RATIO + p] = ratio
                tile[FREE + p] = _1 if shown < _ALPHA_MAX else _0
                tile[VALUE + p] = _0
            for block in range(1, blocks):
                at, column = FEATURES + block * BLOCK, CHANNEL_0 + block * BLOCK
                f0, f1, f2, f3 = splat[at], splat[at + 1], splat[at + 2], splat[at + 3]
                base = np.uint64(BACKWARD + block * BLOCK * PIXELS)
                t0, t1, t2, t3 = _0, _0, _0, _0
                for p in range(n0, n1):
                    weight = tile[WEIGHT + p]
                    g0, g1, g2, g3 = tile[base + p], tile[base + P1 + p], tile[base + P2 + p], tile[base + P3 + p]
                    tile[VALUE + p] += f0 * g0 + f1 * g1 + f2 * g2 + f3 * g3
                    t0 += weight * g0
                    t1 += weight * g1
                    t2 += weight * g2
                    t3 += weight * g3
                target[column], target[column + 1], target[column + 2], target[column + 3] = t0, t1, t2, t3
            f0, f1, f2, f3 = splat[8], splat[9], splat[10], splat[11]
            t0, t1, t2, t3 = _0, _0, _0, _0
            s, sx, sy, sxx, sxy, syy = _0, _0, _0, _0, _0, _0
            for p in range(n0, n1):
                weight = tile[WEIGHT + p]
                g0, g1, g2, g3 = tile[G + p], tile[G + P1 + p], tile[G + P2 + p], tile[G + P3 + p]
                t0 += weight * g0
                t1 += weight * g1
                t2 += weight * g2
                t3 += weight * g3
                own = weight * (tile[VALUE + p] + f0 * g0 + f1 * g1 + f2 * g2 + f3 * g3)
                behind = tile[BEHIND + p]
                tile[BEHIND + p] = behind + own
                h = (own - behind * tile[RATIO + p]) * tile[FREE + p]
                tile[H + p] = h
                dx, dy = tile[X + p] - mx, tile[Y + p] - my
                hx, hy = h * dx, h * dy
                s += h
                sx += hx
                sy += hy
                sxx += hx * dx
                sxy += hx * dy
                syy += hy * dy
            target[0], target[1], target[2], target[3], target[4], target[5] = s, sx, sy, sxx, sxy, syy
            target[CHANNEL_0], target[CHANNEL_0 + 1], target[CHANNEL_0 + 2], target[CHANNEL_0 + 3] = t0, t1, t2, t3
            if absolute:
                a, c = splat[2], splat[4]
                ax, ay = _0, _0
                for p in range(n0, n1):
                    dx, dy, h = tile[X + p] - mx, tile[Y + p] - my, tile[H + p]
                    ax += abs(h * (a * dx + b * dy))
                    ay += abs(h * (b * dx + c * dy))
                target[ABSOLUTE], target[ABSOLUTE + 1] = ax, ay
        for k in range(begin + count, end):
            rows[slot[k]] = _0


@jit_fast
def gather_rows(g0, g1, splats, first, rows, g_means2d, g_shapes, g_features, g_absolute):  # type: ignore[no-untyped-def]
    """Sums the rows of each Gaussian from g0 to g1, in the order of its tiles, into the gradients of what was packed."""
    columns, features = rows.shape[1], g_features.shape[1]
    total = np.empty(columns, np.float32)
    for g in range(g0, g1):
        total[:] = _0
        for k in range(first[g], first[g + 1]):
            for c in range(columns):
                total[c] += rows[k, c]
        a, b, c, opacity = splats[g, 2], splats[g, 3], splats[g, 4], splats[g, 5]
        g_means2d[g, 0] = a * total[1] + b * total[2]
        g_means2d[g, 1] = b * total[1] + c * total[2]
        g_shapes[g, 0] = -_HALF * total[3]
        g_shapes[g, 1] = -total[4]
        g_shapes[g, 2] = -_HALF * total[5]
        g_shapes[g, 3] = total[0] / opacity if opacity > _0 else _0
        g_shapes[g, 4] = total[CHANNEL_0 + features]
        for ch in range(features):
            g_features[g, ch] = total[CHANNEL_0 + ch]
        if len(g_absolute):
            g_absolute[g, 0], g_absolute[g, 1] = total[ABSOLUTE], total[ABSOLUTE + 1]
