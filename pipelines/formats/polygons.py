"""Polygons of mesh files, concave and non-planar ones too, cut into triangles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..data.progress import Tick, no_tick
from .parts import refuse_distant

_BLOCK = 200_000  # polygons between two ticks
MOST_CORNERS = 20_000  # of a polygon that needs ear clipping, whose time grows with their square
_FLAT = 1e-9  # of its polygon's area: what counts as a triangle without area
_AXES = np.array([[1, 2], [2, 0], [0, 1]])  # the plane that is looked at along x, y, z


@dataclass(frozen=True)
class Triangles:
    """Polygons as triangles.

    Attributes:
        corners: (T, 3) int64, places in the list of corners; each triangle faces where its polygon faced.
        polygon: (T,) int64, the polygon it comes from; ascending.
        dropped: how many polygons had fewer than three different corners or no area.
        crossing: how many cross themselves, so that no triangulation is right.
    """

    corners: np.ndarray
    polygon: np.ndarray
    dropped: int
    crossing: int

    def notes(self) -> list[str]:
        """What to say about them."""
        said = []
        if self.dropped:
            said.append(f"{self.dropped} polygon(s) with fewer than three different corners or without area are left out")
        if self.crossing:
            said.append(f"{self.crossing} polygon(s) cross themselves; their triangles are a guess")
        return said


def triangulate(points: np.ndarray, corners: np.ndarray, counts: np.ndarray, tick: Tick = no_tick) -> Triangles:
    """Cuts polygons into triangles that cover the same area, seen along the polygon's normal, and face the same way.

    A fan from the first corner (of quads, else from the second) where that is right, else ear clipping. Triangles stay as they are.

    Args:
        points: (V, 3) float64.
        corners: (C,) int64, the vertex of each corner, polygon after polygon.
        counts: (F,) int64, how many corners each polygon has.

    Raises:
        ValueError: a polygon with holes or bays that has more than `MOST_CORNERS` corners, or points beyond 1e300.
    """
    refuse_distant(points, 1e300)  # differences are scaled before they are multiplied, so that these alone can overflow
    ends = np.cumsum(counts)
    found, polygons, dropped, crossing = [np.zeros((0, 3), np.int64)], [np.zeros(0, np.int64)], 0, 0
    for first in range(0, len(counts), _BLOCK):
        tick(first, len(counts))
        sizes = counts[first : first + _BLOCK]
        start, end = int(ends[first] - counts[first]), int(ends[min(first + _BLOCK, len(counts)) - 1])
        block = _block(points, corners[start:end], sizes, tick)
        found.append(block.corners + start)
        polygons.append(block.polygon + first)
        dropped, crossing = dropped + block.dropped, crossing + block.crossing
    return Triangles(np.concatenate(found), np.concatenate(polygons), dropped, crossing)


def distinct_corners(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different rows (V, 3) of places among positions and two other kinds of values, such as uvs and normals, -1 for none.

    Ordered by position, then by the others; and which of them each of `rows` (C, 3) is (C,).
    """
    first = rows[:, 0]
    key = first
    for i in (1, 2):
        column = rows[:, i]
        if not ((column == -1).all() or (column == first).all()):
            if int(key.max()) * (int(column.max()) + 2) >= 1 << 62:
                _, key = np.unique(key, return_inverse=True)
            key = key * (int(column.max()) + 2) + column + 1
    _, index, inverse = np.unique(key, return_index=True, return_inverse=True)
    return rows[index], inverse.reshape(-1)


