"""A perceptual distance that ships with the project: features of VGG16's first three blocks, tuned for edges.

This is not LPIPS (see `nets.lpips`): the backbone is the VGG16 of a holistically-nested edge detector (Xie & Tu, ICCV 2015),
started from ImageNet, and no head was fitted to people's judgements. Its numbers compare with nothing but themselves.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BUNDLED = Path(__file__).resolve().parents[1] / "weights" / "mini" / "perceptual_vgg_hed.safetensors"
BLOCKS = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256))
BGR_MEAN = (104.00699, 116.66877, 122.67892)  # of pixel values 0..255, as the network was trained


def unit_normalise(features: Tensor, epsilon: float = 1e-8) -> Tensor:
    """(B, C, H, W) features scaled to unit length along C at every pixel. Smooth at zero."""
    return features * torch.rsqrt(features.square().sum(dim=1, keepdim=True) + epsilon)


def check_pair(first: Tensor, second: Tensor) -> None:
    """Raises ValueError unless both are (B, 3, H, W) pictures of one shape, at least 4 pixels a side."""
    if first.shape != second.shape or first.ndim != 4 or first.shape[1] != 3 or min(first.shape[2:]) < 4:
        raise ValueError(
            "A perceptual distance compares two batches of shape (B, 3, H, W), 4 pixels a side or more, "
            f"not {tuple(first.shape)} and {tuple(second.shape)}."
        )


class PerceptualNet(nn.Module):
    """conv1_1 .. conv3_3 of VGG16 on RGB pictures in [0, 1]."""

    name = "vgg_hed"

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in zip(widths[:-1], widths[1:], strict=True)) for widths in BLOCKS
        )
        self.register_buffer("mean", torch.tensor(BGR_MEAN).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] -> features after the last ReLU of each block, at 1, 1/2 and 1/4 of the size."""
        out, x = [], images.flip(1) * 255 - self.mean
        for index, block in enumerate(self.blocks):
            x = F.max_pool2d(x, 2, ceil_mode=True) if index else x
            for conv in block.children():
                x = F.relu(conv(x))
            out.append(x)
        return out

    def distance(self, first: Tensor, second: Tensor) -> Tensor:
        """(B,) squared distances of unit-normalised features, averaged over pixels and blocks; 0 for equal pictures, 2 at most."""
        check_pair(first, second)
        pairs = zip(self(first), self(second), strict=True)
        layers = [(unit_normalise(a) - unit_normalise(b)).square().sum(dim=1).mean(dim=(1, 2)) for a, b in pairs]
        return torch.stack(layers).mean(dim=0)


@lru_cache(maxsize=2)
def bundled(device: str = "cpu") -> PerceptualNet:
    """The network with the weights that ship with the project (MIT), float32, frozen. Shared: do not change it."""
    from safetensors.torch import load_file

    net = PerceptualNet()
    net.load_state_dict({name: value.float() for name, value in load_file(BUNDLED).items()})
    return net.requires_grad_(False).eval().to(device)


def perceptual_distance(first: Tensor, second: Tensor) -> Tensor:
    """(B,) distances between (B, 3, H, W) pictures in [0, 1] by the bundled network. Differentiable. Not LPIPS."""
    return bundled(str(first.device)).distance(first, second)
