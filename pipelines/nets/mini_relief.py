"""The relief network of the mini view model: how deep the object of a picture is, pixel by pixel, front and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, silu, softplus

WIDTHS = (24, 48, 96, 160)


@dataclass(frozen=True)
class Relief:
    """What the network sees in a square picture. Lengths are in half frames: the frame is 2 wide at the object's middle.

    Attributes:
        front: (B, 1, S, S) depth of the visible surface behind the object's middle; negative is nearer.
        back: (B, 1, S, S) depth of the last surface along the same ray, behind `front`.
        back_color: (B, 3, S, S) its colour, in [0, 1].
        elevation: (B,) of the camera, radians.
    """

    front: Tensor
    back: Tensor
    back_color: Tensor
    elevation: Tensor


class Block(nn.Module):
    """Two convolutions behind group norms."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, before), nn.GroupNorm(8, after)
        self.conv1, self.conv2 = nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 3, padding=1)
        self.skip = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, after, H, W)."""
        return self.skip(x) + self.conv2(silu(self.norm2(self.conv1(silu(self.norm1(x))))))


class ReliefNet(nn.Module):
    """A U-Net from a picture on white and its mask to a `Relief`. The side is a multiple of 8."""

    def __init__(self) -> None:
        super().__init__()
        first = WIDTHS[0]
        self.stem = nn.Conv2d(4, first, 3, padding=1)
        self.down = nn.ModuleList(Block(a, b) for a, b in zip((first, *WIDTHS[:-1]), WIDTHS, strict=True))
        self.middle = Block(WIDTHS[-1], WIDTHS[-1])
        up = list(reversed(WIDTHS))
        self.up = nn.ModuleList(Block(a + b, b) for a, b in zip(up[:-1], up[1:], strict=True))
        self.head = nn.Conv2d(first, 5, 3, padding=1)
        self.tilt = nn.Linear(WIDTHS[-1], 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.tilt.weight)

    def forward(self, images: Tensor, masks: Tensor) -> Relief:
        """(B, 3, S, S) and (B, 1, S, S) in [0, 1]."""
        x = self.stem(torch.cat([images, masks], dim=1) * 2 - 1)
        kept = []
        for index, block in enumerate(self.down):
            x = block(x if index == 0 else nn.functional.avg_pool2d(x, 2))
            kept.append(x)
        x = self.middle(x)
        elevation = 0.26 + self.tilt(x.float().mean((2, 3)))[:, 0]
        for block, skip in zip(self.up, reversed(kept[:-1]), strict=True):
            x = block(torch.cat([interpolate(x, scale_factor=2.0), skip], dim=1))
        out = self.head(silu(x)).float()
        front = out[:, :1] - 0.3
        back = front + softplus(out[:, 1:2] - 0.4)
        return Relief(front, back, torch.sigmoid(out[:, 2:]), elevation)
