"""LOAD3D_CAMERA to and from Cameras, under the viewer's two ways to show a model."""

import math

import pytest
import torch
from lathe.pipelines.cameras import load3d_viewer as viewer
from lathe.pipelines.cameras import orbits
from lathe.pipelines.ops import camera_math

LOWER, UPPER = torch.tensor([-0.5, -0.9, -0.3]), torch.tensor([0.7, 1.1, 0.1])


def frames():
    spun = {"position": {"x": 1.0, "y": 2.0, "z": -1.0}, "quaternion": {"x": 0, "y": math.sin(0.4), "z": 0, "w": math.cos(0.4)}}
    return [viewer.own_space(), viewer.fitted(LOWER, UPPER), viewer.moved({**spun, "scale": {"x": 2.0, "y": 2.0, "z": 2.0}})]


def test_fitted_is_the_viewers_rule():
    frame = viewer.fitted(LOWER, UPPER)
    assert frame.scale == pytest.approx(2.5)
    shown = [frame.scale * frame.rotation @ corner.double() + frame.offset for corner in (LOWER, UPPER)]
    assert torch.allclose(shown[0], torch.tensor([-1.5, 0.0, -0.5], dtype=torch.float64), atol=1e-6)
    assert torch.allclose(shown[1], torch.tensor([1.5, 5.0, 0.5], dtype=torch.float64), atol=1e-6)
    with pytest.raises(ValueError, match="no size"):
        viewer.fitted(LOWER, LOWER)


@pytest.mark.parametrize("frame", frames(), ids=["own", "fitted", "moved"])
def test_a_camera_survives_the_round_trip(frame):
    cameras = orbits.orbit_cameras(7, elevation=-25, radius=3.3, fov=42, start=11)
    for view in range(7):
        info = viewer.to_load3d(cameras, view, frame)
        back = viewer.from_load3d(info, frame)
        assert torch.allclose(back.c2w[0], cameras.c2w[view], atol=1e-5)
        assert torch.allclose(back.K[0], cameras.K[view], atol=1e-5)


@pytest.mark.parametrize("frame", frames()[:2], ids=["own", "fitted"])
def test_what_the_viewer_draws_is_what_the_camera_sees(frame):
    """An old viewer knows position, target and zoom only: its own projection of the shown point must agree with ours."""
    cameras = orbits.orbit_cameras(5, elevation=20, radius=4.0, fov=30)
    point = torch.tensor([[0.2, 0.5, -0.1]])
    for view in range(5):
        old = viewer.to_load3d(cameras, view, frame, newer_viewer=False)
        assert set(old) == {"position", "target", "zoom", "cameraType"}
        eye = torch.tensor([[old["position"][k] for k in "xyz"]])
        target = torch.tensor([old["target"][k] for k in "xyz"])
        c2w = camera_math.look_at(eye, target)
        focal = old["zoom"] * camera_math.focal_from_fov(35.0)
        shown = (frame.scale * point.double() @ frame.rotation.T + frame.offset).float()
        drawn, _ = camera_math.project(shown, c2w, torch.tensor([[focal, focal, 0.5, 0.5]]))
        seen, _ = camera_math.project(point, cameras.c2w[view : view + 1], cameras.K[view : view + 1])
        assert torch.allclose(drawn, seen, atol=1e-5)
        assert torch.allclose(viewer.from_load3d(old, frame).c2w[0], cameras.c2w[view], atol=1e-5)


def test_an_old_dict_without_a_lens_has_the_viewers_35_degrees():
    info = {"position": {"x": 10, "y": 10, "z": 10}, "target": {"x": 0, "y": 2.5, "z": 0}, "zoom": 1, "cameraType": "perspective"}
    camera = viewer.from_load3d(info, viewer.fitted(LOWER, UPPER), aspect=2.0)
    assert float(camera.K[0, 1]) == pytest.approx(0.5 / math.tan(math.radians(17.5)))
    assert float(camera.K[0, 0]) == pytest.approx(float(camera.K[0, 1]) / 2)
    centre, _ = camera_math.project(((LOWER + UPPER) / 2)[None], camera.c2w, camera.K)
    assert torch.allclose(centre, torch.full((1, 1, 2), 0.5), atol=1e-5)


def test_a_new_dicts_fov_and_zoom_multiply():
    info = {"position": {"x": 0, "y": 0, "z": 4}, "target": {"x": 0, "y": 0, "z": 0}, "fov": 60, "zoom": 2, "cameraType": "perspective"}
    camera = viewer.from_load3d(info, viewer.own_space())
    assert float(camera.K[0, 0]) == pytest.approx(math.sqrt(3), abs=1e-5)
    rolled = {**info, "quaternion": {"x": 0, "y": 0, "z": math.sin(0.25), "w": math.cos(0.25)}}
    right = viewer.from_load3d(rolled, viewer.own_space()).c2w[0, :3, 0]
    assert torch.allclose(right, torch.tensor([math.cos(0.5), math.sin(0.5), 0.0]), atol=1e-6)


