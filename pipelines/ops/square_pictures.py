"""Pictures on square canvases, for networks that read squares: padded, not squeezed, and their cameras moved along."""

from __future__ import annotations

import logging

import torch
import torch.nn.functional as F
from torch import Tensor

log = logging.getLogger(__name__)


def pad_to_squares(pictures: Tensor, color: Tensor) -> Tensor:
    """Pictures (N, C, H, W) in the middle of squares of their longer side, on a colour (C,): (N, C, S, S)."""
    height, width = pictures.shape[-2:]
    side = max(height, width)
    if height == width:
        return pictures
    top, left = (side - height) // 2, (side - width) // 2
    canvas = color.to(pictures)[:, None, None].expand(len(pictures), -1, side, side).clone()
    canvas[:, :, top : top + height, left : left + width] = pictures
    return canvas


def square_views(pictures: Tensor, K: Tensor, color: Tensor) -> tuple[Tensor, Tensor]:
    """Views with pixels as wide as high on squares of their longer side, for networks that know one focal length.

    Args:
        pictures: (V, C, H, W) in [0, 1].
        K: (V, 4), as in `data.cameras`, for pictures of this size.
        color: (C,) of the squares.

    Returns:
        (V, C, S, S), S = max(H, W), and intrinsics (V, 4); square views of one focal length are as they were.
    """
    made = [_square_view(picture, k, color) for picture, k in zip(pictures, K, strict=True)]
    return torch.stack([picture for picture, _ in made]), torch.stack([k for _, k in made])


def _square_view(picture: Tensor, K: Tensor, color: Tensor) -> tuple[Tensor, Tensor]:
    fx, fy, cx, cy = K.tolist()
    side, longest = max(picture.shape[-2:]), max(1 / fx, 1 / fy)
    height, width = (max(1, round(side / focal / longest)) for focal in (fy, fx))
    if (height, width) != tuple(picture.shape[-2:]):
        picture = F.interpolate(picture[None], (height, width), mode="bicubic", antialias=True)[0].clamp(0, 1)
    if height == width:
        return picture, K
    top, left = (side - height) // 2, (side - width) // 2
    moved = K.new_tensor([fx * width / side, fy * height / side, (cx * width + left) / side, (cy * height + top) / side])
    return pad_to_squares(picture[None], color)[0], moved


def warn_of_padding(stage: str, pictures: Tensor, advice: str) -> None:
    """Says that pictures (..., H, W) which are not square are padded; `advice` is a sentence."""
    height, width = pictures.shape[-2:]
    if height != width:
        log.warning(
            "%s: the pictures are %d x %d pixels and the network reads squares, so they are padded to %d x %d with its background. %s",
            stage, width, height, max(height, width), max(height, width), advice,
        )  # fmt: skip
