"""What a picture of a fitted asset is compared with its target by. Everything here takes (B, C, H, W) and gives one number a picture.

Structural similarity is written out, because the published packages' gradient of its multi-scale form is NaN wherever a scale's
contrast correlates negatively, as at the start of a fit it does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, SIGMA = 11, 1.5
STABILISERS = (0.01**2, 0.03**2)  # of pictures in [0, 1]
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
LEAST_MS_SSIM_SIDE = (WINDOW - 1) * 2 ** (len(SCALE_WEIGHTS) - 1) + 1  # 161: four halvings leave the window's size


@dataclass(frozen=True)
class LossWeights:
    """How much each term counts; 0 leaves it out.

    Attributes:
        perceptual: distance of deep features.
        ms_ssim: 1 - MS-SSIM.
        mask: squared difference of opacity and mask.
        l1, l2: absolute and squared difference of pixels.
    """

    perceptual: float = 0.0
    ms_ssim: float = 0.0
    mask: float = 0.0
    l1: float = 0.0
    l2: float = 0.0


def l1(images: Tensor, targets: Tensor) -> Tensor:
    """(B,) mean absolute differences."""
    return (images - targets).abs().mean(dim=(1, 2, 3))


def l2(images: Tensor, targets: Tensor) -> Tensor:
    """(B,) mean squared differences; of opacities and masks it is the mask loss."""
    return (images - targets).square().mean(dim=(1, 2, 3))


def resize_area(images: Tensor, height: int, width: int) -> Tensor:
    """Pictures made smaller by averaging; as they are where they have that size already."""
    if images.shape[-2:] == (height, width):
        return images
    rows, columns = images.shape[-2] // height, images.shape[-1] // width
    if images.shape[-2:] == (height * rows, width * columns):
        return F.avg_pool2d(images, (rows, columns))
    return F.interpolate(images, size=(height, width), mode="area")


def fitting_size(height: int, width: int, longest: int) -> tuple[int, int]:
    """Height and width with a longest side of at most `longest` pixels, in proportion; 0 keeps them."""
    factor = longest / max(height, width)
    if longest <= 0 or factor >= 1:
        return height, width
    return max(round(height * factor), 1), max(round(width * factor), 1)


def ssim(images: Tensor, targets: Tensor) -> Tensor:
    """(B,) structural similarity (Wang et al. 2004), Gaussian window of 11 pixels without padding, mean over pixels and channels.

    Raises:
        ValueError: pictures below 11 pixels a side.
    """
    _check_side(images, WINDOW)
    return _similarity(images, targets)[0].mean(dim=1)


def ms_ssim(images: Tensor, targets: Tensor) -> Tensor:
    """(B,) multi-scale structural similarity (Wang et al. 2003, eq. 7) over five scales, each half the one before.

    Raises:
        ValueError: pictures below 161 pixels a side.
    """
    _check_side(images, LEAST_MS_SSIM_SIDE)
    product = None
    for scale, weight in enumerate(SCALE_WEIGHTS):
        if scale:
            odd = [side % 2 for side in images.shape[2:]]
            images, targets = (F.avg_pool2d(x, 2, padding=odd) for x in (images, targets))
        whole, contrast = _similarity(images, targets)
        factor = (whole if scale == len(SCALE_WEIGHTS) - 1 else contrast).clamp_min(1e-6) ** weight
        product = factor if product is None else product * factor
    assert product is not None
    return product.mean(dim=1)


def _check_side(images: Tensor, least: int) -> None:
    if min(images.shape[2:]) < least:
        raise ValueError(f"Structural similarity at this number of scales needs {least} pixels a side, not {tuple(images.shape[2:])}.")


def _similarity(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C) means of luminance x contrast x structure, and of contrast x structure alone."""
    channels = images.shape[1]
    axis = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    gaussian = torch.exp(-axis.square() / (2 * SIGMA**2))
    gaussian = (gaussian / gaussian.sum()).to(images)
    both = torch.cat([images, targets, images * images, targets * targets, images * targets], dim=1)
    kernel = gaussian.expand(both.shape[1], 1, 1, WINDOW)
    both = F.conv2d(both, kernel, groups=both.shape[1])
    both = F.conv2d(both, kernel.transpose(2, 3), groups=both.shape[1])
    mean_x, mean_y, square_x, square_y, cross = both.split(channels, dim=1)
    mean_xy, mean_xx, mean_yy = mean_x * mean_y, mean_x * mean_x, mean_y * mean_y
    c1, c2 = STABILISERS
    contrast = (2 * (cross - mean_xy) + c2) / ((square_x - mean_xx) + (square_y - mean_yy) + c2)
    whole = (2 * mean_xy + c1) / (mean_xx + mean_yy + c1) * contrast
    return whole.mean(dim=(2, 3)), contrast.mean(dim=(2, 3))
