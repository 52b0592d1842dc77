"""The object in a picture: found, cut out, centred on a square, laid on a colour.

Sizes as InstantMesh prepares its input: the object's longer side takes 0.85 of the square.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from . import plain_background

METHODS = ("plain_background", "half_contrast", "background_removal", "alpha")

Remover = Callable[[Tensor], Tensor]
"""(3, H, W) in [0, 1] -> (H, W) mask, 1 = object: a background-removal network."""

# The object's box is where the mask exceeds this; keying and background removal work on at most this many pixels a side.
BOX_THRESHOLD = 0.1
WORKING_SIDE = 2048


def mask_from_socket(mask: Tensor | None, mask_is: str = "object") -> Tensor | None:
    """A mask as the host's sockets carry it -> 1 = object, or None where it says nothing.

    Args:
        mask: (H, W) or (1, H, W).
        mask_is: "object" (1 = object) or "transparency" (1 = see-through, what core's LoadImage gives).

    Returns:
        (H, W), or None: no mask, the all-zero 64 x 64 of a picture without alpha, or a transparency mask without any transparency.
    """
    if mask_is not in ("object", "transparency"):
        raise ValueError(f'mask_is must be "object" or "transparency", not {mask_is!r}.')
    if mask is None:
        return None
    if mask.ndim not in (2, 3) or (mask.ndim == 3 and mask.shape[0] != 1):
        raise ValueError(f"A mask of one picture has shape (H, W) or (1, H, W), not {tuple(mask.shape)}.")
    flat = mask.reshape(mask.shape[-2:]).float()
    if not flat.any() and (mask_is == "transparency" or flat.shape == (64, 64)):
        return None
    return 1 - flat if mask_is == "transparency" else flat


def prepare(
    image: Tensor,
    mask: Tensor | None = None,
    *,
    size: int,
    foreground_ratio: float = 0.85,
    background: tuple[float, float, float] = (1.0, 1.0, 1.0),
    remover: Remover | None = None,
) -> tuple[Tensor, Tensor]:
    """The object alone, centred.

    Where it is: the mask, else the picture's own alpha, else background removal, else a key on the plain background.

    Args:
        image: (C, H, W), C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA; float in [0, 1], uint8 or uint16. Colours are straight.
        mask: (H, W) or (1, H, W), 1 = object.
        size: side of the result in pixels.
        foreground_ratio: share of the side the object's longer side takes.
        background: colour behind the object, in [0, 1].
        remover: background-removal network, where there is one.

    Returns:
        image (3, size, size) and mask (1, size, size), float32 in [0, 1].

    Raises:
        ValueError: not a picture, NaN, a mask of another shape, an empty mask, no object found, a background that is not plain.
    """
    if not 1 <= size <= 8192:
        raise ValueError(f"Prepare image: the size must lie between 1 and 8192 pixels, not {size}.")
    if not 0.05 <= foreground_ratio <= 1:
        raise ValueError(f"Prepare image: the foreground ratio must lie between 0.05 and 1, not {foreground_ratio}.")
    color, alpha = _picture(image)
    key_color = None
    if mask is not None:
        mask = _fitting(mask, color)
        if not (mask > BOX_THRESHOLD).any():
            raise ValueError("Prepare image: the mask is empty. Is it inverted? Lathe's masks are 1 on the object (see mask_is).")
    elif alpha is not None and float(alpha.min()) < 0.999:
        mask = alpha
        if not (mask > BOX_THRESHOLD).any():
            raise ValueError("No object found: the picture is transparent everywhere.")
    else:
        mask, key_color = _find(color, remover)
    top, left, bottom, right = _box(mask, color.shape[-2:])
    # Beyond the box: its soft edge, and what the resampling kernel reaches.
    margin = 2 + round(0.02 * max(bottom - top, right - left))
    rows = max(0, int(top) - margin), min(color.shape[1], int(bottom) + 1 + margin)
    columns = max(0, int(left) - margin), min(color.shape[2], int(right) + 1 + margin)
    scale = size * foreground_ratio / max(bottom - top, right - left)
    cut = _resample(_cut(color, mask, key_color, rows, columns, scale), rows, columns, scale)
    canvas = torch.zeros(4, size, size)
    _paste(cut, canvas, size / 2 - ((top + bottom) / 2 - rows[0]) * scale, size / 2 - ((left + right) / 2 - columns[0]) * scale)
    flat = canvas[:3] + (1 - canvas[3:]) * torch.tensor(background, dtype=torch.float32).view(3, 1, 1)
    return flat.clamp(0, 1), canvas[3:].clone()


def key_plain_background(image: Tensor) -> Tensor:
    """(3, H, W) in [0, 1] -> (H, W) mask of what stands before a plain background; see `plain_background.key`."""
    return plain_background.key(_picture(image)[0])[0]


def mask_views(images: Tensor, method: str, remover: Remover | None = None) -> Tensor:
    """The masks of a batch of views, each on its own; nothing is moved.

    Args:
        images: (N, 3, H, W) in [0, 1]; (N, 4, H, W) for "alpha".
        method: one of `METHODS`.
        remover: the network of "background_removal".

    Returns:
        (N, 1, H, W) in [0, 1], 1 = object.

    Raises:
        ValueError: unknown method, no alpha, no remover; no object or no plain background, and in which view.
    """
    if method not in METHODS:
        raise ValueError(f"There is no masking method {method!r}; choose one of {', '.join(METHODS)}.")
    if images.ndim != 4:
        raise ValueError(f"Mask views: views have shape (N, 3, H, W), not {tuple(images.shape)}.")
    if method == "alpha" and images.shape[1] not in (2, 4):
        raise ValueError("Mask views: these views have no alpha channel; choose plain_background or background_removal.")
    if method == "background_removal" and remover is None:
        raise ValueError("Mask views: background removal needs its network; see Prepare Image's help, or choose plain_background.")
    masks = []
    for index, view in enumerate(images):
        try:
            color, alpha = _picture(view)
            if alpha is not None and method == "alpha":
                masks.append(alpha)
            elif method == "half_contrast":
                masks.append(plain_background.key_half(color))
            else:
                masks.append(_find(color, remover if method == "background_removal" else None)[0])
        except ValueError as error:
            raise ValueError(f"View {index}: {error}") from error
    return torch.stack(masks)[:, None]


# ---- pieces ----------------------------------------------------------------------------------------------------------


def _picture(image: Tensor) -> tuple[Tensor, Tensor | None]:
    """RGB (3, H, W) and alpha (H, W) or None, float32 on the CPU in [0, 1]; views of the input where they can be."""
    if image.ndim == 2:
        image = image[None]
    if image.ndim != 3 or image.shape[0] not in (1, 2, 3, 4) or image.numel() == 0:
        raise ValueError(f"A picture has shape (C, H, W) with 1 to 4 channels, not {tuple(image.shape)}.")
    full = {torch.uint8: 255, torch.uint16: 65535}.get(image.dtype)
    if full is None and not image.is_floating_point():
        raise ValueError(f"A picture holds numbers in [0, 1], uint8 or uint16, not {image.dtype}.")
    image = image.detach().cpu().float()
    if full is not None:
        image = image / full
    low, high = (float(x) for x in torch.aminmax(image))
    if not (low > -0.5 and high < 1.5):  # also NaN, which aminmax passes on
        raise ValueError(f"A picture's values must be finite and in [0, 1]; they run from {low:g} to {high:g}.")
    if low < 0 or high > 1:
        image = image.clamp(0, 1)
    color = image[:3] if image.shape[0] >= 3 else image[:1].expand(3, -1, -1)
    return color, image[-1] if image.shape[0] in (2, 4) else None


def _fitting(mask: Tensor, color: Tensor) -> Tensor:
    """The mask (H, W) in [0, 1] at the picture's size; one of the same proportions is resized."""
    mask = mask.detach().cpu().float()
    if mask.ndim == 3 and mask.shape[0] == 1:
        mask = mask[0]
    height, width = color.shape[-2:]
    if mask.ndim != 2 or abs(mask.shape[0] * width - mask.shape[1] * height) > 0.02 * mask.shape[0] * width:
        raise ValueError(f"Prepare image: the mask's shape {tuple(mask.shape)} does not fit a picture of {height} x {width} pixels.")
    if not torch.isfinite(mask).all():
        raise ValueError("Prepare image: the mask holds NaN or infinite numbers.")
    if mask.shape != color.shape[-2:]:
        mask = F.interpolate(mask[None, None], size=(height, width), mode="bilinear", antialias=True)[0, 0]
    return mask.clamp(0, 1)


def _find(color: Tensor, remover: Remover | None) -> tuple[Tensor, Tensor | None]:
    """Mask (h, w) of the whole picture, at most WORKING_SIDE a side, and the background's colour where it is known."""
    longest = max(color.shape[-2:])
    if longest > WORKING_SIDE:
        shape = tuple(max(1, side * WORKING_SIDE // longest) for side in color.shape[-2:])
        color = F.interpolate(color[None], size=shape, mode="area")[0]
    if remover is None:
        return plain_background.key(color)
    mask = remover(color)
    if not (mask > BOX_THRESHOLD).any():
        raise ValueError(plain_background.NOTHING_FOUND)
    return mask, None


def _box(mask: Tensor, shape: torch.Size) -> tuple[float, float, float, float]:
    """Top, left, bottom, right of the mask's content, in pixels of a picture of `shape`."""
    edges = []
    for axis in (0, 1):
        hits = (mask > BOX_THRESHOLD).any(dim=1 - axis).nonzero()
        unit = shape[axis] / mask.shape[axis]
        edges.append((float(hits[0]) * unit, float(hits[-1] + 1) * unit))
    return edges[0][0], edges[1][0], edges[0][1], edges[1][1]


def _cut(color: Tensor, mask: Tensor, key_color: Tensor | None, rows: tuple[int, int], columns: tuple[int, int], scale: float) -> Tensor:
    """The premultiplied RGBA (4, h, w) of a part of the picture, averaged over k x k pixels where it will shrink by more than 2 k.

    Premultiplied colours resample without fringes; bands of rows keep the memory of huge pictures bounded.
    """
    k = max(1, int(0.5 / scale))
    unit_y, unit_x = color.shape[1] / mask.shape[0], color.shape[2] / mask.shape[1]
    x = (torch.arange(*columns) + 0.5) / unit_x - 0.5
    bands = []
    for start in range(rows[0], rows[1], 64 * k):
        stop = min(start + 64 * k, rows[1])
        band = color[:, start:stop, columns[0] : columns[1]]
        if unit_x == unit_y == 1:
            alpha = mask[start:stop, columns[0] : columns[1]]
        else:
            alpha = _bilinear(mask, (torch.arange(start, stop) + 0.5) / unit_y - 0.5, x)
        if key_color is None:
            premultiplied = band * alpha
        else:
            # The background's share of each pixel is known: taking it out leaves the object's.
            premultiplied = torch.minimum((band - (1 - alpha) * key_color.view(3, 1, 1)).clamp_min(0), alpha)
        whole = torch.cat([premultiplied, alpha[None]])
        if k > 1:
            whole = F.pad(whole, (0, -whole.shape[2] % k, 0, -whole.shape[1] % k))
            whole = F.avg_pool2d(whole, k)
        bands.append(whole)
    return torch.cat(bands, dim=1)


def _bilinear(mask: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """(H, W) sampled at rows y (h,) and columns x (w,), in pixels from the first one's centre -> (h, w)."""
    y, x = y.clamp(0, mask.shape[0] - 1), x.clamp(0, mask.shape[1] - 1)
    y0, x0 = y.long().clamp_max(max(mask.shape[0] - 2, 0)), x.long().clamp_max(max(mask.shape[1] - 2, 0))
    y1, x1 = (y0 + 1).clamp_max(mask.shape[0] - 1), (x0 + 1).clamp_max(mask.shape[1] - 1)
    fy, fx = (y - y0)[:, None], (x - x0)[None]
    first = int(y0[0])
    part = mask[first : int(y1[-1]) + 1]
    across = torch.lerp(part[:, x0], part[:, x1], fx)
    return torch.lerp(across[y0 - first], across[y1 - first], fy)


def _resample(cut: Tensor, rows: tuple[int, int], columns: tuple[int, int], scale: float) -> Tensor:
    """The cut at its final size: the picture's pixels times `scale`."""
    k = max(1, int(0.5 / scale))
    # The cut is padded to whole blocks, so its extent is counted from its own size.
    shape = tuple(max(1, round(n * k * scale)) for n in cut.shape[-2:])
    cut = F.interpolate(cut[None], size=shape, mode="bicubic", antialias=True)[0].clamp_min(0)
    # The kernel overshoots along the outline, colour and coverage alike: divided by the coverage, the colour stays what it was.
    cut = cut / cut[3:].clamp_min(1)
    return torch.cat([torch.minimum(cut[:3], cut[3:]), cut[3:]])


def _paste(cut: Tensor, canvas: Tensor, top: float, left: float) -> None:
    """Lays the cut on the canvas with its corner at (top, left), whatever falls outside left away."""
    height, width = canvas.shape[-2:]
    y, x = round(top), round(left)
    y0, x0, y1, x1 = max(y, 0), max(x, 0), min(y + cut.shape[1], height), min(x + cut.shape[2], width)
    canvas[:, y0:y1, x0:x1] = cut[:, y0 - y : y1 - y, x0 - x : x1 - x]
