"""Points drawn from a mesh's surface."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.mesh import Mesh


def sample_faces(mesh: Mesh, count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """`count` points drawn uniformly by area from the mesh's surface; the same seed gives the same points.

    Returns:
        points (count, 3) float32, the face of each (count,) int64, and the weights (count, 3) float32 of that face's corners in it.

    Raises:
        ValueError: the mesh has no faces, or all its faces have no area.
    """
    if mesh.faces.shape[0] == 0:
        raise ValueError("Sampling points: the mesh has no faces, so there is no surface to sample.")
    corners = mesh.vertices.double().cpu()[mesh.faces.cpu()]
    edge_a, edge_b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    cumulative = torch.linalg.cross(edge_a, edge_b).norm(dim=-1).cumsum(0)
    total = float(cumulative[-1])
    if not total > 0:
        raise ValueError("Sampling points: every face of the mesh has zero area.")
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand((count, 3), dtype=torch.float64, generator=generator)
    face = torch.searchsorted(cumulative, draws[:, 0] * total, right=True).clamp(max=mesh.faces.shape[0] - 1)
    u, v = draws[:, 1:2], draws[:, 2:3]
    outside = u + v > 1  # fold the square's far half back onto the triangle
    u, v = torch.where(outside, 1 - u, u), torch.where(outside, 1 - v, v)
    points = (corners[face, 0] + u * edge_a[face] + v * edge_b[face]).float()
    return points, face, torch.cat([1 - u - v, u, v], dim=1).float()


def sample_surface(mesh: Mesh, count: int, seed: int) -> Tensor:
    """The points of `sample_faces`, (count, 3) float32."""
    return sample_faces(mesh, count, seed)[0]
