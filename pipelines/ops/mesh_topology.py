"""Which faces meet at which edge: what silhouette detection needs, made once per connectivity."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Topology:
    """The E distinct edges of a mesh and, for each, the third corners of the faces that share it.

    Attributes:
        edges: (E, 2) int64 vertex indices.
        offsets: (E + 1,) int64; the corners opposite edge e are opposite[offsets[e] : offsets[e + 1]].
        opposite: (3F,) int64. An edge of a closed manifold has two, a border edge one, a non-manifold edge more.
    """

    edges: Tensor
    offsets: Tensor
    opposite: Tensor

    def to(self, device: torch.device | str) -> Topology:
        """The same topology with its tensors on `device`."""
        return Topology(self.edges.to(device), self.offsets.to(device), self.opposite.to(device))


def merged_faces(vertices: Tensor, tri: Tensor) -> Tensor:
    """Faces (F, 3) renamed so that vertices (V, 3) at exactly the same place count as one, the first of them.

    A mesh cut along its texture seams is closed again for topology and normals; the vertices themselves stay as they are.
    """
    if not len(vertices):
        return tri
    _, group = torch.unique(vertices.detach() + 0.0, dim=0, return_inverse=True)
    index = torch.arange(len(vertices), device=vertices.device)
    first = torch.full_like(index, len(vertices)).scatter_reduce_(0, group, index, "amin")
    return first[group[tri]]


def make_topology(tri: Tensor, vertices: Tensor | None = None) -> Topology:
    """Edges and adjacency of faces `tri` (F, 3) int64. Faces that name a vertex twice are left out.

    With `vertices` (V, 3), those at the same place count as one: without, every texture seam would be a border.
    """
    if vertices is not None:
        tri = merged_faces(vertices, tri)
    i, j, k = tri.unbind(-1)
    i, j, k = tri[(i != j) & (j != k) & (k != i)].unbind(-1)
    ends = torch.stack([torch.cat([j, k, i]), torch.cat([k, i, j])], dim=-1)
    low, high = ends.amin(dim=-1), ends.amax(dim=-1)
    key, order = torch.sort(low * (int(high.max()) + 1 if len(high) else 1) + high, stable=True)
    _, counts = torch.unique_consecutive(key, return_counts=True)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    first = order[offsets[:-1]]
    return Topology(torch.stack([low[first], high[first]], dim=-1), offsets, torch.cat([i, j, k])[order])
