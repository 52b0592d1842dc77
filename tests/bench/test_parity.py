"""The parity benchmark: its list, how it compares, and the published outputs themselves, each through the benchmark's own checks."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lathe.bench import parity
from lathe.bench.parity_checks import goldens, instantmesh
from lathe.bench.parity_checks.goldens import Rule, compare
from lathe.pipelines.ops.flexicubes import flexicubes, regular_grid

GROUPS = {group["golden"]: group for group in parity.read_list()}
needs_reference = pytest.mark.skipif(not os.environ.get("LATHE_REFERENCE"), reason="set LATHE_REFERENCE to the folder of the references")


def failures(name):
    return [f"{r.name}: {r.why or r.error}" for r in parity.run_group(GROUPS[name]) if not r.passed]


@pytest.mark.parametrize("name", ["instant_mesh_tiny", "instant_nerf_tiny", "zero123plus_tiny"])
def test_bundled_goldens(name):
    assert failures(name) == []


@needs_reference
@pytest.mark.parametrize("name", ["geolrm_tiny", *(name for name in GROUPS if name.startswith("flexi_"))])
def test_other_small_goldens(name):
    assert failures(name) == []


@needs_reference
def test_the_command_on_the_full_size_goldens():
    """Base and large, once in the whole suite, in a process of its own so that its memory is known."""
    command = [sys.executable, str(Path(parity.__file__)), "--only", "_full"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["failed"] == 0 and result["failures"] == [], done.stdout[-3000:]
    assert done.returncode == 0
    assert result["passed"] == sum(len(g["names"]) for g in GROUPS.values() if g["full_size"])
    assert result["peak_gib"] < 6


def test_the_list_names_every_output_once_with_a_tolerance():
    assert {group["check"] for group in GROUPS.values()} == set(parity.CHECKS)
    for group in GROUPS.values():
        assert group["names"]
        for rule in group["names"].values():
            rule = Rule(**rule)
            assert rule.how in ("close", "equal", "levels", "triangles", "points")
            assert rule.atol > 0 or rule.how in ("equal", "triangles")


def test_a_missing_golden_counts_as_failed(monkeypatch, tmp_path):
    monkeypatch.setattr(goldens, "DATA", tmp_path)
    monkeypatch.delenv("LATHE_REFERENCE", raising=False)
    results = parity.run_group(GROUPS["instant_mesh_base_full"])
    assert len(results) == len(GROUPS["instant_mesh_base_full"]["names"])
    assert not any(r.passed for r in results) and "LATHE_REFERENCE" in results[0].why


def test_an_output_that_our_code_does_not_reach_counts_as_failed(monkeypatch):
    def outputs(name, golden):
        yield "verts_grid_first", golden["verts_grid_first"]
        raise RuntimeError("it broke here")

    monkeypatch.setattr(goldens, "load_golden", lambda name: {"verts_grid_first": np.zeros((50, 3)), "im_none_eval_v": np.zeros((2, 3))})
    rules = {"verts_grid_first": {"how": "equal"}, "im_none_eval_v": {"atol": 1e-6}, "gone": {"atol": 1e-6}}
    results = goldens.check_group({"golden": "flexi_sphere_16", "names": rules}, outputs)
    assert [r.passed for r in results] == [True, False, False]
    assert "it broke here" in results[1].why


def test_comparing():
    golden = np.array([1.0, 100.0], dtype=np.float32)
    assert compare("x", torch.tensor([1.0 + 1e-6, 100.0]), golden, Rule(atol=1e-5)).passed
    assert not compare("x", torch.tensor([1.0, 100.01]), golden, Rule(atol=1e-3)).passed
    assert compare("x", torch.tensor([1.0, 100.01]), golden, Rule(atol=1e-3, rtol=1e-3)).passed
    assert not compare("x", torch.tensor([float("nan"), 100.0]), golden, Rule(atol=1)).passed
    assert not compare("x", torch.ones(3), golden, Rule(atol=1e9)).passed
    levels = compare("x", torch.tensor([3, 5], dtype=torch.uint8), np.array([2, 5], dtype=np.uint8), Rule("levels", 1))
    assert levels.passed and levels.error == 1
    assert not compare("x", torch.tensor([2, 5]), np.array([2, 6]), Rule("equal")).passed


def test_triangles_are_compared_as_a_set_that_keeps_its_winding():
    golden = np.array([[0, 1, 2], [2, 3, 0]])
    assert compare("f", torch.tensor([[3, 0, 2], [1, 2, 0]]), golden, Rule("triangles")).passed
    assert not compare("f", torch.tensor([[3, 2, 0], [1, 2, 0]]), golden, Rule("triangles")).passed


def test_points_of_another_library_may_be_more_but_none_may_be_missing():
    golden = np.array([[0.0, 0, 0], [1, 0, 0]])
    assert compare("p", np.array([[1.0, 0, 0], [0, 0, 1e-7], [5, 5, 5]]), golden, Rule("points", 1e-6)).passed
    assert not compare("p", np.array([[1.0, 0, 0]]), golden, Rule("points", 1e-6)).passed


@pytest.mark.parametrize("tie", [True, False])
def test_a_quad_is_forgiven_its_other_diagonal_only_where_the_two_weigh_the_same(tie):
    n = 8
    grid = regular_grid(n, 2.0)
    extract = partial(flexicubes, grid, grid.norm(dim=1) - 0.7, n)
    weights = torch.zeros(n**3, 21)
    if not tie:
        weights[:, -1] = torch.randn(n**3, generator=torch.Generator().manual_seed(0))
    ours = extract(weights).faces
    theirs = ours.clone().reshape(-1, 6)
    a, b, d, _, _, c = theirs[5].tolist()
    theirs[5] = torch.tensor([a, b, c, a, c, d])
    checked = instantmesh.with_their_ties(ours, theirs.reshape(-1, 3), extract, weights)
    assert torch.equal(checked, theirs.reshape(-1, 3) if tie else ours)
    other = ours.clone()
    other[10, 0] = 0  # not the same four corners
    assert torch.equal(instantmesh.with_their_ties(ours, other, extract, weights)[10:12], ours[10:12])
