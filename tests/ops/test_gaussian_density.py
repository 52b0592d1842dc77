"""Sums of Gaussians at points: the kernels, the PyTorch form, and the sum written out in float64."""

import pytest
import torch
from lathe.pipelines.ops import quaternions
from lathe.pipelines.ops.gaussian_density import dispatch, torch_form
from lathe.pipelines.ops.gaussian_density import numba_form as kernels


def cloud(count=400, seed=0):
    g = torch.Generator().manual_seed(seed)
    scales = torch.rand(count, 3, generator=g) * 0.1 + 0.01
    parts = torch.randn(count, 3, generator=g) * 0.4, scales, torch.randn(count, 4, generator=g)
    return *parts, torch.rand(count, generator=g), torch.rand(count, 3, generator=g)


def points(count=5000, seed=1):
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)) * 0.5


def written_out(positions, scales, rotations, peaks, values, where):
    turn = quaternions.rotation_matrices(rotations.double())
    offset = (where.double()[:, None] - positions.double())[..., None]
    squared = ((turn.transpose(1, 2) @ offset)[..., 0] / scales.double()).square().sum(-1)
    weight = peaks.double() * torch.exp(-0.5 * squared) * (squared < torch_form.CUTOFF**2)
    return weight.sum(1), weight @ values.double(), (squared - torch_form.CUTOFF**2).abs().amin(1) > 1e-3


@pytest.mark.parametrize("form", ["numba", "torch"])
def test_both_forms_give_the_sum_that_is_written_out(form):
    parts, where = cloud(), points()
    total, values, clear = written_out(*parts, where)
    gaussians = torch_form.prepare(*parts)
    got = dispatch.GaussianSum(gaussians).evaluate(where) if form == "numba" else torch_form.evaluate_torch(gaussians, where)
    assert clear.double().mean() > 0.8, "points at a Gaussian's cut-off may fall on either side"
    torch.testing.assert_close(got[0][clear].double(), total[clear], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got[1][clear].double(), values[clear], atol=1e-5, rtol=1e-5)


def test_the_same_at_any_number_of_threads(monkeypatch):
    total = dispatch.GaussianSum(torch_form.prepare(*cloud()))
    monkeypatch.setattr(kernels, "POINTS_AT_ONCE", 100)
    first = total.evaluate(points())
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert all(torch.equal(a, b) for a, b in zip(first, total.evaluate(points()), strict=True))


def test_no_points_and_points_far_away():
    total = dispatch.GaussianSum(torch_form.prepare(*cloud()))
    assert total.evaluate(torch.zeros(0, 3))[1].shape == (0, 3)
    assert torch_form.evaluate_torch(total.gaussians, torch.zeros(0, 3))[0].shape == (0,)
    assert not total.evaluate(torch.full((2, 3), 50.0))[0].any()


def test_one_gaussian_and_very_unequal_ones():
    positions, scales, rotations, peaks, values = cloud(2)
    scales[0] = 20.0
    total = dispatch.GaussianSum(torch_form.prepare(positions, scales, rotations, peaks, values))
    expected = torch_form.evaluate_torch(total.gaussians, points(100))
    torch.testing.assert_close(total.evaluate(points(100)), expected, atol=1e-5, rtol=1e-5)
    one = dispatch.GaussianSum(torch_form.prepare(positions[:1], scales[:1], rotations[:1], peaks[:1], values[:1]))
    torch.testing.assert_close(one.evaluate(positions[:1])[0], peaks[:1])


def test_without_numba_pytorch_takes_over(monkeypatch):
    monkeypatch.setattr(dispatch, "backend_for", lambda device: torch_form)
    gaussians = torch_form.prepare(*cloud())
    got, expected = dispatch.GaussianSum(gaussians).evaluate(points(50)), torch_form.evaluate_torch(gaussians, points(50))
    assert torch.equal(got[0], expected[0])
