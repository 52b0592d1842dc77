"""FlexiCubes written like the paper's equations: every cube, every edge, no search for the surface. Slow, and independent of the fast form.

Shen et al. 2023, section 4: a dual vertex is the beta-weighted mean of the alpha-weighted zero crossings of its loop (eq. 5 and 6); four
dual vertices around a crossed edge make a quad, cut along the diagonal with the larger product of gammas.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...pipelines.ops.flexicubes import grid_cubes
from ...pipelines.ops.flexicubes_tables import CORNERS, EDGES, case_tables


def flexicubes(vertices: Tensor, sdf: Tensor, resolution: int, weights: Tensor, weight_scale: float = 0.5) -> tuple[Tensor, Tensor]:
    """Vertices (V, 3) and faces (F, 3) of the surface; arguments as in `ops.flexicubes.flexicubes`, whose mesh it is up to order."""
    cubes = grid_cubes(resolution)
    beta, alpha, gamma = weights.split([12, 8, 1], dim=1)
    alpha, beta = torch.tanh(alpha) * weight_scale + 1, torch.tanh(beta) * weight_scale + 1
    gamma = torch.sigmoid(gamma[:, 0]) * weight_scale + (1 - weight_scale) / 2
    s, x = sdf[cubes], vertices[cubes]
    inside = s < 0
    case = _consistent_cases((inside.long() << torch.arange(8)).sum(1), resolution)

    n_patches, slot_edge, slot_patch, _ = (torch.from_numpy(table) for table in case_tables())
    patch_of_edge = torch.full((256, 12), -1)
    rows, slots = torch.nonzero(slot_edge >= 0, as_tuple=True)
    patch_of_edge[rows, slot_edge[rows, slots]] = slot_patch[rows, slots]
    patch = patch_of_edge[case]  # (cubes, 12), -1 where an edge is not crossed

    a, b = torch.tensor(EDGES).T
    weighted = s * alpha
    wa, wb = weighted[:, a, None], weighted[:, b, None]
    crossing = (x[:, b] * wa - x[:, a] * wb) / (wa - wb)
    counts = n_patches[case]
    first = counts.cumsum(0) - counts
    dual = torch.where(patch >= 0, first[:, None] + patch, -1)
    n_vertices = int(counts.sum())
    points, cube_of_vertex = torch.zeros(n_vertices, 3), torch.zeros(n_vertices, dtype=torch.long)
    for number in range(4):
        has = counts > number
        mine = (patch == number)[:, :, None]
        mean = torch.where(mine, crossing * beta[:, :, None], 0.0).sum(1) / torch.where(mine, beta[:, :, None], 0.0).sum(1)
        points[first[has] + number] = mean[has]
        cube_of_vertex[first[has] + number] = torch.nonzero(has).flatten()
    return points, _faces(dual.view(resolution, resolution, resolution, 12), sdf, resolution, gamma[cube_of_vertex])


def _consistent_cases(case: Tensor, resolution: int) -> Tensor:
    """Both cubes at a face that both would close into one loop take the opposite case."""
    ambiguous = torch.from_numpy(case_tables().ambiguous)
    step = ambiguous[case]
    place = torch.cartesian_prod(*[torch.arange(resolution)] * 3)
    other = place + step
    within = ((other >= 0) & (other < resolution)).all(1)
    x, y, z = other.clamp(0, resolution - 1).T
    partner = case[(x * resolution + y) * resolution + z]
    flip = step.any(1) & within & ambiguous[partner].any(1)
    return torch.where(flip, 255 - case, case)


def _faces(dual: Tensor, sdf: Tensor, resolution: int, gamma: Tensor) -> Tensor:
    """Two triangles for each inner grid edge that is crossed; `dual` (R, R, R, 12) is the vertex of each edge in each cube."""
    inside = (sdf < 0).view([resolution + 1] * 3)
    triangles = []
    for axis in range(3):
        others = (axis + 1) % 3, (axis + 2) % 3
        ring = []
        for low in ((0, 0), (1, 0), (1, 1), (0, 1)):  # counter-clockwise around the axis
            cubes = dual
            for other, start in zip(others, low, strict=True):
                cubes = cubes.narrow(other, start, resolution - 1)
            ring.append(cubes[..., _local_edge(axis, others, low)])
        lower, upper = inside.narrow(axis, 0, resolution), inside.narrow(axis, 1, resolution)
        for other in others:
            lower, upper = lower.narrow(other, 1, resolution - 1), upper.narrow(other, 1, resolution - 1)
        quads = torch.stack(ring, dim=-1)
        triangles += [_cut(quads[lower & ~upper], gamma), _cut(quads[upper & ~lower].flip(-1), gamma)]
    return torch.cat(triangles)


def _local_edge(axis: int, others: tuple[int, int], low: tuple[int, int]) -> int:
    """The number of the edge along `axis` that lies at the inner corner of a cube whose place in the ring is `low`."""
    start = [0, 0, 0]
    start[others[0]], start[others[1]] = 1 - low[0], 1 - low[1]
    end = list(start)
    end[axis] = 1
    wanted = {CORNERS.index(tuple(start)), CORNERS.index(tuple(end))}  # type: ignore[arg-type]
    return next(number for number, edge in enumerate(EDGES) if set(edge) == wanted)


def _cut(quads: Tensor, gamma: Tensor) -> Tensor:
    g = gamma[quads]
    along_02 = (g[:, 0] * g[:, 2] > g[:, 1] * g[:, 3])[:, None]
    return torch.where(along_02, quads[:, [0, 1, 2, 0, 2, 3]], quads[:, [0, 1, 3, 3, 1, 2]]).reshape(-1, 3)
