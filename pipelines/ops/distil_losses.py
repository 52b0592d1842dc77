"""Losses of Magic123 (Qian et al. 2023, arXiv 2306.17843) besides those of pictures and masks. Each gives one number."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .mesh_tools import face_vectors
from .mesh_topology import make_topology

__all__ = [
    "depth_correlation", "entropy", "laplacian", "normal_blur", "normal_consistency", "normal_variation", "opacity", "orientation",
]  # fmt: skip

BLUR_TAPS, BLUR_SIGMA = 9, 1.7
LEAST_SHARE = 1e-5
LEAST_VARIANCE = 1e-12


def depth_correlation(depths: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """(1 - r) / 2 with Pearson's r of depth and target over the mask, mean over views (eq. 2): scale and shift of either do not count.

    Args:
        depths, targets: (V, 1, H, W), both growing away from the camera.
        mask: (V, 1, H, W), what counts and how much.

    A view whose depth or target is the same everywhere has r = 0 and no gradient.
    """
    share = mask / mask.sum(dim=(1, 2, 3), keepdim=True).clamp(min=1e-8)
    x, y = (part - (share * part).sum(dim=(1, 2, 3), keepdim=True) for part in (depths, targets))
    xx, yy, xy = ((share * product).sum(dim=(1, 2, 3)) for product in (x * x, y * y, x * y))
    defined = (xx > LEAST_VARIANCE) & (yy > LEAST_VARIANCE)
    scale = torch.where(defined, xx * yy, torch.ones_like(xx)).sqrt()
    return (0.5 * (1 - torch.where(defined, xy / scale, torch.zeros_like(xy)))).mean()


def normal_blur(normals: Tensor) -> Tensor:
    """Mean squared difference of a normal picture (V, 3, H, W) in [0, 1] from itself blurred, which stays constant (eq. 3).

    The blur is a Gaussian of 9 pixels with standard deviation 1.7, pictures mirrored at their border.
    """
    offsets = torch.arange(BLUR_TAPS, dtype=normals.dtype, device=normals.device) - BLUR_TAPS // 2
    taps = torch.exp(-0.5 * (offsets / BLUR_SIGMA).square())
    taps = taps / taps.sum()
    channels, margin = normals.shape[1], BLUR_TAPS // 2
    mode = "reflect" if min(normals.shape[2:]) > margin else "replicate"
    blurred = F.pad(normals.detach(), (margin,) * 4, mode=mode)
    blurred = F.conv2d(blurred, taps.expand(channels, 1, 1, BLUR_TAPS), groups=channels)
    blurred = F.conv2d(blurred, taps.view(1, 1, BLUR_TAPS, 1).expand(channels, 1, BLUR_TAPS, 1), groups=channels)
    return (normals - blurred).square().mean()


def normal_variation(normals: Tensor) -> Tensor:
    """Total variation of a normal picture (V, 3, H, W) in [0, 1]: mean squared step across plus mean squared step down."""
    return normals.diff(dim=3).square().mean() + normals.diff(dim=2).square().mean()


def entropy(weights: Tensor) -> Tensor:
    """Mean of -w log2 w - (1 - w) log2 (1 - w) over weights in [0, 1]: least where each is 0 or 1. 0 where there are none."""
    if not weights.numel():
        return weights.sum()
    w = weights.clamp(LEAST_SHARE, 1 - LEAST_SHARE)
    return (-w * torch.log2(w) - (1 - w) * torch.log2(1 - w)).mean()


def opacity(alphas: Tensor) -> Tensor:
    """Mean opacity (V, 1, H, W): draws away what no view needs."""
    return alphas.mean()


def orientation(weights: Tensor, normals: Tensor, directions: Tensor) -> Tensor:
    """Mean of w max(n . d, 0)^2 over samples: normals that face away from the camera where they are seen (Verbin et al. 2022, eq. 11).

    Args:
        weights: (N,) of the samples in their pixels; they stay constant.
        normals, directions: (N, 3) unit vectors, outward and along the ray.
    """
    if not len(weights):
        return normals.sum()
    return (weights.detach() * (normals * directions).sum(dim=-1).clamp(min=0).square()).mean()


def laplacian(vertices: Tensor, faces: Tensor) -> Tensor:
    """Mean length of the sum of the edges that leave a vertex (the uniform Laplacian, not divided by their number). 0 without faces."""
    if not len(faces):
        return vertices.sum() * 0
    a, b = make_topology(faces).edges.unbind(-1)
    along = vertices[b] - vertices[a]
    total = torch.zeros_like(vertices).index_add(0, a, along).index_add(0, b, -along)
    return _length(total).mean()


def normal_consistency(vertices: Tensor, faces: Tensor) -> Tensor:
    """Mean of 1 - cos of the angle between the normals of faces (F, 3) that share an edge. 0 where none do.

    Edges of one face, or of more than two, do not count, nor do faces without an area.
    """
    if not len(faces):
        return vertices.sum() * 0
    sides = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    keys, order = (sides.amin(dim=1) * len(vertices) + sides.amax(dim=1)).sort(stable=True)
    counts = torch.unique_consecutive(keys, return_counts=True)[1]
    first = (counts.cumsum(0) - counts)[counts == 2]
    one, other = order[first] % len(faces), order[first + 1] % len(faces)
    vectors = face_vectors(vertices, faces)
    lengths = _length(vectors)
    solid = (lengths[one] > 0) & (lengths[other] > 0)
    one, other = one[solid], other[solid]
    if not len(one):
        return vertices.sum() * 0
    unit = vectors / lengths.clamp(min=1e-20)[:, None]
    return (1 - (unit[one] * unit[other]).sum(dim=-1)).mean()


def _length(vectors: Tensor) -> Tensor:
    """Lengths (N,) whose gradient at 0 is 0."""
    squared = vectors.square().sum(dim=-1)
    return torch.where(squared > 0, squared.clamp(min=torch.finfo(squared.dtype).tiny).sqrt(), torch.zeros_like(squared))
