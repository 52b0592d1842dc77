"""The mini reconstruction network: InstantMesh's triplane network, small, that is also told what the pictures say of space.

Two inputs are added to the published architecture, because a small network trained for hours cannot learn triangulation
from pictures alone (both are ablated in the model's card):

- the volume input: the soft visual hull and its mean colour, 32^3, added to the triplane tokens and to the fine planes;
- the point input: at each query point, masks and colours of the views at its projections, pooled over the views, and a
  colour that is a learned blend of them (as in Wang et al., "IBRNet", 2021).

Nothing depends on the number of views or on where their cameras stand.
"""

from __future__ import annotations

import copy
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.cameras import Cameras
from ..data.field import Field
from ..data.progress import Tick, no_tick
from ..ops.coordinate_frames.instantmesh import triplane_cameras
from ..ops.visual_hull import hull_volume
from .attention import Attention
from .mini_heads import PointHeads, PosedViews
from .projected_field import ProjectedField
from .triplane_lrm import LRMConfig, TriplaneLRM

VOLUME_RES = 32
VOLUME_CHANNELS = 4

MINI = LRMConfig(
    kind="mesh", image_size=64, patch_size=8, position_grid=8, encoder_dim=96, encoder_layers=2, encoder_heads=3,
    encoder_mlp_dim=288, transformer_dim=96, transformer_layers=3, transformer_heads=3, triplane_low_res=8, upsample=8,
    triplane_dim=16, decoder_hidden=64, samples_per_ray=64, grid_res=64, grid_scale=2.1, volume_channels=VOLUME_CHANNELS,
)  # fmt: skip


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
        heads: Any = PointHeads(config.triplane_dim, config.decoder_hidden, point_input)
        self.synthesizer.decoder = heads  # in the published decoder's place
        self.volume_input = VolumeInput(config)

    def planes_of(self, images: Tensor, cameras: Tensor, volume: Tensor, **how: Any) -> Tensor:
        """Planes (B, 3, C, R, R) of views (B, V, 3, H, W), their (B, V, 16) cameras and volumes (B, 4, Z, Y, X).

        `how`: dtype, attention and tick, as `TriplaneLRM.planes` takes them.
        """
        tokens, fine = self.volume_input(volume)
        return self.planes(images, cameras, tokens, **how) + fine

    def field(
        self,
        images: Tensor,
        masks: Tensor | None,
        cameras: Cameras,
        *,
        dtype: torch.dtype | None = None,
        attention: Attention | None = None,
        tick: Tick = no_tick,
    ) -> Field:
        """As `TriplaneLRM.field`; masks are needed here: both inputs of this network begin with the silhouettes."""
        if masks is None:
            raise ValueError("The mini reconstruction model needs the views' masks: put Mask Views before it, or wire the masks you have.")
        device = self.transformer.pos_embed.device
        volume = network_volume(images, masks, cameras)[None].to(device)
        poses = triplane_cameras(cameras)[None].to(device)
        planes = self.planes_of(images[None].to(device), poses, volume, dtype=dtype, attention=attention, tick=tick)
        heads: Any = copy.deepcopy(self.synthesizer.decoder).to("cpu", torch.float32).requires_grad_(False)
        views = PosedViews(torch.cat([images, masks], dim=1).cpu(), cameras.c2w, cameras.K)
        return ProjectedField(planes[0].cpu(), heads, views, grid_res=self.config.grid_res, grid_scale=self.config.grid_scale)

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
