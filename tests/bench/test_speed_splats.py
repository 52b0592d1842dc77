"""The splat stage of the speed benchmark, at a size that takes no time."""

import json

import pytest
import torch
from lathe.bench.speed_cases import splat_fit, splats
from lathe.pipelines.ops.splat_raster import dispatch, numba_form, torch_form
from lathe.pipelines.ops.splat_raster.projection import project
from lathe.pipelines.splats.fit import with_changes
from lathe.pipelines.splats.fit_settings import load_fit_preset


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
    monkeypatch.setattr(dispatch, "backend_for", dispatch.backend_for)
    results = {"ours, 1 thread": splats.work("ours"), "torch, 1 thread": splats.work("obvious")}
    fits = {"fast": {"seconds": 299.0, "cpu_seconds": 40.0, "steps": 500, "psnr_of_the_views": 30.0}}
    assert splats.report(results, fits, {}, None) == 0
    printed = capsys.readouterr().out
    assert "no comparison" not in printed and "paper, 16 views of 512 px, gsplat: not measured" in printed
    last = json.loads(printed.strip().splitlines()[-1])
    assert last["stage"] == "splats" and set(last["milliseconds"]) == {
        f"{form}, 1 thread: {n} @ 24" for form in ("ours", "torch") for n in (300, 400, 500)
    }
    label = "seconds of fast, 16 views of 256 px, numba"
    assert last["claims"] == [{"claim": label, "value": 299.0, "below": 300.0, "holds": True}] and last["fits"]["fast"]["steps"] == 500
    ratio = last["ratio_to_prototype"]["ours, 1 thread, 500 @ 24"]
    milliseconds = last["forms"]["ours, 1 thread"]["cases"][2]["min_ms"]
    assert ratio["min"] == pytest.approx(milliseconds / 149, abs=1e-4)
    assert [case["views"] for case in last["forms"]["ours, 1 thread"]["growth"]["views"]] == [1, 2]


def test_a_claim_that_does_not_hold_is_the_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    made = {"cpu_seconds": 40.0, "steps": 500, "psnr_of_the_views": 30.0}
    claims = splat_fit.judge({"fast": {**made, "seconds": 300.0}, "paper": {**made, "seconds": 59.0}})
    assert [(one["below"], one["holds"]) for one in claims] == [(300.0, False), (60.0, True)]
    printed = capsys.readouterr().out
    assert "256 px, numba: 300, below 300 wanted: DOES NOT HOLD" in printed and "512 px, gsplat: 59, below 60 wanted: holds" in printed


def test_a_whole_fit_sees_sixteen_views_with_the_rasteriser_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splat_fit, "CASES", {"fast": (64, "cpu", "numba", 300.0)})
    monkeypatch.setattr(splat_fit, "load_fit_preset", lambda name: with_changes(load_fit_preset(name), steps=4, points=2000))
    monkeypatch.setattr(splat_fit, "backend_for", lambda device: numba_form)
    made = splats.work("fit fast")
    assert (made["views"], made["pixels"], made["steps"]) == (16, 64, 4) and made["gaussians"] > 1000
    assert 0 < made["seconds"] < 300 and made["psnr_of_the_views"] > 15
    monkeypatch.setattr(splat_fit, "backend_for", lambda device: torch_form)
    with pytest.raises(RuntimeError, match="numba does not work here; torch took its place"):
        splats.work("fit fast")
