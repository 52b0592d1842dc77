"""The sRGB transfer curve (IEC 61966-2-1): pictures and textures are sRGB, glTF's vertex colours are linear."""

from __future__ import annotations

import torch
from torch import Tensor


def srgb_to_linear(color: Tensor) -> Tensor:
    """sRGB values in [0, 1], any shape -> linear light."""
    return torch.where(color <= 0.04045, color / 12.92, ((color.clamp(min=0) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(color: Tensor) -> Tensor:
    """Linear light in [0, 1], any shape -> sRGB values."""
    return torch.where(color <= 0.0031308, color * 12.92, 1.055 * color.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)