def _block(points: np.ndarray, corners: np.ndarray, counts: np.ndarray, tick: Tick) -> Triangles:
    n_polygons = len(counts)
    polygon = np.repeat(np.arange(n_polygons), counts)
    starts = np.cumsum(counts) - counts
    before = np.arange(-1, len(corners) - 1)
    before[starts[counts > 0]] = (starts + counts - 1)[counts > 0]
    kept = np.flatnonzero(corners != corners[before])
    counts = np.bincount(polygon[kept], minlength=n_polygons)
    starts = np.cumsum(counts) - counts
    pieces, owners, crossing = [], [], 0
    for size in np.unique(counts[counts >= 3]).tolist():
        which = np.flatnonzero(counts == size)
        places = kept[starts[which][:, None] + np.arange(size)]
        if size == 3:
            pieces.append(places)
            owners.append(which)
            continue
        shape, normal, area = _in_planes(points[corners[places]])
        for origin in (0, 1) if size == 4 else (0,):
            order = (np.arange(size) + origin) % size
            fan = np.stack([np.zeros(size - 2, int), np.arange(1, size - 1), np.arange(2, size)], axis=1)
            fans = order[fan]
            right = (_areas(shape, normal, fans) > _FLAT * area[:, None]).all(1)
            pieces.append(places[right][:, fans].reshape(-1, 3))
            owners.append(np.repeat(which[right], size - 2))
            which, places, shape, normal, area = (values[~right] for values in (which, places, shape, normal, area))
        if size > MOST_CORNERS and len(which):
            raise ValueError(f"a polygon that is not convex has {size:,} corners, more than {MOST_CORNERS:,}; triangulate it before saving")
        for step in range(len(which)):
            if step % 1000 == 0:
                tick(step, len(which))
            ears, sound = _ears(shape[step], normal[step], float(area[step]))
            crossing += not sound
            pieces.append(places[step][ears])
            owners.append(np.full(len(ears), which[step]))
    triangles = np.concatenate(pieces) if pieces else np.zeros((0, 3), np.int64)
    owner = np.concatenate(owners) if owners else np.zeros(0, np.int64)
    order = np.argsort(owner, kind="stable")
    owner = owner[order]
    different = int(np.count_nonzero(np.diff(owner))) + (len(owner) > 0)
    return Triangles(triangles[order], owner, n_polygons - different, crossing)


def _in_planes(shape: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Polygons (P, N, 3) about their first corner and of size 1, their unit normals (Newell) and their areas along these."""
    shape = shape - shape[:, :1]
    size = np.abs(shape).max(axis=(1, 2), keepdims=True)
    shape = shape / np.where(size > 0, size, 1)
    twice = np.cross(shape, np.roll(shape, -1, axis=1)).sum(1)
    length = np.linalg.norm(twice, axis=1)
    return shape, twice / np.where(length > 0, length, 1)[:, None], length / 2


def _areas(shape: np.ndarray, normal: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """(P, T) signed areas of the triangles (T, 3), seen along the normals."""
    a, b, c = (shape[:, triangles[:, i]] for i in range(3))
    return np.einsum("ptk,pk->pt", np.cross(b - a, c - a), normal) / 2


def _ears(shape: np.ndarray, normal: np.ndarray, area: float) -> tuple[np.ndarray, bool]:
    """One polygon (N, 3) by ear clipping: triangles (T, 3) of its corners, and whether they cover just its area."""
    import mapbox_earcut

    axis = int(np.abs(normal).argmax())
    across, up = _AXES[axis] if normal[axis] > 0 else _AXES[axis][::-1]
    ring = np.ascontiguousarray(shape[:, [across, up]])
    ears = mapbox_earcut.triangulate_float64(ring, np.array([len(ring)], dtype=np.uint32)).astype(np.int64).reshape(-1, 3)
    if not len(ears):
        return ears, True
    signed = _areas(shape[None], normal[None], ears)[0]
    if signed.sum() < 0:
        ears = ears[:, ::-1]
    sound = abs(float(np.abs(signed).sum()) - area) <= 1e-6 * area
    return _with_passed_over(ears, len(ring)), sound


def _with_passed_over(ears: np.ndarray, count: int) -> np.ndarray:
    """Puts corners on straight sides, which ear clipping may pass over, back: without them a neighbour's side would not fit."""
    used = np.unique(ears)
    if len(used) == count:
        return ears
    triangles = [tuple(ear) for ear in ears.tolist()]
    for a, b in zip(used.tolist(), np.roll(used, -1).tolist(), strict=True):
        chain = [(a + k) % count for k in range((b - a) % count + 1)]
        if len(chain) == 2:
            continue
        for i, (p, q, r) in enumerate(triangles):
            tip = {(p, q): r, (q, r): p, (r, p): q}.get((a, b))
            if tip is not None:
                triangles[i : i + 1] = [(x, y, tip) for x, y in zip(chain[:-1], chain[1:], strict=True)]
                break
    return np.array(triangles, dtype=np.int64)
