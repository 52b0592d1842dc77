"""Keying: the mask of an object in front of one plain colour."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

NOTHING_FOUND = (
    "No object found: nothing in the picture differs from its background. Wire a mask, give a picture with transparency, or a background "
    "that differs from the object."
)
NOT_PLAIN = (
    "The background is not one plain colour (only {share:.0%} of the picture's border is close to {color}). Wire a mask, give a picture "
    "with transparency, or use background removal."
)


def key(image: Tensor) -> tuple[Tensor, Tensor]:
    """The object's mask and the background's colour.

    The colour is the median of the picture's border. What is close to it and connected to the border is background; a patch of the same
    colour inside the object stays. Pixels along the outline get the share of the object in them, I = a F + (1 - a) B, with the strongest
    neighbour as F.

    Args:
        image: (3, H, W) in [0, 1].

    Returns:
        (H, W) mask in [0, 1], 1 = object; (3,) colour.

    Raises:
        ValueError: the border is not one plain colour, or nothing stands before it.
    """
    pixels = image.detach().float().cpu().numpy()
    border = _border(pixels)
    color = np.median(border, axis=1)
    noise = float(np.median(_distance(border, color)))
    tolerance = float(np.clip(6 * noise, 0.05, 0.2))
    share = float((_distance(border, color) < tolerance).mean())
    if share < 0.5:
        raise ValueError(NOT_PLAIN.format(share=share, color="RGB " + " ".join(f"{c * 255:.0f}" for c in color)))
    distance = _distance(pixels, color)
    inside = _inside(_close(distance, tolerance))
    return torch.from_numpy(_soften(inside, distance, noise)), torch.from_numpy(color.astype(np.float32))


def key_half(image: Tensor) -> Tensor:
    """The mask of an object painted softly on a plain background, as the mini view model paints it.

    Such a picture is a mean of sharp ones, so a pixel's contrast with the background, relative to the strongest in the picture,
    says how many of those have the object there. The object is where at least half of them do.

    Args:
        image: (3, H, W) in [0, 1].

    Returns:
        (H, W) mask in [0, 1], 1 = object.

    Raises:
        ValueError: nothing stands before the background.
    """
    pixels = image.detach().float().cpu().numpy()
    distance = _distance(pixels, np.median(_border(pixels), axis=1))
    strongest = float(np.quantile(distance, 0.97))
    if strongest < 0.05:
        raise ValueError(NOTHING_FOUND)
    # a pale object's strongest contrast is no more than the view's unrest
    share = distance / max(strongest, 0.1)
    return torch.from_numpy(np.clip((share - 0.5) * 6 + 0.5, 0, 1).astype(np.float32))


def _distance(pixels: Any, color: Any) -> Any:
    return np.abs(pixels - color.reshape(3, *[1] * (pixels.ndim - 1))).max(0)


def _border(pixels: Any) -> Any:
    height, width = pixels.shape[1:]
    n = max(1, min(height, width) // 50)
    sides = (pixels[:, :n], pixels[:, -n:], pixels[:, :, :n], pixels[:, :, -n:])
    return np.concatenate([side.reshape(3, -1) for side in sides], axis=1)


def _close(distance: Any, tolerance: float) -> Any:
    """Where a pixel may be background: close to its colour, or far closer than what it borders on, as compression leaves along outlines."""
    from scipy import ndimage

    reach = max(1, round(min(distance.shape) / 128))
    return distance < np.maximum(tolerance, 0.2 * ndimage.maximum_filter(distance, 2 * reach + 1))


def _inside(close: Any) -> Any:
    """What the flood from the border does not reach, without specks."""
    from scipy import ndimage

    # Four neighbours for the background: it does not leak through the diagonal gaps of a thin outline.
    regions, _ = ndimage.label(close)
    reached = np.unique(np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]]))
    inside = ~np.isin(regions, reached[reached > 0])
    pieces, count = ndimage.label(inside, structure=np.ones((3, 3)))
    areas = np.bincount(pieces.ravel(), minlength=count + 1)
    areas[0] = 0
    if areas.max() <= 2e-5 * inside.size:
        raise ValueError(NOTHING_FOUND)
    return (areas >= max(0.002 * areas.max(), 2))[pieces] if areas.max() > 1 else inside


def _soften(inside: Any, distance: Any, noise: float) -> Any:
    from scipy import ndimage

    square = np.ones((3, 3))
    inner = inside & ndimage.binary_dilation(~inside, square)
    outer = ~inside & ndimage.binary_dilation(inside, square)
    object_distance = np.where(inside, distance, 0)
    strongest = np.where(outer, ndimage.maximum_filter(object_distance, 5), ndimage.maximum_filter(object_distance, 3))
    share = np.clip((distance - noise) / np.maximum(strongest - noise, 1e-3), 0, 1)
    return np.where(inner | outer, share, inside).astype(np.float32)
