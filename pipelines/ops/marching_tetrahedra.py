"""Surface of a signed field on a tetrahedral grid (marching tetrahedra as DMTet uses it, Shen et al. 2021).

The field is positive inside. A vertex lies on each edge whose ends differ in sign, where the linear field is 0; it moves with the ends'
positions and values, so the surface is differentiable in both. Which faces there are is not.
"""

from __future__ import annotations

from itertools import permutations

import torch
from torch import Tensor

__all__ = ["marching_tetrahedra", "tet_grid"]

EDGES = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
# Edges of a tetrahedron whose crossings are joined, by its case: the sum of 2^i over its corners i inside. Outward when the corners 1, 2
# and 3, seen from 0, run counter-clockwise.
CASES = ("", "102", "403", "142134", "315", "230253", "140154", "425", "452", "410451", "320352", "135", "412431", "304", "201", "")


def tet_grid(resolution: int, extent: float = 1.0) -> tuple[Tensor, Tensor]:
    """Cubes cut into tetrahedra: six around the diagonal of each, one for each order in which the axes can be walked (Kuhn 1960).

    Neighbouring cubes cut their common face alike, so the surface has no cracks. The grids that DMTet's followers ship name themselves
    by another number: theirs of "128" has about the vertices of this one at 64. All tetrahedra are wound alike.

    Args:
        resolution: cubes along an axis.
        extent: the grid spans [-extent, extent]^3.

    Returns:
        positions ((resolution + 1)^3, 3) float32, z fastest, and tets (6 resolution^3, 4) int64.

    Raises:
        ValueError: less than one cube.
    """
    if resolution < 1:
        raise ValueError(f"Tetrahedral grid: {resolution} cubes along an axis; expected at least 1.")
    line = torch.linspace(-extent, extent, resolution + 1)
    positions = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), dim=-1).reshape(-1, 3)
    steps = ((resolution + 1) ** 2, resolution + 1, 1)
    paths = []
    for order in permutations(range(3)):
        one, two = steps[order[0]], steps[order[0]] + steps[order[1]]
        swap = order[(order.index(0) + 1) % 3] == 1
        paths.append([0, *((two, one) if swap else (one, two)), sum(steps)])
    corner = torch.arange(resolution)
    first = (corner[:, None, None] * steps[0] + corner[:, None] * steps[1] + corner).reshape(-1, 1, 1)
    return positions, (first + torch.tensor(paths)).reshape(-1, 4)


def marching_tetrahedra(positions: Tensor, sdf: Tensor, tets: Tensor) -> tuple[Tensor, Tensor]:
    """The surface where the field passes 0.

    Args:
        positions: (N, 3) of the grid's vertices.
        sdf: (N,) values there, positive inside; 0 counts as outside.
        tets: (T, 4) integer.

    Returns:
        vertices (V, 3), differentiable in positions and sdf, in the order of the edges they lie on; faces (F, 3) int64, outward for
        `tet_grid`. V = F = 0 where the field has one sign only: it is for the caller to say that nothing is left.

    Raises:
        ValueError: shapes that do not fit together.
    """
    if positions.dim() != 2 or positions.shape[1] != 3 or sdf.shape != positions.shape[:1] or tets.dim() != 2 or tets.shape[1] != 4:
        raise ValueError(
            f"Marching tetrahedra: positions {tuple(positions.shape)}, field {tuple(sdf.shape)}, tetrahedra {tuple(tets.shape)}; "
            "expected (N, 3), (N,) and (T, 4)."
        )
    device = sdf.device
    inside = sdf.detach() > 0
    corners_in = inside[tets]
    count = corners_in.sum(dim=1)
    cut = torch.nonzero((count > 0) & (count < 4))[:, 0]
    tets, corners_in = tets[cut].long(), corners_in[cut]
    case = (corners_in * torch.tensor([1, 2, 4, 8], device=device)).sum(dim=1)

    ends = tets[:, torch.tensor(EDGES, device=device)]
    low, high = ends.amin(dim=2), ends.amax(dim=2)
    crossed = inside[low] != inside[high]
    keys = (low * len(positions) + high)[crossed]
    unique, places = torch.unique(keys, return_inverse=True)
    vertex_of = torch.full(crossed.shape, -1, dtype=torch.int64, device=device)
    vertex_of[crossed] = places

    a, b = unique // max(len(positions), 1), unique % max(len(positions), 1)
    value_a, value_b = sdf[a, None], sdf[b, None]
    span = value_a - value_b
    vertices = positions[a] * (-value_b / span) + positions[b] * (value_a / span)

    faces = []
    for triangles in (1, 2):
        table = torch.tensor([[int(e) for e in row] if len(row) == 3 * triangles else [0] * 3 * triangles for row in CASES], device=device)
        these = torch.nonzero(torch.tensor([len(row) == 3 * triangles for row in CASES], device=device)[case])[:, 0]
        faces.append(vertex_of[these].gather(1, table[case[these]]).reshape(-1, 3))
    return vertices, torch.cat(faces)
