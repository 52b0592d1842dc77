"""The splat stage of the speed benchmark, at a size that takes no time."""

import json

import pytest
import torch
from lathe.bench.speed_cases import splats
from lathe.pipelines.ops import splat_raster
from lathe.pipelines.ops.splat_projection import project


def test_about_twenty_gaussians_reach_a_pixel() -> None:
    (means, quats, scales, opacities, _), rest, _ = splats.scene(2000, 128, 1, "cpu")
    with torch.no_grad():
        seen = project(means, quats, scales, opacities, rest["viewmats"], rest["Ks"], 128, 128, near=0.01, far=1e10, eps2d=0.3,
                       antialiased=False)  # fmt: skip
    a, b, c = seen.conics[0].detach().T
    area = 2 * torch.pi * torch.log(255 * opacities.detach()) / (a * c - b * b).sqrt()
    assert 15 < float(area.detach().sum()) / 128**2 < 30


def test_the_report_ends_in_json_with_ratios(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(splats, "SIZES", ((300, 24), (400, 24), (500, 24)))
    monkeypatch.setattr(splats, "GROWTH", {"views": [(200, 16, 1), (200, 16, 2)]})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(splat_raster, "backend_for", splat_raster.backend_for)
    results = {"ours, 1 thread": splats.work("ours"), "torch, 1 thread": splats.work("obvious")}
    splats.report(results, {}, None)
    printed = capsys.readouterr().out
    assert "no comparison" not in printed
    last = json.loads(printed.strip().splitlines()[-1])
    assert last["stage"] == "splats" and set(last["milliseconds"]) == {
        f"{form}, 1 thread: {n} @ 24" for form in ("ours", "torch") for n in (300, 400, 500)
    }
    ratio = last["ratio_to_prototype"]["ours, 1 thread, 500 @ 24"]
    milliseconds = last["forms"]["ours, 1 thread"]["cases"][2]["min_ms"]
    assert ratio["min"] == pytest.approx(milliseconds / 149, abs=1e-4)
    assert [case["views"] for case in last["forms"]["ours, 1 thread"]["growth"]["views"]] == [1, 2]
