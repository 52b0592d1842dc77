"""Between a mesh's surface and its texture: which point each texel stands for, what a camera sees, how gaps are filled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .mesh_raster.dispatch import interpolate, rasterize_mesh

TEXELS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Texels:
    """The texels of some rows of a texture whose centre lies inside a face's uvs: T of them.

    Attributes:
        index: (T,) row * size + column in the whole texture.
        face: (T,) the face.
        bary: (T, 3) barycentric coordinates.
    """

    index: Tensor
    face: Tensor
    bary: Tensor

    def read(self, attribute: Tensor, faces: Tensor) -> Tensor:
        """Vertex attributes (V, A) at the texels, (T, A)."""
        return (attribute[faces[self.face]] * self.bary[..., None]).sum(dim=1)


def texels(uvs: Tensor, faces: Tensor, size: int) -> Iterator[Texels]:
    """The covered texels of a `size` x `size` texture, some rows at a time. `uvs` (V, 2) have their origin at the top left."""
    rows_at_once = max(1, TEXELS_AT_ONCE // size)
    for top in range(0, size, rows_at_once):
        rows = min(rows_at_once, size - top)
        y = (uvs[:, 1] * size - top) / rows
        pos = torch.stack([2 * uvs[:, 0] - 1, 1 - 2 * y, torch.zeros_like(y), torch.ones_like(y)], dim=1)
        face, bary, _ = rasterize_mesh(pos[None], faces, (rows, size))
        inside = torch.nonzero(face.reshape(-1) >= 0).flatten()
        yield Texels(inside + top * size, face.reshape(-1)[inside], bary.reshape(-1, 3)[inside])


def fill_gaps(texture: Tensor, covered: Tensor) -> Tensor:
    """Gives every texel outside `covered` (H, W) the colour of the nearest covered one, so that filtering and mip levels show no seams.

    Args:
        texture: (H, W, C).
    """
    from scipy.ndimage import distance_transform_edt

    rows, columns = distance_transform_edt(~covered.numpy(), return_distances=False, return_indices=True)
    return texture[torch.from_numpy(rows).long(), torch.from_numpy(columns).long()]


def nearest_colors(points: Tensor, colors: Tensor, wanted: Tensor, most: int = 100_000) -> Tensor:
    """Colours (W, C) at `wanted` (W, D): the mean of the three nearest of `points` (P, D) with `colors`, weighted by closeness.

    Of more than `most` points an even selection serves.
    """
    from scipy.spatial import cKDTree

    keep = torch.arange(0, len(points), max(1, -(-len(points) // most)))
    points, colors = points[keep], colors[keep]
    distance, index = cKDTree(points.numpy()).query(wanted.numpy(), k=min(3, len(points)))
    distance, index = distance.reshape(len(wanted), -1), index.reshape(len(wanted), -1)
    weight = torch.from_numpy(1 / (distance**2 + 1e-12))
    weight = (weight / weight.sum(dim=1, keepdim=True)).to(colors.dtype)
    return (colors[torch.from_numpy(index)] * weight[..., None]).sum(dim=1)


@dataclass(frozen=True)
class SeenDepth:
    """What one camera sees of a mesh: z-depth (1, 1, h, w), and how far from an edge, (1, 1, h, w) from 0 at an edge to 1."""

    depth: Tensor
    trust: Tensor


def seen_depth(pos: Tensor, faces: Tensor, size: tuple[int, int], mask: Tensor | None, *, step: float, margin: float) -> SeenDepth:
    """Depth map of one view, and its distance to silhouettes, to steps in depth and to the mask's outline.

    A picture's colours are not to be trusted beside such edges: there they mix with what lies behind.

    Args:
        pos: (V, 4) clip-space positions.
        size: (H, W) of the picture; the maps are as large, or larger for a small picture.
        mask: (1, H, W), 1 = object, or None.
        step: a difference in depth between neighbouring pixels that counts as an edge, world units.
        margin: pixels of the picture over which trust grows from 0, one pixel from the edge, to 1.
    """
    from scipy.ndimage import distance_transform_edt

    scale = max(1, -(-512 // max(size)))
    height, width = size[0] * scale, size[1] * scale
    face, bary, _ = rasterize_mesh(pos[None], faces, (height, width))
    depth = interpolate(pos[:, 3:], faces, face, bary)[..., 0]
    inside = face >= 0
    if mask is not None:
        inside &= F.interpolate(mask[None], size=(height, width), mode="bilinear", align_corners=False)[:, 0] > 0.5
    edge = ~inside
    for axis in (1, 2):
        n = depth.shape[axis] - 1
        jump = (depth.narrow(axis, 1, n) - depth.narrow(axis, 0, n)).abs() > step
        edge.narrow(axis, 1, n).logical_or_(jump)
        edge.narrow(axis, 0, n).logical_or_(jump)
    # One ring of edge pixels outside the picture: what is cut by the frame is not to be trusted beside it either.
    framed = np.pad(~edge[0].cpu().numpy(), 1)
    distance = torch.from_numpy(distance_transform_edt(framed)[1:-1, 1:-1]).float()
    # The pixel beside an edge is worth nothing: the picture's own antialiasing reaches that far.
    return SeenDepth(depth[:, None], ((distance / scale - 1) / max(margin, 1e-6)).clamp(0, 1)[None, None])


def look_up(maps: Tensor, places: Tensor) -> Tensor:
    """Bilinear values of (1, C, H, W) at image places (N, 2) in [0, 1], x right and y down -> (N, C); 0 outside."""
    grid = (places * 2 - 1)[None, None]
    return F.grid_sample(maps, grid, align_corners=False)[0, :, 0].T
