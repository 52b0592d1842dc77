"""The benchmark of GeoLRM's claim: its cameras, its true cells, what it reports, and its exit status."""

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lathe.bench import common, quality, scenes
from lathe.bench.quality_stages import geolrm
from lathe.pipelines.nets.geolrm import cube_points
from lathe.pipelines.ops.coordinate_frames.geolrm import geolrm_cameras
from lathe.pipelines.reconstruction.geolrm.stages import to_splats
from lathe.pipelines.rendering.splats import render_splats

KEY = "scopia/vase3"
TINY = Path(__file__).parents[1] / "data" / "geolrm_tiny_tokens.safetensors"


def test_judged_views_keep_their_distance(monkeypatch):
    inputs, judged = geolrm.cameras_of_stage()
    assert [cameras.n_views for cameras in inputs.values()] == [4, 8, 12, 16, 20] and judged.n_views == 8
    assert min(float(scenes.angles_between(cameras, judged).min()) for cameras in inputs.values()) >= 15
    monkeypatch.setattr(geolrm, "JUDGED_ELEVATIONS", (30.0, 30.0))
    with pytest.raises(ValueError, match="degrees from one of"):
        geolrm.cameras_of_stage()


def test_true_cells_lie_on_the_object():
    """Drawn as Gaussians they give its outline, wider by about a cell."""
    arguments = argparse.Namespace(objects=common.BENCH_OBJECTS, meshes=None, all=False)
    model = SimpleNamespace(proposal=SimpleNamespace(config=SimpleNamespace(grid=40)))
    cells = geolrm.true_cells(arguments, KEY, model)
    inputs, _ = geolrm.cameras_of_stage()
    (views,) = scenes.load_views(arguments, KEY, [inputs[4]], 64)
    points = cube_points(40)[cells.permute(0, 2, 1).flatten()]
    solid = torch.tensor([1.0, 0.012, 0.012, 0.012, 1, 0, 0, 0, 0, 0, 0]).expand(len(points), -1)
    splats = to_splats(torch.cat([points, solid], dim=1), geolrm_cameras(views.cameras)[2])
    drawn, truth = render_splats(splats, views.cameras, 64, 64).masks > 0.5, views.masks > 0.5
    assert float((drawn & truth).sum() / truth.sum()) > 0.99
    assert float((drawn & truth).sum() / (drawn | truth).sum()) > 0.65


def test_what_it_reports(monkeypatch, capsys):
    """One object, two numbers of views, tiny networks: the claim of a gain nobody reaches ends in exit status 1."""
    monkeypatch.setattr(geolrm, "chosen_keys", lambda arguments: [KEY])
    monkeypatch.setattr(geolrm, "COUNTS", (4, 8))
    monkeypatch.setattr(geolrm, "LEAST_GAIN", 99.0)
    monkeypatch.setattr(geolrm, "lrm_pictures", lambda lrm, views, judged: torch.full((8, 3, 64, 64), 0.5))
    monkeypatch.setattr("sys.argv", ["quality.py", "--stage", "geolrm", "--geolrm", str(TINY), "--objects", str(common.BENCH_OBJECTS)])
    status = quality.main()
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert status == 1 and [claim["holds"] for claim in result["claims"]][0] is False
    for name in ("psnr_by_views", "lrm_psnr_by_views", "splat_fit_psnr_by_views", "iou_by_views", "recall_by_views"):
        assert list(result[name]) == ["4", "8"]
    assert 0 < result["iou"] < result["recall"] <= 1 and result["psnr_by_views"]["8"] > 8
    assert result["lrm_psnr_by_views"]["4"] == result["lrm_psnr_by_views"]["8"] < result["splat_fit_psnr_by_views"]["8"]
