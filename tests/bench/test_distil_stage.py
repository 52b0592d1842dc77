"""The oracles of the distillation benchmark: true views at the pose they were told, and words that know no more than words do."""

import argparse
from dataclasses import replace

import pytest
import torch
from lathe.bench import oracle_priors
from lathe.bench.oracle_priors import FOV, RADIUS, Oracle, TrueViews, oracle_prior
from lathe.bench.quality_stages import distil
from lathe.pipelines.cameras.orbits import posed_cameras
from lathe.pipelines.distillation.cameras_and_shading import ReferenceView, random_cameras
from lathe.pipelines.distillation.settings import DistilPreset, March, NovelCameras, load_distil_preset
from lathe.pipelines.nets.distil_net import FieldShape
from lathe.pipelines.ops.camera_math import relative_pose
from lathe.training.objects import BUNDLED, load_object, split

KEY = split("bench")[1]


@pytest.fixture(scope="module")
def truth() -> TrueViews:
    return TrueViews(load_object(BUNDLED, KEY))


def test_the_reference_camera_sees_the_object_whole(truth):
    images, masks = truth.render(posed_cameras([0.0, 120.0], [0.0, 30.0], RADIUS, FOV), 48)
    border = torch.cat([masks[..., 0, :], masks[..., -1, :], masks[..., 0], masks[..., -1]], -1)
    assert float(border.max()) == 0 and float(masks.mean()) > 0.05
    assert images.shape == (2, 3, 48, 48) and torch.allclose(images[masks.expand_as(images) == 0], torch.ones(1))


def test_the_relative_pose_says_all_that_a_camera_is():
    cameras = random_cameras(20, NovelCameras(radius=(0.8, 1.2), elevation=(-45, 60)), ReferenceView(), torch.Generator().manual_seed(0))
    for view in range(20):
        camera = cameras.select([view])
        told = oracle_priors.camera_of_pose(*relative_pose(camera.c2w, elevation=0.0, radius=RADIUS))
        assert torch.allclose(told.c2w, camera.c2w, atol=1e-5)


def test_the_3d_oracle_answers_with_the_true_view_and_notices_a_wrong_pose(truth):
    camera, other = posed_cameras([70.0], [20.0], RADIUS, FOV), posed_cameras([-70.0], [20.0], RADIUS, FOV)
    rendered = camera
    prior = oracle_prior(truth, 32, watch=lambda: rendered)
    draws = torch.Generator().manual_seed(0)
    views = truth.render(camera, 32)[0]
    exact = prior.guide(views, camera, 0.0, draws)
    assert float(exact.gradient.abs().max()) < 1e-5 and torch.allclose(exact.guess, views, atol=1e-5)
    pulled = prior.guide(torch.full_like(views, 0.5), camera, 0.0, draws).gradient
    assert float((pulled * (0.5 - views)).sum()) > 0.9 * float(pulled.norm() * (0.5 - views).norm())
    rendered = other
    with pytest.raises(AssertionError, match="differs from the camera that rendered"):
        prior.guide(views, camera, 0.0, draws)
    assert isinstance(prior.model, Oracle) and prior.model.checked == 2
    rendered = None
    with pytest.raises(AssertionError, match="before anything rendered"):
        prior.guide(views, camera, 0.0, draws)


def test_the_2d_oracle_knows_only_the_word(truth):
    prior = oracle_prior(truth, 32, words=True)
    draws = torch.Generator().manual_seed(0)

    def guess(azimuth, elevation):
        camera = posed_cameras([azimuth], [elevation], RADIUS, FOV)
        return prior.guide(torch.rand(1, 3, 32, 32, generator=draws), camera, 0.0, draws).guess

    front, side, back, over = (guess(*place) for place in ((0, 0), (90, 0), (180, 0), (0, 75)))
    assert torch.allclose(guess(30, 20), front, atol=1e-5) and torch.allclose(guess(-90, 10), side, atol=1e-5)
    assert torch.allclose(guess(-150, -30), back, atol=1e-5) and torch.allclose(guess(100, 70), over, atol=1e-5)
    assert all(not torch.allclose(a, b, atol=0.05) for a, b in ((front, side), (front, back), (side, back), (front, over)))


def test_the_stage_runs_and_says_what_was_asked_for(monkeypatch, capsys):
    mini = load_distil_preset("mini")
    shape = FieldShape(levels=4, log2_size=11, base=4, finest=32, hidden=16, layers=1, bias="cone", bias_strength=3.0, bias_radius=0.5)
    small = DistilPreset(
        mini.title, mini.source,
        replace(mini.coarse, steps=25, size=16, first_size=0, field=shape, march=March(0.08, 16, 8, 0.8, 1.0)),
        replace(mini.fine, steps=2, size=32, grid=12, color=shape, color_start=5, faces=300, texture=64), mini.splat,
    )  # fmt: skip
    monkeypatch.setattr(distil, "load_distil_preset", lambda name: small)
    monkeypatch.setattr(distil.scenes, "chosen_keys", lambda arguments: split("bench")[:2])
    for name, value in (("FINE_OBJECTS", 1), ("ALONE_OBJECTS", 1), ("SLIDER", (0.0, 1.0)), ("SLIDER_STEPS", 2), ("MESH_CELLS", 24)):
        monkeypatch.setattr(distil, name, value)
    result = distil.run(argparse.Namespace(objects=BUNDLED, meshes=None, all=False, seed=0, pictures=None))
    assert {"coarse_psnr", "fine_psnr", "fine_gain", "fscore_0.2"} <= set(result) and len(result["claims"]) == 7
    assert result["poses_checked"] == 2 * 2 * 25 + 2 * 2 + 25
    assert set(result["per_object"]) == set(split("bench")[:2]) and len(result["slider"]) == 2
    with pytest.raises(ValueError, match="library's objects only"):
        distil.load_scene(argparse.Namespace(objects=BUNDLED, meshes="folder"), KEY)
