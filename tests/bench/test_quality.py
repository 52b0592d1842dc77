"""The quality benchmark: the truth scores best, an empty result worst, and the command ends with its line of JSON."""

import argparse
import json
from types import SimpleNamespace

import pytest
import torch
from lathe.bench import baselines, common, quality, reconstruct, retrieval, scenes
from lathe.bench.quality_stages import meshes
from lathe.pipelines.rendering.mesh import render_mesh
from lathe.training.objects import load_object
from lathe.training.rendered import framed

KEY = "scopia/vase3"
ARGUMENTS = argparse.Namespace(objects=common.BENCH_OBJECTS, meshes=None, all=False)


@pytest.fixture(scope="module")
def scene():
    return scenes.load_scene(ARGUMENTS, KEY, 64)


@pytest.fixture(scope="module")
def truth():
    return load_object(common.BENCH_OBJECTS, KEY).to_mesh()


def test_the_true_mesh_scores_near_the_limit(scene, truth):
    scores, images = meshes.mesh_scores(truth, scene)
    assert images.shape == (21, 3, 128, 128)
    assert scores["fscore_0.05"] > 0.99 and scores["chamfer"] < 0.03
    # what is left is the light of the true pictures, which the bare texture lacks
    assert scores["psnr"] > 20 and scores["psnr_64"] >= scores["psnr"] > scores["psnr_box"]


def test_a_failed_reconstruction_scores_as_an_empty_picture(scene):
    scores, images = meshes.mesh_scores(reconstruct.nothing(), scene)
    assert float(images.min()) > 0.5
    assert scores["fscore_0.05"] < 0.05 and scores["chamfer"] > 0.5
    hull, _ = meshes.mesh_scores(baselines.visual_hull_mesh(scene.six.images, scene.six.masks, scene.six.cameras), scene)
    assert hull["psnr"] > scores["psnr"] + 5 and hull["fscore_0.05"] > 0.5


def run(monkeypatch, capsys, *words):
    monkeypatch.setattr("sys.argv", ["quality.py", *words])
    assert quality.main() == 0
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def test_the_command_for_meshes(monkeypatch, capsys, tmp_path, truth):
    """With the truth in the place of the network: two objects, one of which fails."""
    answers = iter([truth, None])

    def views_to_mesh(lrm, views):
        mesh = next(answers)
        if mesh is None:
            raise ValueError("the field has no surface")
        return mesh

    monkeypatch.setattr(reconstruct, "load_lrm", lambda path: SimpleNamespace(view_size=64))
    monkeypatch.setattr(reconstruct, "views_to_mesh", views_to_mesh)
    monkeypatch.setattr(scenes, "chosen_keys", lambda arguments: [KEY, KEY])
    result = run(monkeypatch, capsys, "--stage", "lrm", "--objects", str(common.BENCH_OBJECTS), "--pictures", str(tmp_path))
    names = {"fscore_0.2", "fscore_0.1", "fscore_0.05", "chamfer", "psnr", "psnr_64", "psnr_box"}
    assert names <= set(result)
    assert set(result["baselines"]) == set(result["gain"]) == {"visual_hull", "extrusion", "mean_shape"}
    for baseline in result["baselines"]:
        assert names <= set(result["baselines"][baseline])
        gain = result["gain"][baseline]["chamfer"]
        assert gain["low"] <= gain["mean"] <= gain["high"]
        assert gain["mean"] == pytest.approx(result["baselines"][baseline]["chamfer"] - result["chamfer"], abs=1e-5)
    assert len(result["failures"]) == 1 and "no surface" in result["failures"][0]
    assert result["mean_distance_between_outputs"] > 0.5
    assert (tmp_path / "lrm_scopia__vase3.png").stat().st_size > 1000


def test_the_command_for_views(monkeypatch, capsys, scene):
    model = SimpleNamespace(view_size=64, background=(1.0, 1.0, 1.0))
    monkeypatch.setattr(reconstruct, "load_view_model", lambda path, white_unet: model)
    monkeypatch.setattr(reconstruct, "imagine", lambda model, query, seed, steps: scene.six.images)
    monkeypatch.setattr(scenes, "chosen_keys", lambda arguments: [KEY])
    result = run(monkeypatch, capsys, "--stage", "views", "--objects", str(common.BENCH_OBJECTS))
    assert result["psnr"] == 100 and 5 < result["copy"] < 30 and result["retrieval"] is None
    assert set(result["baselines"]) == {"copy", "copy_prepared"}


def test_retrieval_finds_its_own_object_and_its_mirror_image(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(2, 44, 3, 64, 64, generator=generator)

    class Rendered:
        keys = ["a", "b"]
        query_views = list(range(32, 44))
        azimuths = [0.0] * 32 + [30.0 * k for k in range(12)]

        def __init__(self, folder):
            pass

        def __len__(self):
            return 2

        def on_white(self, item, views):
            return pictures[item, views], torch.ones(len(views), 1, 64, 64)

        def targets(self, step, mirrored=False):
            return [step, step + 12] if mirrored else [step]

    monkeypatch.setattr(retrieval, "RenderedObjects", Rendered)
    search = retrieval.Retrieval(None)
    views, key = search.views(pictures[1, 37])
    assert key == "b" and torch.equal(views, pictures[1, [5]])
    views, key = search.views(pictures[0, 34].flip(-1))
    assert key == "a" and torch.equal(views, pictures[0, [2, 14]].flip(-1))
    everywhere = torch.ones(1, 64, 64)
    views, key = retrieval.Retrieval(None, prepared=True).views(framed(pictures[1, 40], everywhere, 0.85)[0])
    assert key == "b" and torch.equal(views, pictures[1, [8]])


def test_one_picture_to_a_mesh_joins_the_picture_to_its_views(monkeypatch, scene, truth):
    """With the true views in the place of the imagined ones: the picture's camera is found, and all seven views agree."""
    from lathe.pipelines.nets.mini_lrm import MiniLRM
    from lathe.pipelines.reconstruction.lrm import LRM

    model = SimpleNamespace(view_size=64, background=(1.0, 1.0, 1.0), camera_preset="zero123plus_v1.2", mask_method="plain_background")
    seen = []
    monkeypatch.setattr(reconstruct, "imagine", lambda *_: scene.six.images)
    monkeypatch.setattr(reconstruct, "views_to_mesh", lambda lrm, views: seen.append(views) or truth)
    lrm = LRM(MiniLRM(), "mini")
    assert reconstruct.image_to_mesh(model, lrm, scene.query, seed=0, elevation=scene.query_elevation) is truth
    (views,) = seen
    assert views.images.shape == (7, 3, 320, 320) and views.masks.shape == (7, 1, 320, 320) and views.cameras.n_views == 7
    torch.testing.assert_close(views.cameras.c2w[6], scene.query.cameras.c2w[0], atol=1e-4, rtol=0)
    overlap = (render_mesh(truth, views.cameras.select([6]), 320, 320).masks > 0.5) == (views.masks[6:] > 0.5)
    assert float(overlap.float().mean()) > 0.95
