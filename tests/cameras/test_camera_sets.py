"""Camera sets, orbits, joins and selections of views."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lathe.pipelines.cameras import join_and_select, orbits, presets
from lathe.pipelines.data.cameras import Cameras
from lathe.pipelines.data.views import count_assets


def azimuths(cameras: Cameras) -> torch.Tensor:
    eye = cameras.c2w[..., :3, 3].double()
    return torch.rad2deg(torch.atan2(eye[..., 0], eye[..., 2])) % 360


def elevations(cameras: Cameras) -> torch.Tensor:
    eye = cameras.c2w[..., :3, 3].double()
    return torch.rad2deg(torch.asin(eye[..., 1] / eye.norm(dim=-1)))


def close_angles(a, b, tolerance=1e-3):
    difference = (torch.as_tensor(a, dtype=torch.float64) - torch.as_tensor(b, dtype=torch.float64) + 180) % 360 - 180
    assert float(difference.abs().max()) < tolerance, (a, b)


@pytest.mark.parametrize("name", presets.preset_names())
def test_every_preset_looks_at_the_origin_from_its_own_radius(name):
    preset = presets.load_preset(name)
    assert preset.title and preset.source
    cameras = presets.preset_cameras(name, elevation=12.0)
    eye, backward = cameras.c2w[:, :3, 3], cameras.c2w[:, :3, 2]
    assert torch.allclose(eye, backward * preset.radius, atol=1e-5)
    close_angles(azimuths(cameras), preset.azimuths)
    close_angles(elevations(cameras), preset.elevations or [12.0] * cameras.n_views)
    assert torch.allclose(cameras.K[:, 0], torch.tensor(0.5 / math.tan(math.radians(preset.fov / 2))))


def test_zero123plus_views_are_those_of_the_paper():
    cameras = presets.preset_cameras("zero123plus_v1.2")
    close_angles(azimuths(cameras), [30, 90, 150, 210, 270, 330])
    close_angles(elevations(cameras), [20, -10, 20, -10, 20, -10])
    assert torch.allclose(cameras.c2w[:, :3, 3].norm(dim=-1), torch.tensor(4.0))
    assert float(cameras.K[0, 0]) == pytest.approx(1.8660254, abs=1e-6)
    old = presets.preset_cameras("zero123plus_v1.1")
    close_angles(elevations(old), [30, -20, 30, -20, 30, -20])


def test_azimuths_are_relative_to_the_picture_and_elevations_are_not():
    turned = presets.preset_cameras("zero123plus_v1.2", input_azimuth=-90.0, elevation=45.0, radius=3.0)
    close_angles(azimuths(turned), [300, 0, 60, 120, 180, 240])
    close_angles(elevations(turned), [20, -10, 20, -10, 20, -10])
    assert torch.allclose(turned.c2w[:, :3, 3].norm(dim=-1), torch.tensor(3.0))


def test_sv3d_orbits_differ_as_their_samplers_do():
    core, published, geolrm = (azimuths(presets.preset_cameras(n)) for n in ("sv3d_p_core", "sv3d_sgm", "geolrm_official"))
    close_angles(core, [18.0 * i for i in range(21)])
    close_angles(core[0], core[-1])
    close_angles(published, [360 / 21 * (i + 1) for i in range(21)])
    close_angles(published[-1], 0)
    close_angles(geolrm, [360 / 21 * i for i in range(21)])


CORE_AZIMUTHS = """
import json, sys
from types import SimpleNamespace as Stub
import comfy.cli_args
comfy.cli_args.args.cpu = True
import torch
from comfy_extras.nodes_stable3d import SV3D_Conditioning
vision = Stub(encode_image=lambda image: Stub(image_embeds=torch.zeros(1, 8)))
vae = Stub(encode=lambda pixels: torch.zeros(1, 4, 2, 2))
out = SV3D_Conditioning.execute(vision, torch.zeros(1, 16, 16, 3), vae, 16, 16, 21, 7.5)
print(json.dumps({k: list(map(float, out.args[0][0][1][k])) for k in ("azimuth", "elevation")}))
"""


def test_sv3d_p_core_is_what_cores_own_node_writes():
    comfyui = os.environ.get("COMFYUI_DIR")
    if not comfyui:
        pytest.skip("COMFYUI_DIR is not set: core's SV3D_Conditioning cannot be asked")
    answer = subprocess.run([sys.executable, "-c", CORE_AZIMUTHS], cwd=comfyui, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    core = json.loads(answer.stdout.splitlines()[-1])
    cameras = presets.preset_cameras("sv3d_p_core", elevation=7.5)
    close_angles(azimuths(cameras), core["azimuth"])
    close_angles(elevations(cameras), core["elevation"])


def test_an_unknown_preset_is_refused_with_the_names():
    with pytest.raises(ValueError, match="zero123plus_v1.2"):
        presets.preset_cameras("zero124")


def test_orbits():
    turn = orbits.orbit_cameras(4, elevation=10, radius=2, fov=60, start=45)
    close_angles(azimuths(turn), [45, 135, 225, 315])
    assert float(turn.K[0, 0]) == pytest.approx(0.8660254, abs=1e-6)
    close_angles(azimuths(orbits.orbit_cameras(3, turn=-90, endpoint=True)), [0, 315, 270])
    close_angles(azimuths(orbits.orbit_cameras(1, start=30, endpoint=True)), [30])
    top = orbits.orbit_cameras(1, elevation=90)
    assert torch.allclose(top.c2w[0, :3, 3], torch.tensor([0.0, 4.0, 0.0]), atol=1e-6)
    for bad in ({"n_views": 0}, {"n_views": 2, "radius": 0.0}, {"n_views": 2, "fov": 180.0}, {"n_views": 2, "elevation": 91.0}):
        with pytest.raises(ValueError):
            orbits.orbit_cameras(**bad)


def per_asset(cameras: Cameras, n: int) -> Cameras:
    turned = [presets.preset_cameras("zero123plus_v1.2", input_azimuth=10.0 * i) for i in range(n)]
    return Cameras(torch.stack([c.c2w for c in turned]), torch.stack([c.K for c in turned]), cameras.names)


def test_frames_and_cameras_must_fit():
    six = presets.preset_cameras("zero123plus_v1.2")
    assert count_assets(12, six) == 2
    with pytest.raises(ValueError, match="7 images do not fit cameras of 6 views"):
        count_assets(7, six)
    with pytest.raises(ValueError, match="0 images"):
        count_assets(0, six)
    with pytest.raises(ValueError, match="3 assets, but 12 images"):
        count_assets(12, per_asset(six, 3))


def test_joined_views_stay_with_their_asset():
    six, four = presets.preset_cameras("zero123plus_v1.2"), orbits.orbit_cameras(4)
    first = torch.arange(12.0).reshape(12, 1, 1, 1).expand(12, 2, 2, 3)
    second = (100 + torch.arange(8.0)).reshape(8, 1, 1, 1).expand(8, 2, 2, 3)
    joined = join_and_select.join_frames(first, second, six, four)
    assert joined[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 100, 101, 102, 103, 6, 7, 8, 9, 10, 11, 104, 105, 106, 107]
    cameras = join_and_select.join_cameras(six, four)
    assert cameras.n_views == 10 and cameras.names[6] == four.names[0]
    close_angles(azimuths(cameras)[6:], [0, 90, 180, 270])
    each = join_and_select.join_cameras(per_asset(six, 2), four)
    assert each.c2w.shape == (2, 10, 4, 4)
    close_angles(azimuths(each)[1, :6], [40, 100, 160, 220, 280, 340])
    close_angles(azimuths(each)[1, 6:], [0, 90, 180, 270])
    with pytest.raises(ValueError, match="2 assets, the other for 3"):
        join_and_select.join_cameras(per_asset(six, 2), per_asset(six, 3))
    with pytest.raises(ValueError, match="same assets"):
        join_and_select.join_frames(first, second[:4], six, four)
    with pytest.raises(ValueError, match="2x2 pixels.*3x2 pixels"):
        join_and_select.join_frames(first, torch.zeros(8, 2, 3, 3), six, four)


def test_selected_views_keep_their_cameras():
    six = presets.preset_cameras("zero123plus_v1.2")
    frames = torch.arange(12.0).reshape(12, 1, 1)
    views = join_and_select.parse_views("0, 2,4-5", 6)
    assert views == [0, 2, 4, 5]
    assert join_and_select.select_frames(frames, six, views).flatten().tolist() == [0, 2, 4, 5, 6, 8, 10, 11]
    close_angles(azimuths(six.select(views)), [30, 150, 270, 330])
    assert join_and_select.parse_views("-1,0", 6) == [5, 0]
    for bad in ("", "6", "a", "3-2", "1-", "0-1099511627776", "1" * 9999):
        with pytest.raises(ValueError):
            join_and_select.parse_views(bad, 6)


def test_presets_are_all_there():
    wanted = {"zero123plus_v1.1", "zero123plus_v1.2", "sv3d_p_core", "sv3d_u_core", "sv3d_sgm"}
    wanted |= {"geolrm_official", "instantmesh_orbit", "im3d_orbit"}
    assert wanted <= set(presets.preset_names())
    assert all(Path(presets.PRESET_FOLDER, f"{n}.json").is_file() for n in wanted)


def test_random_elevations_are_the_seeds_and_fill_their_range():
    drawn = [orbits.random_elevation(seed) for seed in range(200)]
    assert drawn == [orbits.random_elevation(seed) for seed in range(200)]
    assert 0 <= min(drawn) < 2 and 43 < max(drawn) <= 45 and 20 < sum(drawn) / 200 < 25
    assert orbits.random_elevation(3, 10, 10) == 10
    with pytest.raises(ValueError, match="lower first"):
        orbits.random_elevation(0, 30, 20)


def test_views_that_run_backwards_are_named():
    from lathe.pipelines.cameras.join_and_select import parse_views

    with pytest.raises(ValueError, match="5-2 runs backwards; write 2-5"):
        parse_views("0, 5-2", 8)
