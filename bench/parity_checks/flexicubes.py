"""FlexiCubes on analytic and random fields, against both published copies.

`nv_*` is nv-tlabs' own (weight range 0.99), `im_*` InstantMesh's copy (0.5). They differ in the order in which quads are listed, and with
it in the order of the centre vertices of training mode; ours is InstantMesh's, so the other is compared up to order.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...pipelines.ops.flexicubes import flexicubes, regular_grid
from .goldens import Outputs, seeded

WEIGHT_SCALE = {"im": 0.5, "nv": 0.99}


def parameters(resolution: int, kind: str) -> tuple[Tensor, Tensor | None]:
    """Grid corners and cube weights of the golden runs: kind none, zero, or rand (moved corners and random weights)."""
    grid, n = regular_grid(resolution), resolution**3
    if kind == "none":
        return grid, None
    if kind == "zero":
        return grid, torch.zeros(n, 21)
    draw = seeded().seeded_input
    parts = [
        draw(f"flexi_beta_{resolution}", (n, 12)),
        draw(f"flexi_alpha_{resolution}", (n, 8)),
        draw(f"flexi_gamma_{resolution}", (n,))[:, None],
    ]
    moved = grid + torch.tanh(draw(f"flexi_def_{resolution}", tuple(grid.shape))) / (4 * resolution)
    return moved, torch.cat(parts, dim=1)


def outputs(name: str, golden: dict[str, np.ndarray]) -> Outputs:
    """Every `{copy}_{kind}_{mode}_{v|f|L}` the golden holds; the resolution is the last part of its name."""
    resolution = int(name.split("_")[2])
    yield "verts_grid_first", regular_grid(resolution)[:50]
    sdf = torch.from_numpy(golden["sdf"])
    for key in sorted({key[:-2] for key in golden if key.endswith("_f")}):
        copy, kind, mode = key.split("_")
        vertices, weights = parameters(resolution, kind)
        surface = flexicubes(vertices, sdf, resolution, weights, weight_scale=WEIGHT_SCALE[copy], training=mode == "train")
        ours, faces = surface.vertices.numpy(), surface.faces.numpy()
        if copy == "nv" and mode == "train":
            ours, faces = in_golden_order(ours, faces, golden[f"{key}_v"])
        yield f"{key}_v", ours
        yield f"{key}_f", faces
        yield f"{key}_L", surface.deviation


def in_golden_order(vertices: np.ndarray, faces: np.ndarray, golden: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces renumbered so that each vertex takes the place of the golden vertex nearest to it.

    Where the two sets are not the same points, the numbering is left alone and the comparison will say so.
    """
    from scipy.spatial import cKDTree

    if vertices.shape != golden.shape:
        return vertices, faces
    place = cKDTree(golden).query(vertices)[1]
    if len(np.unique(place)) != len(place):
        return vertices, faces
    reordered = np.empty_like(vertices)
    reordered[place] = vertices
    return reordered, place[faces]
