"""IMAGE and MASK at sockets: between (N, H, W, C) and Lathe's (N, C, H, W), checked."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ...pipelines.data.views import SOLID
from ...pipelines.images.mask_polarity import INVERT_ALPHA, tell_inverted

log = logging.getLogger(__name__)

OVERSHOOT = 0.25  # beyond [0, 1], as fractions of it
NO_MASK = (64, 64)  # an empty mask of this size is what core's Load Image gives for a picture without alpha


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
    _tell_range(pixels)
    if pixels.shape[1] == 1:
        pixels = pixels.expand(-1, 3, -1, -1)
    return pixels.clamp(0, 1).contiguous()


def _tell_range(pixels: Tensor, kind: str = "IMAGE") -> None:
    """Warns of pixels so far outside [0, 1] that they were meant for another range; resizing and VAEs go a little beyond."""
    lowest, highest = float(pixels.min()), float(pixels.max())
    if lowest < -OVERSHOOT or highest > 1 + OVERSHOOT:
        log.warning(
            "The pixels of a %s go from %.4g to %.4g and are cut to 0..1: bring them to that range first, for instance by dividing "
            "numbers up to 255 by 255.", kind, lowest, highest,
        )  # fmt: skip


def frames_in(image: Tensor) -> Tensor:
    """An IMAGE (N, H, W, C) that is handed on beside another: float32 with 3 channels, or 4 where it has alpha; otherwise as it is."""
    frames = _shares(image)
    return frames.expand(*frames.shape[:-1], 3) if frames.shape[-1] == 1 else frames


def alpha_in(image: Tensor) -> Tensor | None:
    """The alpha of a four-channel IMAGE as (N, 1, H, W), 1 = object; None where the image has none."""
    if image.ndim != 4 or image.shape[-1] != 4:
        return None
    return _shares(image[..., 3]).clamp(0, 1)[:, None].contiguous()


def _shares(values: Tensor) -> Tensor:
    """float32, whole numbers as shares of the largest their kind holds."""
    values, full = values.detach(), {torch.uint8: 255, torch.uint16: 65535}.get(values.dtype)
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
    mask = _shares(mask)
    if not bool(torch.isfinite(mask).all()):
        raise ValueError("The mask holds numbers that are NaN or infinite.")
    _tell_range(mask, "MASK")
    return mask.clamp(0, 1)[:, None].contiguous()


def object_masks_in(mask: Tensor, socket: str = "masks") -> Tensor:
    """`masks_in` of masks that are 1 on the object. Empty ones, and those that seem to be 1 on the background, are warned of by the
    socket's name."""
    masks = masks_in(mask)
    if not bool((masks > SOLID).any()) and masks.shape[-2:] != NO_MASK:
        log.warning("%s: no mask shows an object. Masks are 1 on the object; check the node wired to it.", socket)
    tell_inverted(masks, socket)
    return masks


def outlines_in(images: Tensor, masks: Tensor | None, socket: str = "masks", images_socket: str = "images") -> Tensor | None:
    """Where the object is, (N, 1, H, W): the masks, else the IMAGE's alpha channel, else None. Warns as `object_masks_in`."""
    if masks is not None:
        return object_masks_in(masks, socket)
    alpha = alpha_in(images)
    if alpha is not None:
        tell_inverted(alpha, images_socket, INVERT_ALPHA, "alpha channel")
    return alpha


def masks_out(masks: Tensor) -> Tensor:
    """(N, 1, H, W) -> MASK (N, H, W) float32 in [0, 1] on the CPU."""
    return masks.detach().to("cpu", torch.float32).clamp(0, 1)[:, 0].contiguous()
