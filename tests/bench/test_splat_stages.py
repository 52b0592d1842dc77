"""The stages of views to splats: the views they use, what they ask for, and their exit status, with fits of a few steps."""

import argparse
import json

import pytest
import torch
from lathe.bench import common, quality, scenes, warps
from lathe.bench.quality_stages import loss_ablation, renoise_round, report, splat_fit
from lathe.pipelines.splats.fit import fit_splats, with_changes
from lathe.pipelines.splats.fit_settings import load_fit_preset
from lathe.pipelines.systems import im3d

KEY = "scopia/vase3"
ARGUMENTS = argparse.Namespace(objects=common.BENCH_OBJECTS, meshes=None, all=False)


@pytest.fixture(scope="module")
def turntable():
    return scenes.load_turntable(ARGUMENTS, KEY)


@pytest.fixture
def small(monkeypatch, turntable):
    """One object and fits of four steps with few points."""
    monkeypatch.setattr(scenes, "chosen_keys", lambda arguments: [KEY])
    monkeypatch.setattr(scenes, "load_turntable", lambda arguments, key: turntable)
    for stage in (im3d, loss_ablation, renoise_round):
        monkeypatch.setattr(stage, "load_fit_preset", lambda name: with_changes(load_fit_preset(name), steps=4, points=1500))


def run(monkeypatch, capsys, *words):
    monkeypatch.setattr("sys.argv", ["quality.py", *words, "--objects", str(common.BENCH_OBJECTS)])
    status = quality.main()
    return status, json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def test_the_turntable_and_the_views_held_out(monkeypatch, turntable):
    assert turntable.inputs.images.shape == (16, 3, 256, 256) and turntable.held_out.images.shape == (8, 3, 256, 256)
    angles = scenes.angles_between(turntable.inputs.cameras, turntable.held_out.cameras)
    assert angles.shape == (16, 8) and 17 < float(angles.min()) < 18
    ring = scenes.angles_between(turntable.inputs.cameras, turntable.inputs.cameras)
    assert float(ring.diagonal().max()) < 1e-2 and float(ring[0, 4]) == pytest.approx(160, abs=0.01)
    monkeypatch.setattr(scenes, "HELD_OUT_ELEVATIONS", (30.0, 45.0))
    with pytest.raises(ValueError, match="degrees from one that goes in"):
        scenes.turntable_cameras()


def test_displacements_are_smooth_of_the_wanted_length_and_seeded():
    fields = warps.displacement_fields(3, 64, 3.0, seed=5)
    torch.testing.assert_close(fields.norm(dim=-1).amax((1, 2)), torch.full((3,), 3.0))
    assert float((fields[:, 1:] - fields[:, :-1]).norm(dim=-1).max()) < 0.6
    assert not torch.allclose(fields[0], fields[1])
    assert torch.equal(fields, warps.displacement_fields(3, 64, 3.0, seed=5))
    assert not torch.equal(fields, warps.displacement_fields(3, 64, 3.0, seed=6))


def test_a_warp_shows_what_stood_beside():
    pictures = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(warps.warped(pictures, torch.zeros(1, 16, 16, 2)), pictures, atol=1e-5, rtol=0)
    two_right = torch.zeros(1, 16, 16, 2)
    two_right[..., 0] = 2
    torch.testing.assert_close(warps.warped(pictures, two_right)[..., :13], pictures[..., 2:15], atol=1e-5, rtol=0)


def test_claims():
    assert report.claim("enough", 6, 6)["holds"] and not report.claim("short", 5, 6)["holds"]
    assert not report.claim("nothing", float("nan"), 6)["holds"]
    assert [report.most_of(n) for n in (1, 2, 4, 8)] == [1, 2, 3, 6]


def test_splat_fit(monkeypatch, capsys, tmp_path, small):
    """A claim that does not hold ends in exit status 1, and one that does in 0."""
    monkeypatch.setattr(splat_fit, "HULL_RESOLUTION", 48)
    monkeypatch.setattr(splat_fit, "LEAST_PSNR", 99.0)
    status, result = run(monkeypatch, capsys, "--stage", "splat_fit", "--pictures", str(tmp_path))
    assert status == 1 and [claim["holds"] for claim in result["claims"]][0] is False
    names = {"psnr", "ms_ssim", "perceptual", "fscore_0.2", "fscore_0.05", "chamfer"}
    for scores in (result, result["baselines"]["visual_hull"], result["gain"]["visual_hull"], result["per_object"][KEY]["ours"]):
        assert names <= set(scores)
    assert result["psnr"] > 15 and result["fscore_0.2"] > 0.9 and result["baselines"]["visual_hull"]["psnr"] > 20
    assert result["seconds_fit"] > 0 and result["peak_gib_first_fit"] > 0 and result["failures"] == []
    assert (tmp_path / "splat_fit_scopia__vase3.png").stat().st_size > 1000
    monkeypatch.setattr(splat_fit, "LEAST_PSNR", 10.0)
    monkeypatch.setattr(splat_fit, "LEAST_FSCORE", 0.1)
    assert run(monkeypatch, capsys, "--stage", "splat_fit")[0] == 0


def test_a_fit_that_fails_is_scored_as_an_empty_picture(monkeypatch, capsys, small, turntable):
    def refuse(*_, **__):
        raise ValueError("all pruned away")

    monkeypatch.setattr(im3d, "fit_splats", refuse)
    monkeypatch.setattr(splat_fit, "HULL_RESOLUTION", 48)
    status, result = run(monkeypatch, capsys, "--stage", "splat_fit")
    assert status == 1 and "all pruned away" in result["failures"][0] and result["seconds_fit"] is None
    assert result["psnr"] < 15 and result["fscore_0.05"] < 0.05


def test_inconsistent_views(monkeypatch, capsys, tmp_path, small):
    """Both halves give their numbers; the stages' losses differ in nothing but the weights."""
    used = []
    fit = fit_splats

    def spy(*views, settings, **others):
        used.append((views, settings))
        return fit(*views, settings=settings, **others)

    monkeypatch.setattr(loss_ablation, "fit_splats", spy)
    monkeypatch.setattr(renoise_round, "FIT_STEPS", 3)
    status, result = run(monkeypatch, capsys, "--stage", "inconsistent_views", "--pictures", str(tmp_path))
    assert status in (0, 1) and status == int(not all(claim["holds"] for claim in result["claims"]))
    assert len(result["claims"]) == 3 and result["objects"] == 1
    (ours, image_level), (theirs, pixel) = used
    assert torch.equal(ours[0], theirs[0]) and image_level.weights != pixel.weights
    assert with_changes(pixel, weights=vars(image_level.weights)) == image_level
    facts = result["losses"]["per_object"][KEY]
    assert facts["nearer"] == (facts["image_level"]["perceptual"] < facts["pixel"]["perceptual"])
    assert 0 < facts["image_level"]["sharpness"] < 5
    facts = result["renoise"]["per_object"][KEY]
    assert facts["agrees"] == (facts["ours"]["disagreement"] < facts["before"]["disagreement"])
    assert result["renoise"]["render_share"] == 0.5
    assert set(result["renoise"]["baselines"]) == {"before", "without_round"}
    for half in ("loss_ablation", "renoise_round"):
        assert (tmp_path / f"{half}_scopia__vase3.png").stat().st_size > 1000
