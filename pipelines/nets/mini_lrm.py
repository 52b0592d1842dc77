"""The mini reconstruction network: InstantMesh's triplane network, small, that is also told what the pictures say of space.

Two inputs are added to the published architecture, because a small network trained for hours cannot learn triangulation
from pictures alone (both are ablated in the model's card):

- the volume input: the soft visual hull and its mean colour, 32^3, added to the triplane tokens and to the fine planes;
- the point input: at each query point, masks and colours of the views at its projections, pooled over the views, and a
  colour that is a learned blend of them (as in Wang et al., "IBRNet", 2021).

Nothing depends on the number of views or on where their cameras stand.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.cameras import Cameras
from ..ops.visual_hull import hull_volume, sample_views
from .triplane_field import FLEXI_WEIGHTS, Head, sample_planes, to_network
from .triplane_lrm import LRMConfig, TriplaneLRM

VOLUME_RES = 32
VOLUME_CHANNELS = 4
POOLED = 8
DENSITY_SCALE = 40.0
"""A raw 0, the surface, is density 40 softplus(-1) = 12.5: half the light is gone after 0.055 world units."""

MINI = LRMConfig(
    kind="mesh", image_size=64, patch_size=8, position_grid=8, encoder_dim=96, encoder_layers=2, encoder_heads=3,
    encoder_mlp_dim=288, transformer_dim=96, transformer_layers=3, transformer_heads=3, triplane_low_res=8, upsample=8,
    triplane_dim=16, decoder_hidden=64, samples_per_ray=64, grid_res=64, grid_scale=2.1, volume_channels=VOLUME_CHANNELS,
)  # fmt: skip


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
        triplane = sample_planes(planes[None], to_network(points)[None])[0]
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


class VolumeInput(nn.Module):
    """The hull volume, slice by slice along each axis, as a bias of the triplane tokens and of the fine planes."""

    def __init__(self, config: LRMConfig) -> None:
        super().__init__()
        channels = VOLUME_RES * VOLUME_CHANNELS
        cells = VOLUME_RES // config.triplane_low_res
        self.upsample = config.triplane_res // VOLUME_RES
        self.to_tokens = nn.ModuleList(nn.Conv2d(channels, config.transformer_dim, cells, cells) for _ in range(3))
        self.to_planes = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, config.triplane_dim, 3, padding=1))
            for _ in range(3)
        )

    def forward(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 4, Z, Y, X) in the network's axes -> tokens' bias (B, 3*T*T, dim) and planes' bias (B, 3, C, R, R)."""
        # rows and columns as `sample_planes` reads them: (y, x), (z, x), (y, z); what is left is the stack of slices
        stacks = [volume, volume.permute(0, 1, 3, 2, 4), volume.permute(0, 1, 4, 3, 2)]
        stacks = [stack.flatten(1, 2) for stack in stacks]
        tokens = [to(stack).flatten(2).transpose(1, 2) for to, stack in zip(self.to_tokens, stacks, strict=True)]
        planes = [to(stack) for to, stack in zip(self.to_planes, stacks, strict=True)]
        fine = F.interpolate(torch.stack(planes, dim=1).flatten(0, 1), scale_factor=self.upsample, mode="bilinear")
        return torch.cat(tokens, dim=1), fine.unflatten(0, (-1, 3))


def network_volume(images: Tensor, masks: Tensor, cameras: Cameras) -> Tensor:
    """The volume input of one asset: (4, Z, Y, X) in the network's axes; hull, and mean colour times hull."""
    occupancy, color = hull_volume(images, masks, cameras, VOLUME_RES)
    world = torch.cat([occupancy[..., None], color * occupancy[..., None]], dim=-1)
    return world.permute(3, 1, 2, 0)  # network (x, y, z) = world (z, x, y), so indices [y, x, z] of the world's [z, y, x]


class MiniLRM(TriplaneLRM):
    """See the module's text. `point_input` False leaves the volume input alone."""

    def __init__(self, config: LRMConfig = MINI, point_input: bool = True) -> None:
        super().__init__(config)
        self.point_input = point_input
        self.synthesizer.decoder = PointHeads(config.triplane_dim, config.decoder_hidden, point_input)
        self.volume_input = VolumeInput(config)

    def planes_of(self, images: Tensor, cameras: Tensor, volume: Tensor, **how: Any) -> Tensor:
        """Planes (B, 3, C, R, R) of views (B, V, 3, H, W), their (B, V, 16) cameras and volumes (B, 4, Z, Y, X).

        `how`: dtype, attention and tick, as `TriplaneLRM.planes` takes them.
        """
        tokens, fine = self.volume_input(volume)
        return self.planes(images, cameras, tokens, **how) + fine

    def settings(self) -> dict[str, Any]:
        """What `from_settings` needs to build the same network, for JSON."""
        heads = self.synthesizer.decoder
        return {"lrm": asdict(self.config), "point_input": self.point_input, "stage": heads.kind}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> MiniLRM:
        """An untrained network of the given settings."""
        net = cls(LRMConfig.from_dict(settings["lrm"]), bool(settings["point_input"]))
        net.synthesizer.decoder.kind = str(settings["stage"])
        return net
