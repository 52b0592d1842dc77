"""Which perceptual distance a fit uses: LPIPS where its files are on disk, else the network that ships with the project."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..nets import perceptual as bundled_net
from ..nets.lpips import LPIPS, load_lpips
from ..nets.perceptual import PerceptualNet

log = logging.getLogger(__name__)

# LPIPS as it is published: one file with everything, or ImageNet's VGG16 and the fitted heads
LPIPS_FILES = (("lpips_vgg.safetensors",), ("vgg16-397923af.pth", "vgg.pth"))
LEAST_SIDE = 16  # VGG16 halves four times


class Perceptual:
    """A perceptual distance in two halves, so that what a target looks like to the network is computed once.

    Attributes:
        net: LPIPS or the bundled network, frozen.
        name: "lpips_vgg" or "vgg_hed": distances of different networks do not compare.
    """

    def __init__(self, net: LPIPS | PerceptualNet) -> None:
        self.net, self.name = net, net.name

    def to(self, device: torch.device | str) -> Perceptual:
        """The same on another device."""
        self.net.to(device)
        return self

    def embed(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] -> maps whose squared differences, summed over channels, averaged over pixels, add up to it."""
        maps = [bundled_net.unit_normalise(features) for features in self.net(images)]
        if isinstance(self.net, LPIPS):  # its heads weigh squared differences, never below 0
            heads = [self.net.get_parameter(f"lin{i}").clamp_min(0).sqrt() for i in range(len(maps))]
            return [features * head for features, head in zip(maps, heads, strict=True)]
        return [features / len(maps) ** 0.5 for features in maps]

    @staticmethod
    def between(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
        """(B,) distances of two embedded batches."""
        layers = [(a - b).square().sum(dim=1).mean(dim=(1, 2)) for a, b in zip(first, second, strict=True)]
        return torch.stack(layers).sum(dim=0)

    @staticmethod
    def bytes_of_maps(height: int, width: int) -> int:
        """Memory of one embedded picture, roughly (the two largest blocks of VGG16 are nearly all of it)."""
        return 4 * height * width * (64 + 128 // 4 + 256 // 16 + 512 // 64 + 512 // 256)


def load_perceptual(folders: Sequence[Path] = (), device: torch.device | str = "cpu") -> Perceptual:
    """LPIPS where one of `LPIPS_FILES` lies in one of the folders, else the bundled network; the log says which.

    Raises:
        ValueError: such a file is there but damaged.
    """
    for folder in folders:
        for names in LPIPS_FILES:
            files = [Path(folder) / name for name in names]
            if all(file.is_file() for file in files):
                log.info("Perceptual loss: LPIPS (VGG16) from %s.", ", ".join(map(str, files)))
                return Perceptual(load_lpips(*files)).to(device)
    log.info("Perceptual loss: the bundled VGG features (LPIPS is used where %s are in a model folder).", " and ".join(LPIPS_FILES[1]))
    return Perceptual(bundled_net.bundled(str(device)))
