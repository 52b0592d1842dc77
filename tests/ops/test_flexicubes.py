"""FlexiCubes: the published code's numbers, gradients against finite differences, closed surfaces, bad input."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from data.seeded_weights import seeded_input
from lathe.pipelines.ops.flexicubes import flexicubes, grid_cubes, regular_grid, sign_consistency
from lathe.pipelines.ops.flexicubes_tables import EDGES, case_tables

NOISE = Path(__file__).resolve().parents[1] / "data/goldens/flexi_noise_16_rand.npz"
REFERENCE = Path(os.environ.get("LATHE_REFERENCE", "/nonexistent")) / "goldens"
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="LATHE_REFERENCE does not point at the published outputs")


def seeded_parameters(resolution, kind):
    """The golden runs' grid, moved and weighted."""
    grid, n = regular_grid(resolution), resolution**3
    if kind == "none":
        return grid, None
    if kind == "zero":
        return grid, torch.zeros(n, 21)
    parts = [seeded_input(f"flexi_{name}_{resolution}", (n, width)) for name, width in (("beta", 12), ("alpha", 8))]
    gamma = seeded_input(f"flexi_gamma_{resolution}", (n,))
    moved = grid + torch.tanh(seeded_input(f"flexi_def_{resolution}", tuple(grid.shape))) / (4 * resolution)
    return moved, torch.cat([*parts, gamma[:, None]], dim=1)


def check_against(golden, resolution, kind, mode):
    vertices, weights = seeded_parameters(resolution, kind)
    sdf = torch.from_numpy(golden["sdf"])
    key = f"im_{kind}_{mode}_"
    surface = flexicubes(vertices, sdf, resolution, weights, weight_scale=0.5, training=mode == "train")
    np.testing.assert_allclose(surface.vertices.numpy(), golden[key + "v"], atol=1e-6, rtol=0)
    np.testing.assert_array_equal(surface.faces.numpy(), golden[key + "f"])
    np.testing.assert_allclose(surface.deviation.numpy(), golden[key + "L"], atol=1e-6, rtol=0)
    if f"nv_{kind}_{mode}_f" in golden and mode == "eval":
        # The other published copy keeps the quads in edge order: the same triangles, listed differently.
        surface = flexicubes(vertices, sdf, resolution, weights, weight_scale=0.99)
        np.testing.assert_allclose(surface.vertices.numpy(), golden[f"nv_{kind}_eval_v"], atol=1e-6, rtol=0)
        assert {*map(tuple, surface.faces.tolist())} == {*map(tuple, golden[f"nv_{kind}_eval_f"].tolist())}


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_random_signs_equal_the_published_code(mode):
    check_against(np.load(NOISE), 16, "rand", mode)


@needs_reference
@pytest.mark.parametrize("name", ["sphere_16", "torus_16", "boxhole_16", "noise_16", "sphere_32", "torus_32", "boxhole_32"])
def test_every_golden_equals_the_published_code(name):
    golden = np.load(REFERENCE / f"flexi_{name}.npz")
    for kind in ("none", "zero", "rand"):
        for mode in ("eval", "train"):
            check_against(golden, int(name.split("_")[1]), kind, mode)


@needs_reference
@pytest.mark.parametrize("mode", ["", "train_"])
def test_the_published_reconstruction_head_gives_its_mesh(mode):
    golden = {key: torch.from_numpy(value) for key, value in np.load(REFERENCE / "instant_mesh_tiny.npz").items() if value.shape}
    grid = regular_grid(16, 2.1)
    assert torch.equal(grid, golden["grid_verts"]) and torch.equal(grid_cubes(16), golden["grid_cubes"])
    weights = golden["weight"][0]
    surface = flexicubes(grid + golden["deformation"][0], golden["sdf"][0, :, 0], 16, weights, training=bool(mode))
    torch.testing.assert_close(surface.vertices, golden[mode + "mesh_v"], atol=1e-6, rtol=0)
    assert torch.equal(surface.faces, golden[mode + "mesh_f"])
    scalars = np.load(REFERENCE / "instant_mesh_tiny.npz")
    assert float(surface.deviation.mean()) == pytest.approx(float(scalars["flexicubes_surface_reg"]), rel=1e-5)
    filled = flexicubes(grid + golden["deformation"][0], golden["empty_sdf"][0, :, 0], 16, weights)
    torch.testing.assert_close(filled.vertices, golden["empty_mesh_v"], atol=1e-6, rtol=0)
    assert torch.equal(filled.faces, golden["empty_mesh_f"])


@needs_reference
def test_order_at_full_resolution():
    golden = np.load(REFERENCE / "instant_mesh_base_full.npz")
    grid = regular_grid(128, 2.1)
    surface = flexicubes(grid, grid.norm(dim=1) - 0.7, 128)
    # The golden's weights are not kept, so positions may differ by a part of a cube and diagonals may turn; order may not.
    assert surface.faces.shape == golden["sphere_mesh_f"].shape
    assert np.abs(surface.vertices.numpy() - golden["sphere_mesh_v"]).max() < 2.1 / 128
    quads = np.sort(surface.faces.numpy().reshape(-1, 6), axis=1)
    theirs = np.sort(golden["sphere_mesh_f"].reshape(-1, 6), axis=1)
    assert (np.array([np.unique(q) for q in quads]) == np.array([np.unique(q) for q in theirs])).all()


