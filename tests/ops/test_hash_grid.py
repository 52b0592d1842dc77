"""The hash grid: PyTorch's form against one written out in float64, the kernels against PyTorch's, and what both promise."""

import sys
import types
from itertools import product

import pytest
import torch
from lathe.pipelines.ops import choose_backend
from lathe.pipelines.ops.hash_grid import dispatch, numba_form, proof, torch_form
from lathe.pipelines.ops.hash_grid.dispatch import HashGrid
from lathe.pipelines.ops.hash_grid.layout import HashLayout

FORMS = {"numba": numba_form, "torch": torch_form}


def small(seed=0, **changes):
    grid = HashGrid(**{"levels": 4, "log2_size": 9, "base": 4, "finest": 40, "seed": seed, **changes})
    grid.table.data *= 1e4
    return grid


def points(count=3000, seed=1, reach=1.0):
    return (torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)) * 2 - 1) * reach


def written_out(table, point, layout):
    """One point's features by the formulas, in plain Python."""
    made = []
    for resolution, start, end, dense in zip(layout.resolutions, layout.starts, layout.starts[1:], layout.dense, strict=False):
        place = [(min(max(float(c), -1), 1) + 1) / 2 * resolution for c in point]
        cell = [min(int(p), resolution - 1) for p in place]
        share = [3 * (p - c) ** 2 - 2 * (p - c) ** 3 for p, c in zip(place, cell, strict=True)]
        total = torch.zeros(2, dtype=torch.float64)
        for corner in product((0, 1), repeat=3):
            x, y, z = (c + side for c, side in zip(cell, corner, strict=True))
            row = x + (resolution + 1) * (y + (resolution + 1) * z) if dense else (x ^ y * 2654435761 ^ z * 805459861) % (end - start)
            weight = 1.0
            for side, s in zip(corner, share, strict=True):
                weight *= s if side else 1 - s
            total += weight * table[start + row].double()
        made.append(total)
    return torch.cat(made)


def gradients(form, grid, where, dtype=torch.float32, levels=4):
    table, leaf = (part.detach().to(dtype).requires_grad_() for part in (grid.table, where))
    encoded = form.encode(table, leaf, grid.layout, levels)
    weights = torch.rand(encoded.shape, generator=torch.Generator().manual_seed(5)).to(dtype)
    return [encoded.detach(), *torch.autograd.grad((encoded * weights).sum(), [table, leaf])]


def test_the_papers_table():
    layout = HashLayout.of(16, 19, 16, 2048)
    assert layout.resolutions[0] == 16 and layout.resolutions[-1] == 2048 and layout.dense == (True,) * 5 + (False,) * 11
    assert layout.starts[1] == 4920 and layout.starts[-1] == 6_098_944  # 17^3 = 4913 corners, rounded up to 8
    grid = HashGrid(levels=2, finest=32)
    assert grid.table.abs().max() <= 1e-4 and grid.table.std() > 5e-5
    other = HashGrid(levels=2, finest=32, seed=1)
    assert torch.equal(grid.table, HashGrid(levels=2, finest=32).table) and not torch.equal(grid.table, other.table)


@pytest.mark.parametrize("form", FORMS)
def test_features_are_those_of_the_formula(form):
    grid = small()
    assert not all(grid.layout.dense) and any(grid.layout.dense)
    where = torch.cat([points(40, reach=1.2), torch.tensor([[1.0, 1, 1], [-1, -1, -1], [0, 1, -1]])])
    got = FORMS[form].encode(grid.table.detach(), where, grid.layout, 4)
    expected = torch.stack([written_out(grid.table.detach(), point, grid.layout) for point in where])
    torch.testing.assert_close(got.double(), expected, atol=5e-5, rtol=1e-5)


def test_gradients_of_the_kernels_are_those_of_the_oracle_in_float64():
    grid, where = small(), points(reach=1.05)
    for got, expected in zip(gradients(numba_form, grid, where), gradients(torch_form, grid, where, torch.float64), strict=True):
        assert (got - expected).norm() < 1e-4 * expected.norm()


def test_gradients_of_the_oracle_are_finite_differences():
    grid, where = small(levels=3, log2_size=6, finest=12), points(4, reach=0.9).double().requires_grad_()
    table = grid.table.detach().double().requires_grad_()
    assert torch.autograd.gradcheck(lambda t, p: torch_form.encode(t, p, grid.layout, 3), (table, where), eps=1e-6, atol=1e-6)


