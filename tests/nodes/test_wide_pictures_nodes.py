"""Nodes that meet pictures that are not square, as ComfyUI runs them; what is guessed or squeezed is said once."""

from __future__ import annotations

import types

import pytest
import torch
from lathe.nodes.add_picture import LatheAddPicture
from lathe.nodes.cameras import LatheCamerasFromLoad3D, LatheOrbitCameras
from lathe.nodes.core.mesh import to_core_mesh
from lathe.nodes.meshes import LatheBakeViewsTexture
from lathe.nodes.render import LatheRenderViews
from lathe.pipelines.cameras.orbits import orbit_cameras
from lathe.pipelines.data.cameras import Cameras
from lathe.pipelines.formats.cameras import load_cameras, save_cameras
from lathe.pipelines.rendering.mesh import render_mesh
from wide_views import ball_mesh, ball_pictures, box_of, true_cameras

WIDE = true_cameras(orbit_cameras(2), 90, 160)


@pytest.fixture(autouse=True)
def running_nodes(monkeypatch):
    for node in (LatheRenderViews, LatheBakeViewsTexture):
        monkeypatch.setattr(node, "hidden", types.SimpleNamespace(unique_id="1"), raising=False)


def render(cameras, width, height, meshes=1):
    asset = to_core_mesh([ball_mesh(12)] * meshes)
    with torch.inference_mode():
        return LatheRenderViews.execute(asset, cameras, width, height, "#ffffff", False, 64).args[1]


@pytest.mark.parametrize(("width", "height"), [(128, 72), (72, 128)])
def test_render_views_with_orbit_cameras(width, height, caplog):
    cameras = LatheOrbitCameras.execute(1, 15.0, 4.0, 30.0, 0.0, 360.0, False).args[0]
    wide, high = box_of(render(cameras, width, height)[:, None])
    assert abs(wide - high) <= 1 and not caplog.records


def test_render_views_with_the_viewers_camera():
    info = {"position": {"x": 0, "y": 0, "z": 4}, "target": {"x": 0, "y": 0, "z": 0}, "fov": 30.0, "cameraType": "perspective"}
    cameras = LatheCamerasFromLoad3D.execute(info, "own space", 1.0).args[0]
    wide, high = box_of(render(cameras, 128, 72)[:, None])
    assert abs(wide - high) <= 1 and abs(high - box_of(render(cameras, 72, 72)[:, None])[1]) <= 1


def test_render_views_says_once_what_it_squeezes(caplog):
    cameras = Cameras(WIDE.c2w.repeat(2, 1, 1, 1), WIDE.K.repeat(2, 1, 1), WIDE.names)
    render(cameras, 64, 64, meshes=2)
    (record,) = caplog.records
    assert "pictures of 1.78:1, but these are 1:1" in record.getMessage() and "Set width and height" in record.getMessage()


def test_bake_views_says_once_for_a_batch(caplog):
    cameras = Cameras(WIDE.c2w.repeat(2, 1, 1, 1), WIDE.K.repeat(2, 1, 1), WIDE.names)
    images = render_mesh(ball_mesh(12), WIDE, 64, 64).images.movedim(1, -1).repeat(2, 1, 1, 1)
    LatheBakeViewsTexture.execute(to_core_mesh([ball_mesh(12)] * 2), images, cameras, "64", "", 4.0, "what it had")
    assert caplog.text.count("squeezed") == 1


@pytest.mark.parametrize(("height", "width"), [(160, 90), (72, 128), (64, 64)])
def test_add_picture_to_wide_views(height, width, caplog):
    """The views are 16:9; the picture is high, wide or square. All views that come out show the ball as their cameras see it."""
    cameras = orbit_cameras(6, elevation=20)
    images, masks = ball_pictures(cameras.c2w, 72, 128)
    picture, outline = ball_pictures(orbit_cameras(1, elevation=15).c2w, height, width)
    made, outlines, joined = LatheAddPicture.execute(
        picture.movedim(1, -1), outline[:, 0], images.movedim(1, -1), masks[:, 0], cameras, 15.0
    ).args
    assert joined.n_views == 7 and len(made) == 7 and outlines.shape[1:] == made.shape[1:3]
    drawn = render_mesh(ball_mesh(), joined.of_asset(0), *made.shape[1:3], supersample=2).masks[:, 0]
    assert float((drawn - outlines).abs().mean()) < 0.02
    assert caplog.text.count("padded to squares") == (0 if (height, width) == (72, 128) else 1)


@pytest.mark.parametrize("cameras", [orbit_cameras(2), WIDE])
def test_saved_cameras_come_back_with_their_frame(cameras, tmp_path):
    save_cameras(cameras, tmp_path / "cameras.json")
    again = load_cameras(tmp_path / "cameras.json")
    torch.testing.assert_close(again.for_pictures(90, 160).K, WIDE.K, rtol=1e-3, atol=1e-3)
