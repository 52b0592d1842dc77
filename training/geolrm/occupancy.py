"""What the proposal network is taught: cells that depth maps say are surface (GeoLRM A.1), and its two losses (section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ...pipelines.nets.geolrm import HALF


def surface_points(depths: Tensor, c2w: Tensor, K: Tensor) -> Tensor:
    """Every pixel that has a depth as a point of the world, A.1's first equation.

    Args:
        depths: (V, 1, H, W) z-depth, 0 on the background.  c2w: (V, 4, 4).  K: (V, 4) in fractions of the picture.

    Returns:
        (P, 3).
    """
    height, width = depths.shape[-2:]
    view, row, column = torch.nonzero(depths[:, 0] > 0, as_tuple=True)
    depth = depths[view, 0, row, column]
    fx, fy, cx, cy = K[view].unbind(-1)
    x = ((column + 0.5) / width - cx) / fx
    y = ((row + 0.5) / height - cy) / fy
    local = torch.stack([x, -y, -torch.ones_like(x)], dim=-1) * depth[:, None]
    return torch.einsum("pij,pj->pi", c2w[view, :3, :3], local) + c2w[view, :3, 3]


def occupied_cells(points: Tensor, grid: int) -> Tensor:
    """Cells of the networks' corner-aligned grid that hold a surface point, A.1's second equation: (grid, grid, grid) bool, [x, y, z]."""
    index = ((points / HALF + 1) * (grid - 1) / 2).round().long()
    index = index[((index >= 0) & (index < grid)).all(dim=1)]
    cells = torch.zeros(grid, grid, grid, dtype=torch.bool)
    cells[index[:, 0], index[:, 1], index[:, 2]] = True
    return cells


def proposal_loss(logits: Tensor, occupied: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy, and the scene-class affinity of the occupied class (Cao and de Charette 2022, eq. 4).

    The affinity asks for precision, recall and specificity of the whole grid, each as -log.
    """
    truth = occupied.float()
    entropy = binary_cross_entropy_with_logits(logits, truth)
    likely = logits.sigmoid()
    hit = (likely * truth).sum()
    precision = hit / likely.sum().clamp_min(1e-6)
    recall = hit / truth.sum().clamp_min(1)
    specificity = ((1 - likely) * (1 - truth)).sum() / (1 - truth).sum().clamp_min(1)
    affinity = -(precision.clamp_min(1e-6).log() + recall.clamp_min(1e-6).log() + specificity.clamp_min(1e-6).log())
    return entropy + affinity, {"entropy": float(entropy.detach()), "affinity": float(affinity.detach())}


def overlap(logits: Tensor, occupied: Tensor, threshold: float = 0.5) -> tuple[float, float, int]:
    """Intersection over union, recall, and how many cells are occupied by the logits."""
    found = logits.sigmoid() > threshold
    hit = int((found & occupied).sum())
    return hit / max(1, int((found | occupied).sum())), hit / max(1, int(occupied.sum())), int(found.sum())
