"""IMAGE and MASK at sockets: between (N, H, W, C) and Lathe's (N, C, H, W), checked."""

from __future__ import annotations

import torch
from torch import Tensor


def images_in(image: Tensor) -> Tensor:
    """IMAGE (N, H, W, C) -> (N, 3, H, W) float32 in [0, 1]. An alpha channel is dropped (see `alpha_in`), grey is repeated; whole numbers
    of 8 and 16 bits, which some nodes hand on, are brought to that range.

    Raises:
        ValueError: another shape, no pixels, or pixels that are not finite.
    """
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4) or 0 in image.shape:
        raise ValueError(f"An IMAGE of shape (count, height, width, 1, 3 or 4 channels) is expected, this one is {tuple(image.shape)}.")
    pixels = _shares(image[..., :3]).movedim(-1, 1)
    bad = ~torch.isfinite(pixels).flatten(1).all(1)
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise ValueError(f"Image {first} holds pixels that are NaN or infinite; the node before made them (often a VAE in half precision).")
    if pixels.shape[1] == 1:
        pixels = pixels.expand(-1, 3, -1, -1)
    return pixels.clamp(0, 1).contiguous()


def alpha_in(image: Tensor) -> Tensor | None:
    """The alpha of a four-channel IMAGE as (N, 1, H, W), 1 = object; None where the image has none."""
    if image.ndim != 4 or image.shape[-1] != 4:
        return None
    return _shares(image[..., 3]).clamp(0, 1)[:, None].contiguous()


def _shares(values: Tensor) -> Tensor:
    """float32, whole numbers as shares of the largest their kind holds."""
    full = {torch.uint8: 255, torch.uint16: 65535}.get(values.dtype)
    return values.to(torch.float32) if full is None else values.to(torch.float32) / full


def images_out(images: Tensor) -> Tensor:
    """(N, 3, H, W) -> IMAGE (N, H, W, 3) float32 in [0, 1] on the CPU, without a gradient."""
    return images.detach().to("cpu", torch.float32).clamp(0, 1).movedim(1, -1).contiguous()


def masks_in(mask: Tensor) -> Tensor:
    """MASK (N, H, W) or (H, W) -> (N, 1, H, W) float32 in [0, 1]; which side is the object is the node's matter."""
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim == 4 and mask.shape[1] == 1:
        mask = mask[:, 0]
    if mask.ndim != 3 or 0 in mask.shape:
        raise ValueError(f"A MASK of shape (count, height, width) is expected, this one is {tuple(mask.shape)}.")
    if not bool(torch.isfinite(mask).all()):
        raise ValueError("The mask holds numbers that are NaN or infinite.")
    return mask.to(torch.float32).clamp(0, 1)[:, None].contiguous()


def masks_out(masks: Tensor) -> Tensor:
    """(N, 1, H, W) -> MASK (N, H, W) float32 in [0, 1] on the CPU."""
    return masks.detach().to("cpu", torch.float32).clamp(0, 1)[:, 0].contiguous()