def test_which_frame():
    bounds = (LOWER, UPPER)
    assert viewer.choose_frame(newer_viewer=True, bounds=bounds).scale == 1.0
    assert viewer.choose_frame(newer_viewer=False, bounds=bounds).scale == pytest.approx(2.5)
    info = [{"position": {"x": 0, "y": 0, "z": 0}, "scale": {"x": 3, "y": 3, "z": 3}}]
    assert viewer.choose_frame(newer_viewer=True, bounds=None, model_info=info).scale == pytest.approx(3.0)
    with pytest.raises(ValueError, match="wire the mesh"):
        viewer.choose_frame(newer_viewer=False, bounds=None)


def test_bad_cameras_are_refused():
    good = {"position": {"x": 0, "y": 0, "z": 4}, "target": {"x": 0, "y": 0, "z": 0}}
    own = viewer.own_space()
    for bad in ({**good, "cameraType": "orthographic"}, {}, {**good, "target": good["position"]}, {**good, "quaternion": {"x": 0}}):
        with pytest.raises(ValueError):
            viewer.from_load3d(bad, own)
    with pytest.raises(ValueError, match="unevenly"):
        viewer.moved({"scale": {"x": 1, "y": 2, "z": 1}})
    shifted = orbits.orbit_cameras(1)
    shifted.K[0, 2] = 0.6
    with pytest.raises(ValueError, match="middle"):
        viewer.to_load3d(shifted, 0, own)


GOOD = {"position": {"x": 0, "y": 0, "z": 4}, "target": {"x": 0, "y": 0, "z": 0}, "fov": 30, "cameraType": "perspective"}


def test_a_list_of_cameras_gives_as_many_views():
    orbit = orbits.orbit_cameras(5, elevation=20, radius=3.0, fov=40)
    own = viewer.own_space()
    infos = [viewer.to_load3d(orbit, view, own) for view in range(5)]
    cameras = viewer.cameras_from_load3d(viewer.camera_list(infos), [own] * 5)
    torch.testing.assert_close(cameras.c2w, orbit.c2w, atol=1e-5, rtol=0)
    torch.testing.assert_close(cameras.K, orbit.K, atol=1e-5, rtol=0)
    assert cameras.names == tuple(f"viewer {i}" for i in range(5))
    named = viewer.cameras_from_load3d([{**GOOD, "name": "left"}, GOOD], [own] * 2)
    assert named.names == ("left", "viewer 1")
    for one in (GOOD, [GOOD], (GOOD,)):
        assert viewer.cameras_from_load3d(viewer.camera_list(one), [own]).names == ("viewer",)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "empty: move the viewer's camera"),
        ([], "an empty list"),
        ((), "an empty list"),
        ("camera", "a str"),
        (3, "a int"),
        ([GOOD, None], "camera 1 of 2 is empty"),
        ([[GOOD], GOOD], "camera 0 of 2 is a list"),
        ([GOOD, GOOD, "x"], "camera 2 of 3 is a str"),
    ],
)
def test_what_is_no_list_of_cameras_is_refused(value, words):
    with pytest.raises(ValueError, match=words):
        viewer.camera_list(value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"position": None}, "no position"),
        ({"position": [0, 0, 4]}, "no position"),
        ({"position": {"x": 0, "z": 4}}, "position .* incomplete: x, y, z"),
        ({"position": {"x": 0, "y": None, "z": 4}}, r"position\.y .* None"),
        ({"position": {"x": 0, "y": math.nan, "z": 4}}, r"position\.y .* nan"),
        ({"position": {"x": 0, "y": 10**400, "z": 4}}, r"position\.y .* 1000"),
        ({"position": {"x": 0, "y": "up", "z": 4}}, r"position\.y .* up"),
        ({"target": None}, "neither a target nor a quaternion"),
        ({"target": {"x": 0}}, "target .* incomplete"),
        ({"target": "origin"}, "target .* incomplete"),
        ({"quaternion": {"x": 0, "y": 0, "z": 1}}, "quaternion .* incomplete"),
        ({"quaternion": [0, 0, 0, 1]}, "quaternion .* incomplete"),
        ({"fov": 180}, "fov between 0 and 180"),
        ({"fov": -20}, "fov between 0 and 180"),
        ({"fov": "wide"}, "fov .* wide"),
        ({"zoom": -1}, "zoom above 0"),
        ({"zoom": 0}, "zoom above 0"),
        ({"fov": 0}, "fov between 0 and 180"),
        ({"cameraType": "orthographic"}, "orthographic"),
    ],
)
def test_a_broken_camera_of_a_list_is_named(change, words):
    own = viewer.own_space()
    with pytest.raises(ValueError, match=words):
        viewer.from_load3d({**GOOD, **change}, own)
    with pytest.raises(ValueError, match=f"camera 1 of 2: .*{words}"):
        viewer.cameras_from_load3d([GOOD, {**GOOD, **change}], [own] * 2)


@pytest.mark.parametrize("info", [[None], ["x"], [{"scale": 2}], [{"scale": {"x": 1}}], [{"position": {"x": "a", "y": 0, "z": 0}}]])
def test_a_broken_place_of_the_model_is_refused_in_words(info):
    with pytest.raises(ValueError, match="viewer"):
        viewer.choose_frame(newer_viewer=True, bounds=None, model_info=info)