def test_the_same_bits_at_any_number_of_threads(monkeypatch):
    grid, where = small(), points(2000)
    monkeypatch.setattr(numba_form, "POINTS_AT_ONCE", 300)
    one = gradients(numba_form, grid, where)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert all(torch.equal(a, b) for a, b in zip(one, gradients(numba_form, grid, where), strict=True))


def test_only_the_coarse_levels():
    grid, where = small(), points(50)
    some = grid(where, levels=2)
    assert torch.equal(some[:, :4], grid(where)[:, :4]) and not some[:, 4:].any()
    some.sum().backward()
    assert not grid.table.grad[grid.layout.starts[2] :].any() and grid.table.grad[: grid.layout.starts[2]].any()
    assert grid(where, levels=0).shape == (50, 8)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_not_a_number_stays_so_and_harms_nothing(form, monkeypatch):
    monkeypatch.setattr(dispatch, "backend_for", lambda device: FORMS[form])
    grid, where = small(), points(5)
    where[1, 0], where[2, 2] = float("nan"), float("inf")
    got = grid(where)
    assert got.isnan().all(dim=1).tolist() == [False, True, False, False, False]
    inside = where.clone()
    inside[2, 2] = 1
    torch.testing.assert_close(got[2], grid(inside)[2])


def test_no_points_points_on_the_border_and_inputs_are_left_alone():
    grid, where = small(), torch.tensor([[1.0, -1, 0.5], [3, -9, 0.5]])
    kept, table = where.clone(), grid.table.detach().clone()
    first, second = grid(where)
    assert torch.equal(first, second) and torch.equal(where, kept) and torch.equal(grid.table, table)
    assert grid(torch.zeros(0, 3)).shape == (0, 8)
    grid(torch.zeros(0, 3)).sum().backward()


def test_errors_say_what_is_expected():
    with pytest.raises(ValueError, match="base <= finest"):
        HashGrid(base=64, finest=16)
    with pytest.raises(ValueError, match=r"expected \(N, 3\)"):
        small()(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="at most 4 levels"):
        small()(torch.zeros(4, 3), levels=5)


def test_other_features_and_float64_go_to_pytorch():
    grid = HashGrid(levels=2, features=3, log2_size=8, finest=32).double()
    assert grid(points(4).double()).shape == (4, 6)


def test_the_choice_of_a_backend(monkeypatch):
    choose_backend.forget()
    assert dispatch.backend_for(torch.device("cpu")) is numba_form
    monkeypatch.setitem(sys.modules, "tinycudann", None)
    assert dispatch.backend_for(torch.device("cuda")) is torch_form, "where tiny-cuda-nn is missing"
    choose_backend.forget()
    monkeypatch.setattr(numba_form, "encode", lambda *args: 2 * torch_form.encode(*args))
    assert dispatch.backend_for(torch.device("cpu")) is torch_form
    choose_backend.forget()


class OtherEncoding(torch.nn.Module):
    """tiny-cuda-nn's grid of one level, as it places corners."""

    def __init__(self, inputs, config, dtype):
        super().__init__()
        assert inputs == 3 and dtype == torch.float32 and config["interpolation"] == "Smoothstep" and config["n_levels"] == 1
        self.corners, self.hashed, self.log2 = config["base_resolution"], config["type"] == "Hash", config["log2_hashmap_size"]
        self.params = torch.nn.Parameter(torch.zeros(0))

    def forward(self, unit):
        table = self.params.view(-1, 2)
        assert self.hashed == (self.corners**3 > 2**self.log2) or not self.hashed
        place = unit * (self.corners - 1) + 0.5
        layout = HashLayout((self.corners - 1,), (0, len(table)), (not self.hashed,))
        return torch_form.encode(table, place / (self.corners - 1) * 2 - 1, layout, 1)


def test_the_adapter_places_points_for_tiny_cuda_nn(monkeypatch):
    monkeypatch.setitem(sys.modules, "tinycudann", types.SimpleNamespace(Encoding=OtherEncoding))
    from lathe.pipelines.ops.hash_grid import tcnn_form

    try:
        grid = small()
        for got, expected in zip(gradients(tcnn_form, grid, points(200)), gradients(torch_form, grid, points(200)), strict=True):
            assert (got - expected).norm() < 1e-4 * expected.norm()
        proof.prove(tcnn_form, torch.device("cpu"))
    finally:
        del sys.modules["lathe.pipelines.ops.hash_grid.tcnn_form"]
