"""Views of assets: an IMAGE batch in asset-major order, its masks and its cameras, and what must hold between the three."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .cameras import Cameras

log = logging.getLogger(__name__)

LEAST_VIEW = 16  # pixels a side
SQUEEZED = 1.02  # a pixel this much wider or higher than square is the sign of another picture
EMPTY = 0.01  # masks below this show no object
SOLID = 0.5  # a mask that nowhere exceeds this is empty
AssetViews = tuple[Tensor, Tensor | None, Cameras]
"""Views (V, 3, H, W), masks (V, 1, H, W) or None, and the V cameras of one asset."""


def count_assets(n_frames: int, cameras: Cameras, what: str = "images") -> int:
    """B, the number of assets in a batch of B*V frames (asset-major).

    Raises:
        ValueError: `n_frames` is not a multiple of the number of views, or not the number of assets the cameras are for.
    """
    views = cameras.n_views
    if n_frames == 0 or n_frames % views:
        raise ValueError(
            f"{n_frames} {what} do not fit cameras of {views} views: each asset needs {views} {what}, one asset after the other. "
            f"Wire the cameras these {what} were made with, or choose matching views with Select Views."
        )
    assets = n_frames // views
    if cameras.n_assets not in (None, assets):
        raise ValueError(
            f"The cameras are posed for {cameras.n_assets} assets, but {n_frames} {what} of {views} views each are {assets} assets."
        )
    return assets


def squeezed(aspects: Any) -> Any:
    """Where pixels, or one picture beside another, are wider or higher by more than `SQUEEZED`: of a number or a tensor."""
    return (aspects > SQUEEZED) | (aspects < 1 / SQUEEZED)


def match_cameras(cameras: Cameras, height: int, width: int, *, stage: str, advice: str = "") -> Cameras:
    """The cameras for pictures of this size (`Cameras.for_pictures`); a warning where they are for pictures of other proportions.

    Each stage that meets pictures and cameras calls this once. Pictures that do not have the proportions of their cameras are taken as
    squeezed, so that the cameras hold; of pictures that were cropped they would not.

    Args:
        stage: who asks; the warning begins with it.
        advice: what to do, in place of the advice for pictures that came in.
    """
    fitted = cameras.for_pictures(height, width)
    aspects = fitted.pixel_aspects(height, width)
    off = squeezed(aspects)
    if bool(off.any()):
        own = f"{width / height / float(aspects[off][0]):.3g}:1"
        which = "the cameras are" if bool(off.all()) else f"{int(off.sum())} of {off.numel()} cameras are"
        advice = advice or "If they were cropped instead, crop the cameras too, or export them anew for these pictures"
        log.warning(
            "%s: %s for pictures of %s, but these are %.3g:1 (%d x %d pixels): they are taken as squeezed into it. %s.",
            stage, which, own, width / height, width, height, advice,
        )  # fmt: skip
    elif fitted is not cameras:
        log.info("%s: the cameras take the pictures' proportions, %d x %d; their field of view is the vertical one.", stage, width, height)
    return fitted


def asset_views(images: Tensor, masks: Tensor | None, cameras: Cameras, stage: str) -> list[AssetViews]:
    """The views of each asset of a batch, all checked, with the cameras for pictures of their size.

    Args:
        images: (B*V, 3, H, W) in [0, 1], asset-major.
        masks: (B*V, 1, H, W), 1 = object, or None.
        cameras: V views.
        stage: who asks; messages begin with it.

    Raises:
        ValueError: images, masks and cameras do not match, or as `check_views`.
    """
    assets, views = count_assets(len(images), cameras, "views"), cameras.n_views
    if masks is not None and len(masks) != len(images):
        raise ValueError(f"{stage}: {len(images)} views need as many masks, not {len(masks)}.")
    rows = [slice(i * views, (i + 1) * views) for i in range(assets)]
    own = [(images[row], None if masks is None else masks[row], cameras.of_asset(i)) for i, row in enumerate(rows)]
    for asset in own:
        check_views(*asset, stage)
    matched = match_cameras(cameras, *images.shape[2:], stage=stage)
    return [(pictures, outlines, matched.of_asset(i)) for i, (pictures, outlines, _) in enumerate(own)]


def check_views(images: Tensor, masks: Tensor | None, cameras: Cameras, stage: str) -> None:
    """Refuses what no fit can use. Messages begin with `stage`.

    Raises:
        ValueError: shapes, counts and sizes that do not belong together, numbers that are not finite, all masks empty.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"{stage}: views of shape (V, 3, H, W) are expected, not {tuple(images.shape)}.")
    size = f"{images.shape[3]} x {images.shape[2]}"
    if cameras.n_assets is not None or cameras.n_views != len(images):
        raise ValueError(
            f"{stage}: {len(images)} views of one asset need as many cameras, not {cameras.n_views}; wire those they were made with."
        )
    if min(images.shape[2:]) < LEAST_VIEW:
        raise ValueError(f"{stage}: the views are {size} pixels; they need at least {LEAST_VIEW} a side.")
    for name, tensor in (("views", images), ("masks", masks)):
        if tensor is not None and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{stage}: the {name} hold NaN or infinite pixels; the node before made them (often a VAE in half precision).")
    if masks is not None:
        if masks.shape != (len(images), 1, *images.shape[2:]):
            raise ValueError(
                f"{stage}: {len(images)} views of {size} need as many masks of that size, not {tuple(masks.shape)}: "
                "resize them, or leave the masks away."
            )
        if not bool((masks > SOLID).any()):
            raise ValueError(
                f"{stage}: all masks are empty, so there is no object to fit. Masks show the object in white; invert them if not."
            )


def on_background(images: Tensor, masks: Tensor | None, background: Sequence[float]) -> Tensor:
    """The views with this sRGB background wherever their masks show no object; as they are without masks."""
    if masks is None:
        return images
    return torch.where(masks > EMPTY, images, images.new_tensor(list(background)).reshape(1, 3, 1, 1))
