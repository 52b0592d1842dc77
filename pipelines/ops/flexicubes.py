"""FlexiCubes: a differentiable surface from a signed grid with movable corners and per-cube weights.

Shen et al., "Flexible Isosurface Extraction for Gradient-Based Mesh Optimization", SIGGRAPH 2023. Vertex, face and deviation
order, and the meaning of the 21 weights of a cube, follow the format that published InstantMesh checkpoints were trained with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .flexicubes_tables import CORNERS, EDGES, case_tables

WEIGHTS_PER_CUBE = 21


class FlexiSurface(NamedTuple):
    """What `flexicubes` returns.

    vertices: (V, 3). faces: (F, 3) int64, counter-clockwise seen from outside (where the sdf is positive).
    deviation: (E,) one number for each pair of a dual vertex and a crossed edge of its loop; its mean is the regulariser L_dev.
    """

    vertices: Tensor
    faces: Tensor
    deviation: Tensor


def regular_grid(resolution: int, size: float = 1.0) -> Tensor:
    """Corners of a cubic grid centred on the origin, ((resolution + 1)^3, 3), x slowest; `size` is the edge of the whole grid.

    Corners are rounded to five decimals before they are centred and scaled, as the published grids are.
    """
    axis = grid_axis(resolution)
    return torch.cartesian_prod(axis, axis, axis) * size


def grid_axis(resolution: int, size: float = 1.0) -> Tensor:
    """Where the corners of `regular_grid` lie along each axis, (resolution + 1,)."""
    axis = torch.arange(resolution + 1, dtype=torch.float64) / resolution
    return (((axis * 1e5).round() / 1e5).to(torch.float32) - 0.5) * size


def grid_cubes(resolution: int) -> Tensor:
    """Corner indices of each cube of `regular_grid`, (resolution^3, 8) int64."""
    n = resolution + 1
    low = torch.arange(n**3).reshape(n, n, n)[:-1, :-1, :-1].reshape(-1, 1)
    return low + _corner_offsets(n)


def _corner_offsets(n: int) -> Tensor:
    return torch.tensor([(x * n + y) * n + z for x, y, z in CORNERS])


def flexicubes(
    vertices: Tensor,
    sdf: Tensor,
    resolution: int,
    weights: Tensor | Callable[[Tensor], Tensor] | None = None,
    *,
    weight_scale: float = 0.5,
    training: bool = False,
) -> FlexiSurface:
    """Extracts the surface sdf = 0. Differentiable with respect to `vertices`, `sdf` and `weights`.

    Only cubes that the surface crosses are touched, so cost grows with resolution^2 but for one pass over the signs.

    Args:
        vertices: ((resolution + 1)^3, 3) grid corners, possibly displaced, in the order of `regular_grid`.
        sdf: ((resolution + 1)^3,), negative inside.
        resolution: cubes along an edge.
        weights: (resolution^3, 21) before activation: 12 beta (edges), 8 alpha (corners), 1 gamma; or a function that gives those
            of cubes named by index (n,) -> (n, 21), for weights that are kept near the surface only; None means all equal.
        weight_scale: range of the activated weights: 0.5 in InstantMesh, 0.99 in the paper's code.
        training: split quads into four triangles around a blended centre, which lets gamma receive gradients.

    Returns:
        A FlexiSurface; empty tensors where the sdf has no sign change. The mesh is open where the surface leaves the grid.

    Raises:
        ValueError: wrong shapes, or an sdf that is not finite.
    """
    n = resolution + 1
    if tuple(sdf.shape) != (n**3,) or tuple(vertices.shape) != (n**3, 3):
        raise ValueError(
            f"FlexiCubes at resolution {resolution} needs {n**3} grid corners and as many sdf values, "
            f"got vertices {tuple(vertices.shape)} and sdf {tuple(sdf.shape)}."
        )
    if isinstance(weights, Tensor) and tuple(weights.shape) != (resolution**3, WEIGHTS_PER_CUBE):
        raise ValueError(f"FlexiCubes: weights must have shape {(resolution**3, WEIGHTS_PER_CUBE)}, not {tuple(weights.shape)}.")
    if not torch.isfinite(sdf).all():
        raise ValueError("FlexiCubes: the sdf holds NaN or infinite numbers.")

    n_patches, all_slot_edge, all_slot_patch, ambiguous = (torch.from_numpy(table).to(sdf.device) for table in case_tables())
    cubes, case = _surface_cubes(sdf, resolution, ambiguous)
    if cubes.numel() == 0:
        return FlexiSurface(vertices.new_zeros(0, 3), cubes.new_zeros(0, 3), sdf.new_zeros(0))
    low = cubes // resolution**2 * n**2 + cubes // resolution % resolution * n + cubes % resolution
    corners = low[:, None] + _corner_offsets(n).to(low.device)

    # One entry for each (surface cube, crossed edge), in the order cube, patch, edge.
    slot_edge = all_slot_edge[case]
    row, slot = torch.nonzero(slot_edge >= 0, as_tuple=True)
    edge = slot_edge[row, slot]
    ends_in_cube = torch.tensor(EDGES, device=edge.device)[edge]
    ends = torch.gather(corners[row], 1, ends_in_cube)
    first_vertex, n_vertices = _number_dual_vertices(n_patches[case])
    dual = first_vertex[row] + all_slot_patch[case][row, slot]

    own = weights.index_select(0, cubes) if isinstance(weights, Tensor) else None if weights is None else weights(cubes)
    alpha, beta, gamma = _activate(own, weight_scale)
    end_sdf, end_position = _take(sdf, ends), _take(vertices, ends)
    crossing = _zero_crossing(end_sdf, end_position)
    weighted = crossing
    if alpha is not None:
        weighted = _zero_crossing(end_sdf * _take(alpha.reshape(-1), row[:, None] * 8 + ends_in_cube), end_position)
    share = torch.ones_like(end_sdf[:, :1]) if beta is None else _take(beta.reshape(-1), row * 12 + edge)[:, None]
    total = share.new_zeros(n_vertices, 1).index_add(0, dual, share)
    mesh_vertices = share.new_zeros(n_vertices, 3).index_add(0, dual, weighted * share) / total

    deviation = _deviation(mesh_vertices, crossing, dual)
    vertex_gamma = None
    if gamma is not None:
        row_of_vertex = row.new_empty(n_vertices).index_put_((dual,), row)
        vertex_gamma = gamma.index_select(0, row_of_vertex)
    mesh_vertices, faces = _split_quads(mesh_vertices, _quads(ends, dual, sdf, n**3), vertex_gamma, training)
    return FlexiSurface(mesh_vertices, faces, deviation)


def _take(values: Tensor, index: Tensor) -> Tensor:
    """values[index] along the first axis; its gradient is an index_add, several times faster than that of indexing."""
    return values.index_select(0, index.reshape(-1)).reshape(*index.shape, *values.shape[1:])


def sign_consistency(sdf: Tensor, resolution: int) -> Tensor:
    """L_sign: cross-entropy that pulls the two ends of every crossed grid edge towards one sign, which removes stray surfaces.

    Munkberg et al., "Extracting Triangular 3D Models, Materials, and Lighting From Images", 2022, eq. 2. Mean over the crossed
    edges, both directions added; 0 where nothing is crossed. `sdf` as in `flexicubes`. Returns a scalar.
    """
    n = resolution + 1
    volume = sdf.reshape(n, n, n)
    ends = []
    for axis in range(3):
        a, b = volume.narrow(axis, 0, resolution), volume.narrow(axis, 1, resolution)
        ends.append(torch.stack([a, b], dim=-1)[(a < 0) != (b < 0)])
    crossed = torch.cat(ends)
    if crossed.shape[0] == 0:
        return sdf.sum() * 0
    other_is_outside = (crossed.detach().flip(-1) >= 0).to(crossed.dtype)
    return torch.nn.functional.binary_cross_entropy_with_logits(crossed, other_is_outside) * 2


def _surface_cubes(sdf: Tensor, resolution: int, ambiguous: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the cubes with both signs, ascending, and their cases, made manifold."""
    n = resolution + 1
    inside = (sdf.detach() < 0).to(torch.uint8).reshape(n, n, n)
    code = torch.zeros(resolution, resolution, resolution, dtype=torch.uint8, device=sdf.device)
    for bit, (x, y, z) in enumerate(CORNERS):
        code |= inside[x : x + resolution, y : y + resolution, z : z + resolution] << bit
    # uint8 wraps 255 + 1 to 0: what is left above 1 has both signs.
    cubes = torch.nonzero((code + 1).reshape(-1) > 1).flatten()
    case = code.reshape(-1)[cubes].long()

    # Two cubes that share a crowded face both take the opposite case there, which splits their loop in two.
    rows = torch.nonzero(ambiguous[case].any(dim=1)).flatten()
    if rows.numel():
        step = ambiguous[case[rows]]
        own = torch.stack([cubes[rows] // resolution**2, cubes[rows] // resolution % resolution, cubes[rows] % resolution], dim=1)
        other = own + step
        within = ((other >= 0) & (other < resolution)).all(dim=1)
        i, j, k = other.clamp(0, resolution - 1).unbind(1)
        partner = ambiguous[code[i, j, k].long()].any(dim=1) & within
        case[rows[partner]] = 255 - case[rows[partner]]
    return cubes, case


def _number_dual_vertices(n_patches: Tensor) -> tuple[Tensor, int]:
    """First dual vertex of each surface cube: cubes with one vertex come first, then those with two, and so on."""
    order = torch.argsort(n_patches, stable=True)
    ordered = n_patches[order]
    first = torch.empty_like(n_patches)
    first[order] = torch.cumsum(ordered, 0) - ordered
    return first, int(n_patches.sum())


def _activate(weights: Tensor | None, scale: float) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Raw weights (n, 21) -> alpha (n, 8) and beta (n, 12) in 1 +- scale, gamma (n,) in (1 +- scale) / 2."""
    if weights is None:
        return None, None, None
    beta, alpha, gamma = weights.split([12, 8, 1], dim=1)
    return torch.tanh(alpha) * scale + 1, torch.tanh(beta) * scale + 1, torch.sigmoid(gamma[:, 0]) * scale + (1 - scale) / 2


def _zero_crossing(values: Tensor, positions: Tensor) -> Tensor:
    """Where the linear function through `values` (E, 2) at `positions` (E, 2, 3) is zero: (E, 3)."""
    a, b = values[:, :1], values[:, 1:]
    return (positions[:, 1] * a - positions[:, 0] * b) / (a - b)


def _deviation(mesh_vertices: Tensor, crossing: Tensor, dual: Tensor) -> Tensor:
    """|distance - mean distance| between a dual vertex and the crossings of its loop, ordered by dual vertex."""
    distance = (crossing - _take(mesh_vertices, dual)).norm(dim=1)
    sums = distance.new_zeros(mesh_vertices.shape[0]).index_add(0, dual, distance)
    mean = sums / torch.bincount(dual, minlength=mesh_vertices.shape[0])
    return (distance - _take(mean, dual)).abs()[torch.argsort(dual, stable=True)]


def _quads(ends: Tensor, dual: Tensor, sdf: Tensor, n_corners: int) -> Tensor:
    """The four dual vertices around each crossed edge that four cubes share, (Q, 4), counter-clockwise seen from outside."""
    key, order = torch.sort(ends[:, 0] * n_corners + ends[:, 1], stable=True)
    starts = torch.nonzero(key[3:] == key[:-3]).flatten()
    around = dual[order[starts[:, None] + torch.arange(4, device=starts.device)]]
    # `around` lists the cubes low-low, low-high, high-low, high-high; swapping the last two walks round the edge.
    leaving = sdf[ends[order[starts], 0]] > 0
    return torch.cat([around[leaving][:, [0, 1, 3, 2]], around[~leaving][:, [2, 3, 1, 0]]])


def _split_quads(vertices: Tensor, quads: Tensor, gamma: Tensor | None, training: bool) -> tuple[Tensor, Tensor]:
    """Quads to triangles: along the diagonal with the larger product of gammas, or four around a blended centre."""
    corner_gamma = vertices.new_ones(quads.shape) if gamma is None else _take(gamma, quads)
    along_02 = corner_gamma[:, 0] * corner_gamma[:, 2]
    along_13 = corner_gamma[:, 1] * corner_gamma[:, 3]
    if not training:
        cut_02 = (along_02 > along_13)[:, None]
        faces = torch.where(cut_02, quads[:, [0, 1, 2, 0, 2, 3]], quads[:, [0, 1, 3, 3, 1, 2]])
        return vertices, faces.reshape(-1, 3)
    corner = _take(vertices, quads)
    middle_02, middle_13 = (corner[:, 0] + corner[:, 2]) / 2, (corner[:, 1] + corner[:, 3]) / 2
    centre = (middle_02 * along_02[:, None] + middle_13 * along_13[:, None]) / (along_02 + along_13 + 1e-8)[:, None]
    number = torch.arange(quads.shape[0], device=quads.device) + vertices.shape[0]
    fan = [torch.stack([quads[:, i], quads[:, (i + 1) % 4], number], dim=1) for i in range(4)]
    return torch.cat([vertices, centre]), torch.stack(fan, dim=1).reshape(-1, 3)
