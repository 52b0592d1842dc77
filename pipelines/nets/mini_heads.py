"""The heads of the mini reconstruction network: what is at a point, from its triplane and from its projections into the views."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.coordinate_frames.instantmesh import to_triplane
from ..ops.visual_hull import sample_views
from .triplane_field import FLEXI_WEIGHTS, Head, sample_planes

POOLED = 8
DENSITY_SCALE = 40.0
"""A raw 0, the surface, is density 40 softplus(-1) = 12.5: half the light is gone after 0.055 world units."""


@dataclass(frozen=True)
class PosedViews:
    """The input pictures of one asset, as the point input reads them.

    Attributes:
        pictures: (V, 4, H, W) colours on white and mask.  c2w: (V, 4, 4) world space.  K: (V, 4).
    """

    pictures: Tensor
    c2w: Tensor
    K: Tensor


class PointHeads(nn.Module):
    """What is at a point, from its triplane features and, with `point_input`, from its projections into the views.

    Attributes:
        kind: "nerf" while the first head is a density (stage 1), "mesh" once it is a signed distance (stage 2).
    """

    def __init__(self, triplane_dim: int, hidden: int, point_input: bool) -> None:
        super().__init__()
        self.kind = "nerf"
        self.triplane_dim, self.hidden, self.point_input = triplane_dim, hidden, point_input
        inputs = 3 * triplane_dim + (POOLED if point_input else 0)
        self.net_sdf = Head(inputs, hidden, 1)
        self.net_deformation = Head(inputs, hidden, 3)
        self.net_weight = Head(inputs, hidden, FLEXI_WEIGHTS)
        # direct colour (3), its share (1), blending direction (3), blending query (8)
        self.net_rgb = Head(inputs, hidden, 15 if point_input else 3)
        if point_input:
            self.score = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 1))
        nn.init.constant_(self.net_sdf.linear(-1).bias, -1.0)  # starts as thin air

    def features(self, planes: Tensor, points: Tensor, views: PosedViews) -> tuple[Tensor, Tensor | None]:
        """Inputs of the heads at world points (N, 3): (N, inputs), and the views' samples (V, N, 4) for the colour."""
        triplane = sample_planes(planes[None], to_triplane(points)[None])[0]
        if not self.point_input:
            return triplane, None
        seen = sample_views(points, views.pictures, views.c2w, views.K)
        mask, color = seen[..., 3:], seen[..., :3]
        total = mask.sum(0).clamp_min(1e-4)
        mean = (color * mask).sum(0) / total
        spread = ((color - mean).square() * mask).sum(0) / total
        pooled = torch.cat([mask.amin(0), mask.mean(0), mean, (spread + 1e-6).sqrt()], dim=-1)
        return torch.cat([triplane, pooled], dim=-1), seen

    def color(self, features: Tensor, seen: Tensor | None, points: Tensor, views: PosedViews) -> Tensor:
        """(N, 3) sRGB in [0, 1]."""
        raw = self.net_rgb(features)
        direct = torch.sigmoid(raw[:, :3]) * 1.002 - 0.001
        if seen is None:
            return direct
        towards = F.normalize(views.c2w[:, None, :3, 3] - points, dim=-1)
        mask, color = seen[..., 3:], seen[..., :3]
        mean = features[:, 3 * self.triplane_dim + 2 : 3 * self.triplane_dim + 5]
        facing = (towards * raw[:, 4:7]).sum(-1, keepdim=True)
        about = torch.cat([color - mean, mask, raw[:, 7:15].expand(len(seen), -1, -1)], dim=-1)
        weights = torch.softmax(self.score(about) + facing + torch.log(mask + 1e-3), dim=0)
        share = torch.sigmoid(raw[:, 3:4])
        return share * direct + (1 - share) * (weights * color).sum(0)


def density_to_sdf_(heads: PointHeads) -> None:
    """Turns the density head into a signed distance head, in place: w = -w_d, b = tau - b_d (InstantMesh eq. 2-3), tau = 0."""
    if heads.kind != "nerf":
        raise ValueError("density_to_sdf_: the head already is a signed distance.")
    last = heads.net_sdf.linear(-1)
    with torch.no_grad():
        last.weight.neg_()
        last.bias.neg_()
    heads.kind = "mesh"


def activate_density(raw: Tensor) -> Tensor:
    """Density of stage 1's raw number."""
    return DENSITY_SCALE * F.softplus(raw - 1)
