"""Cameras of a square frame take the proportions of the pictures they meet; others hold, or it is said."""

from __future__ import annotations

import logging

import pytest
import torch
from lathe.pipelines.cameras.elevation import estimate_elevation, pose
from lathe.pipelines.cameras.join_and_select import on_squares
from lathe.pipelines.cameras.orbits import orbit_cameras
from lathe.pipelines.cameras.picture_camera import place_picture
from lathe.pipelines.data.cameras import Cameras
from lathe.pipelines.data.views import match_cameras
from lathe.pipelines.ops import camera_math
from lathe.pipelines.ops.square_pictures import pad_to_squares, square_views
from lathe.pipelines.rendering.mesh import render_mesh
from wide_views import DISTANCE, RADIUS, SIZES, ball_mesh, ball_pictures, box_of, spike, true_cameras

ORBIT = orbit_cameras(6, elevation=20)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_square_frame_takes_the_pictures_proportions(height, width, caplog):
    with caplog.at_level(logging.INFO):
        matched = match_cameras(ORBIT, height, width, stage="Test")
    torch.testing.assert_close(matched.K, true_cameras(ORBIT, height, width).K)
    assert [record.levelno for record in caplog.records] == [logging.INFO]
    assert match_cameras(matched, height, width, stage="Test") is matched  # once matched, they stay


def test_square_pictures_change_nothing():
    off = Cameras(ORBIT.c2w, ORBIT.K + torch.tensor([5e-5, 0, 0.1, 0]), ORBIT.names)
    assert match_cameras(ORBIT, 64, 64, stage="Test") is ORBIT and off.for_pictures(64, 64) is off


def test_the_principal_point_stays_where_it_is():
    off = Cameras(ORBIT.c2w, ORBIT.K + torch.tensor([0, 0, 0.1, -0.2]), ORBIT.names).for_pictures(90, 160)
    torch.testing.assert_close(off.K[0, 2:], torch.tensor([0.6, 0.3]))


def test_cameras_of_each_asset_and_of_each_view():
    c2w = torch.stack([ORBIT.c2w, orbit_cameras(6, elevation=-10).c2w])
    K = ORBIT.K.repeat(2, 1, 1)
    K[1, 2] = torch.tensor([1.0, 16 / 9, 0.5, 0.5])  # this one states its proportions
    matched = Cameras(c2w, K, ORBIT.names).for_pictures(72, 128)
    assert matched.n_assets == 2 and torch.equal(matched.K[1, 2], K[1, 2])
    others = torch.ones(2, 6, dtype=torch.bool)
    others[1, 2] = False
    torch.testing.assert_close(matched.K[others], true_cameras(ORBIT, 72, 128).K[:1].expand(11, 4))


@pytest.mark.parametrize(("height", "width", "said"), [(64, 64, "1:1 (64 x 64"), (128, 72, "0.562:1"), (100, 150, "1.5:1")])
def test_other_proportions_than_the_cameras_state_are_said_once_and_the_fractions_stay(height, width, said, caplog):
    wide = true_cameras(ORBIT, 90, 160)
    assert match_cameras(wide, height, width, stage="Test") is wide
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "pictures of 1.78:1" in record.getMessage() and said in record.getMessage()


def test_two_percent_are_rounding(caplog):
    wide = true_cameras(ORBIT, 90, 160)
    assert match_cameras(wide, 71, 128, stage="Test") is wide and not caplog.records


def test_some_of_the_cameras(caplog):
    K = ORBIT.K.clone()
    K[0] = true_cameras(ORBIT, 90, 160).K[0]
    match_cameras(Cameras(ORBIT.c2w, K, ORBIT.names), 64, 64, stage="Test")
    assert "1 of 6 cameras are for pictures of 1.78:1" in caplog.text


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_estimate_elevation(height, width):
    truth = true_cameras(orbit_cameras(8, elevation=25), height, width)
    made = render_mesh(spike(), truth, height, width, supersample=2)
    asked = orbit_cameras(8)
    (found,) = estimate_elevation(made.images, made.masks, asked, method="silhouettes")
    assert found.elevation == pytest.approx(25, abs=2)
    assert torch.equal(pose(asked, [found]).K, asked.K)  # squares can be drawn with them, too


