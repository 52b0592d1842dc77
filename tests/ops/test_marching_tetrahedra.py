"""Marching tetrahedra: the published outputs to the bit, and surfaces whose truth is known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lathe.pipelines.ops.marching_tetrahedra import marching_tetrahedra, tet_grid
from lathe.pipelines.ops.mesh_topology import make_topology

GOLDEN = Path(__file__).parents[1] / "data" / "goldens" / "dmtet_magic123.npz"


def ball(resolution, radius=0.7):
    positions, tets = tet_grid(resolution)
    return positions, radius - positions.norm(dim=1), tets


def volume(vertices, faces):
    a, b, c = vertices[faces].unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


@pytest.mark.parametrize("kind", ["sphere", "noise"])
@pytest.mark.parametrize("cells", [4, 8])
def test_published_surfaces_to_the_bit(cells, kind):
    golden = np.load(GOLDEN)
    positions, sdf, vertices, faces = (torch.from_numpy(golden[f"kuhn{cells}_{kind}_{part}"]) for part in ("pos", "sdf", "v", "f"))
    made = marching_tetrahedra(positions, sdf, torch.from_numpy(golden[f"kuhn{cells}_tets"]))
    assert torch.equal(made[0], vertices) and torch.equal(made[1], faces.long())


def test_our_grid_is_the_reference_one_but_for_winding():
    golden = np.load(GOLDEN)
    positions, tets = tet_grid(4)
    torch.testing.assert_close(positions, torch.from_numpy(golden["kuhn4_verts"]))

    def as_sets(rows):
        return {frozenset(row) for row in rows.tolist()}

    assert as_sets(tets) == as_sets(golden["kuhn4_tets"])


def test_the_grid_fills_its_cube_with_tetrahedra_wound_alike():
    positions, tets = tet_grid(5, extent=2.0)
    corners = positions[tets]
    volumes = torch.linalg.det(corners[:, 1:] - corners[:, :1]) / 6
    assert len(positions) == 6**3 and len(tets) == 6 * 5**3 and (volumes < 0).all()
    torch.testing.assert_close(-volumes.sum(), torch.tensor(64.0))
    with pytest.raises(ValueError, match="at least 1"):
        tet_grid(0)


def test_a_ball_is_closed_round_and_faces_outward():
    vertices, faces = marching_tetrahedra(*ball(24))
    topology = make_topology(faces)
    assert (topology.offsets.diff() == 2).all() and len(vertices) - len(topology.edges) + len(faces) == 2
    assert (vertices.norm(dim=1) - 0.7).abs().max() < 0.005
    assert abs(volume(vertices, faces) / (4 / 3 * np.pi * 0.7**3) - 1) < 0.01
    vertices, faces = marching_tetrahedra(ball(24)[0], -ball(24)[1], ball(24)[2])
    assert volume(vertices, faces) < 0, "inside out where the field is"


def test_gradients_are_finite_differences():
    draws = torch.Generator().manual_seed(0)
    positions, tets = tet_grid(2)
    positions = positions.double() + 0.1 * torch.rand(27, 3, generator=draws, dtype=torch.float64)
    sdf = torch.randn(27, generator=draws, dtype=torch.float64)
    sdf = sdf + 0.1 * sdf.sign()
    leaves = positions.requires_grad_(), sdf.requires_grad_()
    assert torch.autograd.gradcheck(lambda p, s: marching_tetrahedra(p, s, tets)[0], leaves)


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_a_field_of_one_sign_has_no_surface(value):
    positions, _, tets = ball(3)
    sdf = torch.full((len(positions),), value, requires_grad=True)
    vertices, faces = marching_tetrahedra(positions, sdf, tets)
    assert vertices.shape == (0, 3) and faces.shape == (0, 3) and faces.dtype == torch.int64
    vertices.sum().backward()
    assert not sdf.grad.any()


def test_zeros_in_the_field_give_finite_vertices_and_gradients():
    positions, sdf, tets = ball(8)
    sdf = ((sdf * 4).round() / 4).requires_grad_()
    assert (sdf == 0).any()
    vertices, faces = marching_tetrahedra(positions, sdf, tets)
    vertices.square().sum().backward()
    assert len(faces) and vertices.isfinite().all() and sdf.grad.isfinite().all()


def test_errors_say_what_is_expected():
    positions, sdf, tets = ball(2)
    with pytest.raises(ValueError, match=r"expected \(N, 3\)"):
        marching_tetrahedra(positions, sdf[:-1], tets)
