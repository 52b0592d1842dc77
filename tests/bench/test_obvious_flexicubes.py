"""The obvious FlexiCubes and the fast one make the same mesh: each is the other's oracle."""

import numpy as np
import pytest
import torch
from lathe.bench.parity_checks.flexicubes import in_golden_order
from lathe.bench.parity_checks.goldens import Rule, compare
from lathe.bench.speed_cases import obvious_flexicubes
from lathe.pipelines.ops.flexicubes import flexicubes, regular_grid


@pytest.mark.parametrize("field", ["sphere", "torus", "noise"])
def test_same_mesh_up_to_order(field):
    resolution = 12
    draws = torch.Generator().manual_seed(5)
    grid = regular_grid(resolution)
    p = grid - torch.tensor([0.013, -0.007, 0.021])
    sdf = {
        "sphere": p.norm(dim=1) - 0.35,
        "torus": ((p[:, :2].norm(dim=1) - 0.28) ** 2 + p[:, 2] ** 2).sqrt() - 0.12,
        "noise": torch.randn(len(grid), generator=draws),
    }[field]
    vertices = grid + torch.tanh(torch.randn(grid.shape, generator=draws)) / (4 * resolution)
    weights = torch.randn(resolution**3, 21, generator=draws)
    fast = flexicubes(vertices, sdf, resolution, weights)
    points, faces = obvious_flexicubes.flexicubes(vertices, sdf, resolution, weights)
    assert len(points) == len(fast.vertices) > 100
    ordered, numbered = in_golden_order(points.numpy(), faces.numpy(), fast.vertices.numpy())
    np.testing.assert_allclose(ordered, fast.vertices.numpy(), atol=2e-6)
    assert compare("faces", numbered, fast.faces.numpy(), Rule("triangles")).passed