def test_case_tables_are_what_dual_marching_cubes_needs():
    tables = case_tables()
    # Nielson 2004: up to four vertices in a cube, and 162 of the cases have one.
    assert Counter(tables.n_patches.tolist()) == {0: 2, 1: 162, 2: 82, 3: 8, 4: 2}
    assert (np.abs(tables.ambiguous).sum(axis=1) > 0).sum() == 36
    for case in range(256):
        crossed = [e for e, (a, b) in enumerate(EDGES) if (case >> a & 1) != (case >> b & 1)]
        slots = tables.slot_edge[case][tables.slot_edge[case] >= 0]
        assert sorted(slots) == crossed
        sizes = Counter(tables.slot_patch[case][: len(slots)].tolist())
        assert len(sizes) == tables.n_patches[case] and all(size >= 3 for size in sizes.values())


@pytest.mark.parametrize("training", [False, True])
def test_gradients_equal_finite_differences(training):
    rng = torch.Generator().manual_seed(3)
    sdf = torch.randn(4**3, generator=rng, dtype=torch.float64)
    sdf = (sdf + 0.3 * sdf.sign()).requires_grad_()
    vertices = (regular_grid(3).double() + 0.02 * torch.randn(64, 3, generator=rng, dtype=torch.float64)).requires_grad_()
    weights = torch.randn(27, 21, generator=rng, dtype=torch.float64, requires_grad=True)

    def run(v, s, w):
        surface = flexicubes(v, s, 3, w, training=training)
        return surface.vertices, surface.deviation

    assert torch.autograd.gradcheck(run, (vertices, sdf, weights), eps=1e-6, atol=1e-6, fast_mode=True)


@pytest.mark.parametrize("seed", range(3))
def test_random_fields_give_closed_outward_surfaces(seed):
    resolution, rng = 12, torch.Generator().manual_seed(seed)
    sdf = torch.full((13, 13, 13), 1.0)
    sdf[1:-1, 1:-1, 1:-1] = torch.randn(11, 11, 11, generator=rng)
    surface = flexicubes(regular_grid(resolution), sdf.reshape(-1), resolution)
    directed = Counter()
    for a, b, c in surface.faces.tolist():
        directed.update([(a, b), (b, c), (c, a)])
    assert all(directed[b, a] == count for (a, b), count in directed.items()), "an edge is not met from both sides"
    assert max(directed.values()) == 1, "an edge is shared by more than two faces"
    a, b, c = surface.vertices[surface.faces].unbind(1)
    assert float((a * torch.linalg.cross(b, c)).sum()) > 0


def test_a_sphere_keeps_its_volume_and_gradients_point_outwards():
    grid = regular_grid(32, 2.0)
    radius = torch.tensor(0.7, requires_grad=True)
    surface = flexicubes(grid, grid.norm(dim=1) - radius, 32, torch.zeros(32**3, 21), training=True)
    a, b, c = surface.vertices[surface.faces].unbind(1)
    volume = (a * torch.linalg.cross(b, c)).sum() / 6
    assert volume.item() == pytest.approx(4 / 3 * np.pi * 0.7**3, rel=0.01)
    (gradient,) = torch.autograd.grad(volume, radius)
    assert float(gradient) == pytest.approx(4 * np.pi * 0.7**2, rel=0.02)


@pytest.mark.parametrize("value", [-1.0, 1.0])
def test_no_sign_change_gives_an_empty_surface(value):
    surface = flexicubes(regular_grid(4), torch.full((125,), value), 4, torch.zeros(64, 21), training=True)
    assert [tuple(part.shape) for part in surface] == [(0, 3), (0, 3), (0,)]


def test_bad_input_is_refused_in_words():
    grid, sdf = regular_grid(4), torch.ones(125)
    sdf[7] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        flexicubes(grid, sdf, 4)
    with pytest.raises(ValueError, match="125 grid corners"):
        flexicubes(grid, torch.ones(64), 4)
    with pytest.raises(ValueError, match=r"\(64, 21\)"):
        flexicubes(grid, torch.ones(125), 4, torch.zeros(64, 20))


def test_inputs_stay_as_they_were():
    grid, sdf, weights = regular_grid(6), torch.randn(343, generator=torch.Generator().manual_seed(0)), torch.zeros(216, 21)
    copies = [tensor.clone() for tensor in (grid, sdf, weights)]
    flexicubes(grid, sdf, 6, weights, training=True)
    assert all(torch.equal(a, b) for a, b in zip((grid, sdf, weights), copies, strict=True))


def test_sign_consistency_is_the_mean_over_crossed_edges():
    sdf = torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(1))
    terms = []
    for i, j, k in np.ndindex(4, 4, 4):
        for di, dj, dk in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
            if max(i + di, j + dj, k + dk) < 4:
                a, b = float(sdf[i, j, k]), float(sdf[i + di, j + dj, k + dk])
                if (a < 0) != (b < 0):
                    terms.append(sum(np.log1p(np.exp(-s * (1 if other >= 0 else -1))) for s, other in ((a, b), (b, a))))
    assert float(sign_consistency(sdf.reshape(-1), 3)) == pytest.approx(np.mean(terms), rel=1e-5)
    flat = torch.ones(64, requires_grad=True)
    loss = sign_consistency(flat, 3)
    loss.backward()
    assert loss.item() == 0 and torch.equal(flat.grad, torch.zeros(64))