def test_place_picture_of_other_proportions_than_the_views():
    """Wide views, a high picture: the camera found sees the ball where and as large as the picture shows it."""
    views = orbit_cameras(8, elevation=20)
    _, masks = ball_pictures(views.c2w, 72, 128)
    picture = torch.zeros(1, 160, 90)
    y, x = torch.meshgrid(torch.arange(160) + 0.5, torch.arange(90) + 0.5, indexing="ij")
    picture[0] = ((x - 50) ** 2 + (y - 70) ** 2 < 30**2).float()
    camera = place_picture(picture, masks, views, elevation=15)
    middle, _ = camera_math.project(torch.zeros(1, 3), camera.c2w, camera.K)
    torch.testing.assert_close(middle[0, 0] * torch.tensor([90, 160]), torch.tensor([50.0, 70.0]), atol=1.0, rtol=0)
    assert float(camera.pixel_aspects(160, 90)) == pytest.approx(1, abs=1e-3)
    drawn = render_mesh(ball_mesh(), camera, 160, 90)
    assert box_of(drawn.masks) == (pytest.approx(60, abs=4), pytest.approx(60, abs=4))


def test_views_on_squares_see_the_same():
    cameras = orbit_cameras(3, elevation=20)
    images, masks = ball_pictures(cameras.c2w, 72, 128)
    for assets in (1, 2):
        made, outlines, moved = on_squares(images.repeat(assets, 1, 1, 1), masks.repeat(assets, 1, 1, 1), cameras)
        assert on_squares(images, masks[:, :, ::2, ::2], cameras)[1].shape == (3, 1, 128, 128)
        assert made.shape == (3 * assets, 3, 128, 128) and moved.n_assets is None
        assert float(made[:, :, :20].min()) == 1 and float(outlines[:, :, :20].max()) == 0
        drawn = render_mesh(ball_mesh(), moved, 128, 128, supersample=2).masks
        assert float((drawn - outlines[:3]).abs().mean()) < 0.004


def test_squeezed_views_get_square_pixels_back():
    """Wide pictures squeezed into squares, with the cameras of the wide ones."""
    cameras = true_cameras(orbit_cameras(2), 72, 128)
    _, masks = ball_pictures(cameras.c2w, 72, 128)
    squeezed = torch.nn.functional.interpolate(masks, (72, 72), mode="area")
    made, K = square_views(squeezed, cameras.K, torch.zeros(1))
    assert made.shape[-2:] == (72, 72) and torch.allclose(K[:, 0], K[:, 1], rtol=0.02)
    wide, high = box_of(made)
    assert abs(wide - high) <= 1


def test_padding_leaves_squares_alone():
    square = torch.rand(2, 3, 8, 8)
    assert pad_to_squares(square, torch.ones(3)) is square
    assert torch.equal(square_views(square, ORBIT.K[:2], torch.ones(3))[0], square)


def test_the_truth_of_these_tests_is_a_ball():
    """The pictures by hand and the renderer with intrinsics by hand show the same ball, and it is as large as geometry says."""
    truth = true_cameras(ORBIT, 72, 128)
    _, masks = ball_pictures(ORBIT.c2w, 72, 128)
    drawn = render_mesh(ball_mesh(), truth, 72, 128, supersample=2).masks
    assert float((drawn - masks).abs().mean()) < 0.004
    wide, high = box_of(masks)
    expected = 2 * float(truth.K[0, 1]) * 72 * RADIUS / (DISTANCE**2 - RADIUS**2) ** 0.5
    assert wide == pytest.approx(expected, abs=1.1) and high == pytest.approx(expected, abs=1.1)
