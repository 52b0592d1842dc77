"""Estimate Elevation as ComfyUI runs it: sockets in, sockets out, under inference mode."""

import logging
from types import SimpleNamespace

import pytest
import torch
from lathe.nodes.core import progress
from lathe.nodes.elevation import LatheEstimateElevation
from lathe.pipelines.cameras.elevation import METHODS
from lathe.pipelines.cameras.orbits import orbit_cameras
from lathe.pipelines.data.mesh import Mesh
from lathe.pipelines.rendering.mesh import render_mesh


def frames(degrees):
    """A three-sided spike with a foot, as IMAGE and MASK of 8 views."""
    vertices = torch.tensor([[-0.6, -0.5, -0.2], [0.6, -0.5, -0.3], [0.1, -0.5, 0.6], [0.2, 0.7, 0.0]])
    mesh = Mesh(vertices, torch.tensor([[0, 1, 2], [0, 1, 3], [1, 2, 3], [2, 0, 3]]))
    rendered = render_mesh(mesh, orbit_cameras(8, elevation=degrees), 64, 64, supersample=2)
    return rendered.images.movedim(1, -1), rendered.masks[:, 0]


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr(progress, "tick_for", lambda node: lambda step, total, preview=None: None)

    def execute(images, masks, method="silhouettes", cameras=None):
        with torch.inference_mode():
            out = LatheEstimateElevation.execute(images, masks, cameras or orbit_cameras(8), method, -20.0, 70.0)
        return SimpleNamespace(cameras=out.args[0], elevation=out.args[1], confidence=out.args[2], curve=out.args[3])

    return execute


@pytest.mark.parametrize("method", METHODS)
def test_one_asset(run, method):
    out = run(*frames(28.0), method)
    assert out.cameras.c2w.shape == (8, 4, 4) and len(out.elevation) == len(out.confidence) == 1
    assert out.curve.shape == (1, 400, 640, 3) and out.curve.dtype == torch.float32
    if method != "learned":
        assert out.elevation[0] == pytest.approx(28, abs=3) and out.confidence[0] > 0.7
    torch.testing.assert_close(out.cameras.c2w, orbit_cameras(8, elevation=out.elevation[0]).c2w, atol=1e-4, rtol=0)


def test_two_assets_have_their_own_cameras(run):
    parts = [frames(10.0), frames(45.0)]
    both = run(*(torch.cat(x) for x in zip(*parts, strict=True)))
    assert both.cameras.n_assets == 2 and both.curve.shape[0] == 2
    assert both.elevation == [run(*part).elevation[0] for part in parts]


def test_a_doubtful_estimate_is_said_in_the_log(run, caplog):
    rows, columns = torch.meshgrid(torch.arange(64) - 31.5, torch.arange(64) - 31.5, indexing="ij")
    disc = ((rows**2 + columns**2).sqrt() < 20).float()[None].repeat(8, 1, 1)
    with caplog.at_level(logging.WARNING):
        out = run(disc[..., None].repeat(1, 1, 1, 3), disc)
    assert out.confidence[0] < 0.2 and "cannot tell the elevation" in caplog.text


def test_inputs_that_do_not_belong_together_are_refused(run):
    images, masks = frames(10.0)
    with pytest.raises(ValueError, match="masks of these images"):
        run(images, torch.zeros(1, 64, 64))
    with pytest.raises(ValueError, match="do not fit cameras of 6 views"):
        run(images, masks, cameras=orbit_cameras(6))


def test_the_widgets_offer_what_the_pipeline_knows():
    inputs = LatheEstimateElevation.GET_NODE_INFO_V1()["input"]["required"]
    assert tuple(inputs["method"][1]["options"] if "options" in inputs["method"][1] else inputs["method"][0]) == METHODS
    assert (inputs["lowest"][1]["default"], inputs["highest"][1]["default"]) == (-20.0, 70.0)
