"""Reading textures."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_texture(texture: Tensor, uv: Tensor) -> Tensor:
    """Bilinear texture lookup that repeats outside the unit square, as glTF's default sampler does.

    Args:
        texture: (H, W, C), row 0 at the top.
        uv: (..., 2), origin at the top left corner of the texture, (1, 1) at the bottom right; texel centres at half integers.

    Returns:
        (..., C), differentiable with respect to both.
    """
    height, width, channels = texture.shape
    size = torch.tensor([width, height], device=uv.device)
    position = (uv - uv.detach().floor()) * size - 0.5
    low = position.detach().floor()
    fraction = (position - low)[..., None]
    column0, row0 = (low.long() % size).unbind(-1)
    column1, row1 = ((low.long() + 1) % size).unbind(-1)
    texels = texture.reshape(height * width, channels)

    def read(row: Tensor, column: Tensor) -> Tensor:
        return texels.index_select(0, (row * width + column).flatten()).view(*row.shape, channels)

    top = torch.lerp(read(row0, column0), read(row0, column1), fraction[..., 0, :])
    bottom = torch.lerp(read(row1, column0), read(row1, column1), fraction[..., 0, :])
    return torch.lerp(top, bottom, fraction[..., 1, :])
