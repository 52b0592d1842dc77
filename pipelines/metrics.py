"""Measures of meshes and views: Chamfer distance and F-score, PSNR, SSIM, sharpness."""

from __future__ import annotations

import torch
from torch import Tensor

_LEAST_ERROR = 1e-10  # a mean squared error below this counts as equal pictures: 100 dB
_LUMA = (0.299, 0.587, 0.114)
MS_SSIM_SIDE = 161  # five scales of an 11-pixel window need more than 10 * 2^4 pixels


def nearest_distances(points: Tensor, others: Tensor) -> Tensor:
    """Distance from each of `points` (N, 3) to the nearest of `others` (M, 3): (N,) float64.

    Raises:
        ValueError: either set is empty.
    """
    from scipy.spatial import cKDTree

    if points.shape[0] == 0 or others.shape[0] == 0:
        raise ValueError("Comparing surfaces: one of the two point sets is empty.")
    distance, _ = cKDTree(others.double().numpy()).query(points.double().numpy())
    return torch.from_numpy(distance)


def chamfer(points: Tensor, truth: Tensor) -> float:
    """Chamfer distance of two point sets (N, 3) and (M, 3): mean distance there plus mean distance back, world units."""
    return float(nearest_distances(points, truth).mean() + nearest_distances(truth, points).mean())


def surface_scores(points: Tensor, truth: Tensor, thresholds: tuple[float, ...] = (0.2, 0.1, 0.05)) -> dict[str, float]:
    """`chamfer` and `fscore_<threshold>` of two point sets, with one search each way.

    The F-score is the harmonic mean of precision (share of `points` within the threshold of the truth) and recall (the reverse).
    """
    there, back = nearest_distances(points, truth), nearest_distances(truth, points)
    scores = {f"fscore_{threshold:g}": _fscore(there, back, threshold) for threshold in thresholds}
    return scores | {"chamfer": float(there.mean() + back.mean())}


def psnr(images: Tensor, truth: Tensor, masks: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio in dB of each view, (N,).

    Args:
        images, truth: (N, 3, H, W) in [0, 1].
        masks: (N, 1, H, W), only pixels above one half count; None counts all. A view without such a pixel counts all.

    Returns 100 dB where the pictures are equal.
    """
    _same_shape(images, truth)
    squared = (images.double() - truth.double()) ** 2
    if masks is None:
        error = squared.flatten(1).mean(1)
    else:
        weight = (masks > 0.5).double()
        weight = torch.where(weight.flatten(1).any(1)[:, None, None, None], weight, torch.ones_like(weight))
        error = (squared * weight).flatten(1).sum(1) / (weight.flatten(1).sum(1) * images.shape[1])
    return -10 * torch.log10(error.clamp(min=_LEAST_ERROR))


def box_masks(masks: Tensor) -> Tensor:
    """The bounding box of each view's object as a mask: (N, 1, H, W) masks -> the same shape, 1 inside the box."""
    inside = masks > 0.5
    rows, columns = inside.any(3, keepdim=True), inside.any(2, keepdim=True)
    return (_span(rows, 2) & _span(columns, 3)).to(masks.dtype)


def psnr_box(images: Tensor, truth: Tensor, truth_masks: Tensor) -> Tensor:
    """`psnr` inside the bounding box of the true object in each view, (N,): white background far from it counts nothing."""
    return psnr(images, truth, box_masks(truth_masks))


def ssim(images: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of each view, (N,), Gaussian window of 11 pixels; (N, 3, H, W) in [0, 1], at least 11 pixels a side."""
    from pytorch_msssim import ssim as windowed_ssim

    _same_shape(images, truth)
    return windowed_ssim(images.float(), truth.float(), data_range=1.0, size_average=False)


def ms_ssim(images: Tensor, truth: Tensor) -> Tensor:
    """Multi-scale structural similarity of each view, (N,), five scales (Wang et al., 2003); (N, 3, H, W) in [0, 1].

    Raises:
        ValueError: shapes differ, or a side has fewer than 161 pixels, so that the coarsest scale is smaller than its window.
    """
    from pytorch_msssim import ms_ssim as multi_scale_ssim

    _same_shape(images, truth)
    if min(images.shape[2:]) < MS_SSIM_SIDE:
        size = " x ".join(map(str, images.shape[2:]))
        raise ValueError(f"MS-SSIM needs pictures of at least {MS_SSIM_SIDE} pixels a side, not {size}; enlarge them, or take SSIM.")
    return multi_scale_ssim(images.float(), truth.float(), data_range=1.0, size_average=False)


def gradient_energy(images: Tensor, masks: Tensor) -> Tensor:
    """Mean squared gradient of the luminance over the pixels of each view's mask, (N,) float64; 0 where a mask is empty.

    The focus measure known as Tenengrad, without a threshold: Sobel's operator, scaled to a difference a pixel.

    Args:
        images: (N, 3, H, W) in [0, 1].  masks: (N, 1, H, W), pixels above one half count.
    """
    luma = (images.double() * torch.tensor(_LUMA, dtype=torch.float64).view(3, 1, 1)).sum(1, keepdim=True)
    across = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=torch.float64) / 8
    padded = torch.nn.functional.pad(luma, (1, 1, 1, 1), mode="replicate")
    squared = torch.nn.functional.conv2d(padded, torch.stack([across, across.T])[:, None]).square().sum(1, keepdim=True)
    inside = (masks > 0.5).double()
    return (squared * inside).flatten(1).sum(1) / inside.flatten(1).sum(1).clamp_min(1)


def sharpness(images: Tensor, truth: Tensor, truth_masks: Tensor) -> Tensor:
    """Gradient energy over the true object, as a fraction of the truth's, (N,): 1 is as sharp, below 1 blurred, above 1 noisy.

    Args:
        images, truth: (N, 3, H, W) in [0, 1].  truth_masks: (N, 1, H, W), 1 = object.
    """
    _same_shape(images, truth)
    return gradient_energy(images, truth_masks) / gradient_energy(truth, truth_masks).clamp_min(_LEAST_ERROR)


def _fscore(there: Tensor, back: Tensor, threshold: float) -> float:
    precision, recall = float((there < threshold).double().mean()), float((back < threshold).double().mean())
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def _span(occupied: Tensor, dim: int) -> Tensor:
    """True from the first to the last true entry along `dim`."""
    before = occupied.int().cummax(dim).values
    after = occupied.int().flip(dim).cummax(dim).values.flip(dim)
    return (before & after).bool()


def _same_shape(images: Tensor, truth: Tensor) -> None:
    if images.shape != truth.shape:
        raise ValueError(f"Comparing pictures: shapes differ, {tuple(images.shape)} against {tuple(truth.shape)}.")
