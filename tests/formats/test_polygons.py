"""Polygons as triangles: area and side are kept, whatever the shape."""

import mapbox_earcut  # noqa: F401  what cannot be imported must not be skipped
import numpy as np
import pytest
from lathe.pipelines.formats.polygons import MOST_CORNERS, triangulate

SHAPES = {  # name: corners in the plane, counter-clockwise; area
    "square": ([(0, 0), (2, 0), (2, 2), (0, 2)], 4),
    "dart": ([(0, 0), (4, 0), (1, 1), (0, 4)], 4),
    "dart, bay at the second corner": ([(0, 4), (1, 1), (4, 0), (4, 4)], 12),
    "side with a corner": ([(0, 0), (1, 0), (2, 0), (2, 2)], 2),
    "house with corners on all sides": ([(0, 0), (1, 0), (2, 0), (2, 1), (2, 2), (1, 2), (0, 2), (0, 1)], 4),
    "pentagon with a bay": ([(0, 0), (4, 0), (4, 4), (2, 1), (0, 4)], 10),
    "L": ([(0, 0), (3, 0), (3, 1), (1, 1), (1, 3), (0, 3)], 5),
    "U with corners on its sides": ([(0, 0), (1, 0), (2, 0), (3, 0), (3, 3), (2, 3), (2, 1), (1, 1), (1, 3), (0, 3), (0, 1)], 7),
    "comb": ([(0, 0), (5, 0), (5, 5), (4, 5), (4, 1), (3, 1), (3, 5), (2, 5), (2, 1), (1, 1), (1, 5), (0, 5)], 17),
}  # fmt: skip


def area_vectors(points, triangles):
    a, b, c = (points[triangles[:, i]] for i in range(3))
    return np.cross(b - a, c - a) / 2


@pytest.mark.parametrize("shift", [0, 1, 2])
@pytest.mark.parametrize("name", SHAPES)
def test_area_side_and_every_corner(name, shift):
    flat, area = SHAPES[name]
    flat = flat[shift:] + flat[:shift]
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    turn *= np.linalg.det(turn)
    for mirrored in (False, True):
        points = np.array([(x, y, 0.0) for x, y in (flat[::-1] if mirrored else flat)]) @ turn.T + [5e5, 4e6, 10]
        found = triangulate(points, np.arange(len(flat)), np.array([len(flat)]))
        vectors = area_vectors(points, found.corners)
        outward = turn[:, 2] * (-1 if mirrored else 1)
        np.testing.assert_allclose(vectors.sum(0), area * outward, atol=1e-6)
        assert (vectors @ outward > -1e-7).all(), "no triangle is turned over"
        sides = {side for t in found.corners.tolist() for side in zip(t, t[1:] + t[:1], strict=True)}
        assert len(sides) == 3 * len(found.corners) and {(i, (i + 1) % len(flat)) for i in range(len(flat))} <= sides
        assert sum((b, a) in sides for a, b in sides) == len(sides) - len(flat), "triangles meet side to side"
        assert set(found.corners.reshape(-1)) == set(range(len(flat))), "a corner on a straight side keeps its place"
        assert len(found.corners) == len(flat) - 2 and found.dropped == found.crossing == 0


def test_polygons_that_are_not_flat():
    points = np.array([(0, 0, 0), (4, 0, 0.2), (4, 4, 0), (2, 1, 0.1), (0, 4, 0)], float)
    found = triangulate(points, np.array([2, 3, 4, 0, 1]), np.array([5]))
    vectors = area_vectors(points, np.array([2, 3, 4, 0, 1])[found.corners])
    assert (vectors[:, 2] > 0).all() and vectors[:, 2].sum() == pytest.approx(10)


def test_order_and_counts_of_mixed_polygons():
    points = np.array([(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (2, 0, 0), (3, 0, 0)], float)
    corners = np.array([0, 1, 2, 3, 0, 1, 2, 0, 1, 4, 5, 2, 2, 3, 0, 1, 1, 2, 3])
    counts = np.array([4, 3, 4, 4, 4, 0])
    found = triangulate(points, corners, counts)
    assert found.polygon.tolist() == [0, 0, 1, 3, 4] and found.dropped == 2
    assert corners[found.corners].tolist() == [[0, 1, 2], [0, 2, 3], [0, 1, 2], [2, 3, 0], [1, 2, 3]]


def test_crossing_is_said_and_huge_or_tiny_sizes_do_not_matter():
    bow = np.array([(0, 0, 0), (2, 2, 0), (2, 0, 0), (0, 1, 0), (-1, 3, 0)], float)
    assert triangulate(bow, np.arange(5), np.array([5])).crossing == 1
    shape, area = SHAPES["comb"]
    for size in (1e-30, 1e200):
        points = np.array([(x, y, 0) for x, y in shape]) * size
        found = triangulate(points, np.arange(len(shape)), np.array([len(shape)]))
        assert area_vectors(points / size, found.corners)[:, 2].sum() == pytest.approx(area)


def test_a_polygon_of_too_many_corners_is_refused_unless_a_fan_does():
    count = MOST_CORNERS + 2
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    star = circle * (1 + 0.3 * (np.arange(count) % 2))[:, None]
    with pytest.raises(ValueError, match="triangulate it before saving"):
        triangulate(star, np.arange(count), np.array([count]))
