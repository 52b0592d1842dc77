"""LPIPS with the VGG16 backbone (Zhang et al., CVPR 2018, "The Unreasonable Effectiveness of Deep Features", version 0.1 heads).

The weights are not bundled: ImageNet's VGG16 and the fitted heads are read from an InstantMesh checkpoint that still holds its
training-only `lpips.*` entries, or from torchvision's VGG16 file together with the heads of the lpips package.
For the network that ships with the project see `nets.perceptual`; the two are never the same number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .perceptual import check_pair

# per slice: (index in torchvision's vgg16.features, input channels, output channels)
SLICES = (
    ((0, 3, 64), (2, 64, 64)),
    ((5, 64, 128), (7, 128, 128)),
    ((10, 128, 256), (12, 256, 256), (14, 256, 256)),
    ((17, 256, 512), (19, 512, 512), (21, 512, 512)),
    ((24, 512, 512), (26, 512, 512), (28, 512, 512)),
)
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pictures in [-1, 1]


class LPIPS(nn.Module):
    """The distance of eq. 1 of the paper, with entries named `slice{1..5}.{index}` and `lin{0..4}`."""

    name = "lpips_vgg"

    def __init__(self) -> None:
        super().__init__()
        for number, convs in enumerate(SLICES, 1):
            self.add_module(f"slice{number}", nn.ModuleDict({str(i): nn.Conv2d(a, b, 3, padding=1) for i, a, b in convs}))
            self.register_parameter(f"lin{number - 1}", nn.Parameter(torch.zeros(1, convs[-1][2], 1, 1)))
        self.register_buffer("shift", torch.tensor(SHIFT).reshape(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).reshape(1, 3, 1, 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] -> relu1_2, relu2_2, relu3_3, relu4_3, relu5_3."""
        out, x = [], (images * 2 - 1 - self.shift) / self.scale
        for number in range(1, len(SLICES) + 1):
            x = F.max_pool2d(x, 2) if number > 1 else x
            for conv in self.get_submodule(f"slice{number}").children():
                x = F.relu(conv(x))
            out.append(x)
        return out

    def distance(self, first: Tensor, second: Tensor) -> Tensor:
        """(B,) LPIPS between (B, 3, H, W) pictures in [0, 1], 16 pixels a side or more."""
        check_pair(first, second)
        if min(first.shape[2:]) < 16:
            raise ValueError(f"LPIPS needs pictures of 16 pixels a side or more, not {tuple(first.shape[2:])}.")
        total = first.new_zeros(len(first))
        for index, (a, b) in enumerate(zip(self(first), self(second), strict=True)):
            # the published form: the small number is added outside the root
            a, b = (x / (x.square().sum(dim=1, keepdim=True).clamp_min(1e-30).sqrt() + 1e-10) for x in (a, b))
            total = total + ((a - b).square() * self.get_parameter(f"lin{index}")).sum(dim=1).mean(dim=(1, 2))
        return total


def from_state_dict(state: Mapping[str, Tensor]) -> LPIPS:
    """LPIPS from entries that end in `slice{k}.{index}.weight|bias` or `features.{index}.weight|bias`, and `lin{k}.model.1.weight`.

    Any prefix is accepted: `lpips.net.net.slice1.0.weight` in a checkpoint of torchmetrics' form, `net.slice1.0.weight` in the
    lpips package's, `features.0.weight` in torchvision's.

    Raises:
        ValueError: entries are missing or have another shape; the message names the first of them.
    """
    slice_of = {index: number for number, convs in enumerate(SLICES, 1) for index, _, _ in convs}
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if match := re.search(r"(?:^|\.)(?:slice\d|features)\.(\d+)\.(weight|bias)$", name):
            if int(match[1]) in slice_of:
                found[f"slice{slice_of[int(match[1])]}.{match[1]}.{match[2]}"] = value.float()
        elif match := re.search(r"(?:^|\.)(lin[0-4])\.model\.1\.weight$", name):
            found[match[1]] = value.float()
    net = LPIPS()
    for name, own in net.state_dict().items():
        if name in ("shift", "scale"):
            found[name] = own
        elif name not in found or found[name].shape != own.shape:
            got = f"has shape {tuple(found[name].shape)}" if name in found else "is missing"
            raise ValueError(
                f"LPIPS: {name} {got}, expected {tuple(own.shape)}. Give an InstantMesh checkpoint with its lpips entries, "
                "or torchvision's VGG16 file and the lpips package's vgg.pth."
            )
    net.load_state_dict(found)
    return net.requires_grad_(False).eval()


def load_lpips(*paths: Path) -> LPIPS:
    """LPIPS from the given files together: one checkpoint, or a backbone and the heads.

    Raises:
        ValueError: no file is given, one does not exist or cannot be read, or entries are missing.
    """
    if not paths or not all(Path(path).is_file() for path in paths):
        named = ", ".join(str(path) for path in paths) or "none"
        raise ValueError(
            f"LPIPS weights are not on disk (looked for: {named}). They do not ship with this pack: put an InstantMesh checkpoint with its "
            "lpips entries, or torchvision's vgg16-397923af.pth and the lpips package's vgg.pth, into a folder and name the files."
        )
    from ..disk.state_dicts import read_state_dict

    state: dict[str, Tensor] = {}
    for path in paths:
        state.update(read_state_dict(path))
    return from_state_dict(state)
