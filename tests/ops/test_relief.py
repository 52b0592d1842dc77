"""Solid points of a relief, and their splats."""

import math

import torch
from lathe.pipelines.data.cameras import Cameras
from lathe.pipelines.ops import camera_math
from lathe.pipelines.ops.relief import RADIUS, solid_points, splat_points


def half_red_box(elevation: float):
    """A slab seen from the front: its left half is red, its right half blue, its back green."""
    mask = torch.zeros(1, 64, 64)
    mask[:, 16:48, 8:56] = 1
    image = torch.ones(3, 64, 64)
    image[:, 16:48, 8:32] = torch.tensor([1.0, 0, 0])[:, None, None]
    image[:, 16:48, 32:56] = torch.tensor([0.0, 0, 1])[:, None, None]
    green = torch.zeros(3, 64, 64)
    green[1] = 1
    depth = torch.full((1, 64, 64), 0.2)
    return solid_points(image, mask, -depth, depth, green, elevation)


def cameras(azimuth: float, elevation: float) -> Cameras:
    c2w = camera_math.orbit(torch.tensor([azimuth]), torch.tensor([elevation]), 4.0)
    return Cameras(c2w, camera_math.intrinsics(30.0, 1), ("view",))


def test_points_are_normalised_and_stand_as_the_picture_does():
    points, colors = half_red_box(0.0)
    assert abs(float(points.norm(dim=1).max()) - RADIUS) < 1e-5
    assert torch.allclose(points.amax(0), -points.amin(0), atol=1e-5)
    red = colors[:, 0] == 1
    assert points[red & (colors[:, 1] == 0), 0].mean() < -0.1  # the picture's left is the world's -X
    assert points[colors[:, 1] == 1, 2].mean() < points[red, 2].mean()  # the back lies behind


def test_the_front_view_looks_like_the_picture_and_the_back_view_is_green():
    points, colors = half_red_box(0.0)
    front = cameras(0.0, 0.0)
    picture, mask = splat_points(points, colors, front.c2w, front.K, 64)
    assert mask[0, 0, 32, 32] == 1 and mask[0, 0, 2, 2] == 0 and (picture[0, :, 2, 2] == 1).all()
    assert picture[0, 0, 32, 20] == 1 and picture[0, 2, 32, 20] == 0
    assert picture[0, 2, 32, 44] == 1 and picture[0, 0, 32, 44] == 0
    back = cameras(180.0, 0.0)
    assert splat_points(points, colors, back.c2w, back.K, 64)[0][0, :, 32, 32].tolist() == [0, 1, 0]


def test_elevation_turns_the_slab_upright():
    tilted, _ = half_red_box(math.radians(30.0))
    front, _ = half_red_box(0.0)
    # seen from 30 degrees above, a picture-parallel slab leans back: its upper edge lies behind its lower edge
    upper, lower = tilted[tilted[:, 1] > 0.2], tilted[tilted[:, 1] < -0.2]
    assert upper[:, 2].mean() < lower[:, 2].mean() - 0.1
    assert tilted.shape == front.shape


def test_nothing_to_see_gives_no_points():
    nothing = torch.zeros(1, 8, 8)
    points, colors = solid_points(torch.ones(3, 8, 8), nothing, nothing, nothing, torch.ones(3, 8, 8), 0.0)
    assert points.shape == (0, 3) == colors.shape
    view = cameras(0.0, 0.0)
    assert splat_points(points, colors, view.c2w, view.K, 8)[1].sum() == 0
