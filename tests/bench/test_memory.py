"""The memory benchmark: its line, its verdict, and its cases on a network small enough for a test."""

import json
import subprocess
import sys

import pytest
from lathe.bench import memory
from lathe.pipelines.nets import geolrm as nets


def test_a_line_is_fitted_and_its_error_told():
    line = memory.fit_line([6, 12, 21], [2.6, 3.2, 4.1])
    assert line["base"] == pytest.approx(2.0) and line["per_view"] == pytest.approx(0.1) and line["off"] < 1e-9
    assert memory.fit_line([1, 2, 3], [1.0, 2.0, 1.0])["off"] > 0.2
    with pytest.raises(ValueError, match="three numbers of views"):
        memory.fit_line([6, 12], [1.0, 2.0])


def test_only_measured_targets_are_judged():
    case = {"views": 21, "tokens": 16384, "peak_gb": 5.9}
    assert memory.judge([case], {}, "cuda") == {"21 views, 16384 tokens: 6 GB": True}
    assert memory.judge([{**case, "peak_gb": 6.1}], {}, "cuda") == {"21 views, 16384 tokens: 6 GB": False}
    assert memory.judge([{**case, "views": 7}], {}, "cuda") == memory.judge([case], {}, "cpu") == {}


@pytest.mark.parametrize(("peaks", "status"), [([2.43, 2.63, 2.93], 0), ([2.43, 3.4, 2.93], 1), ([2.43, 3.4], 0)])
def test_peaks_that_do_not_grow_in_a_line_end_with_status_1(monkeypatch, capsys, peaks, status):
    def measure(views, tokens, arguments):
        numbers = {"views": views, "tokens": tokens, "gaussians": 1, "propose_seconds": 1.0, "reconstruct_seconds": 1.0}
        return {**numbers, "peak_before_gb": 1.6, "peak_gb": dict(zip((6, 12, 21), peaks, strict=False))[views], "estimate_gb": 1.0}

    monkeypatch.setattr(memory, "measure", measure)
    views = ["6", "12", "21"][: len(peaks)]
    monkeypatch.setattr(sys, "argv", ["memory", "--stage", "geolrm", "--views", *views, "--tokens", "4096", "--device", "cpu"])
    assert memory.main() == status
    assert ("MISSED: 4096 tokens: a line in views" in capsys.readouterr().out) == bool(status)


def test_a_case_on_small_networks(monkeypatch):
    from data.tiny_geolrm import PROPOSAL, RECONSTRUCTION

    class Small(nets.ProposalNetwork):
        def __init__(self):
            super().__init__(PROPOSAL)

    class SmallToo(nets.ReconstructionNetwork):
        def __init__(self):
            super().__init__(RECONSTRUCTION)

    monkeypatch.setattr(nets, "ProposalNetwork", Small)
    monkeypatch.setattr(nets, "ReconstructionNetwork", SmallToo)
    case = memory.work(2, 100, "cpu", memory.DTYPES["bf16"])
    assert (case["views"], case["tokens"]) == (2, 100) and 0 < case["gaussians"] <= 400
    assert case["peak_gb"] >= case["peak_before_gb"] > 0 and case["estimate_gb"] > 0


def test_the_command_says_what_it_needs():
    done = subprocess.run([sys.executable, memory.__file__, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--stage {geolrm}" in done.stdout
    assert json.dumps(sorted(memory.TARGETS_GB.values())) == "[4.9, 6.0]"
