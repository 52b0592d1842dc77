"""Which frames of a batch belong to which camera: view sets joined, and views selected from them."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..data.cameras import Cameras
from ..data.views import count_assets
from ..ops.square_pictures import square_views


def join_cameras(first: Cameras, second: Cameras) -> Cameras:
    """The views of both sets, first's then second's. A shared set is repeated where the other one differs from asset to asset.

    Raises:
        ValueError: both are per asset and for different numbers of assets.
    """
    assets = first.n_assets if first.n_assets is not None else second.n_assets
    if second.n_assets not in (None, assets):
        raise ValueError(f"One camera set is for {first.n_assets} assets, the other for {second.n_assets}: they cannot be joined.")

    def spread(tensor: Tensor, shared: bool) -> Tensor:
        return tensor[None].expand(assets, *tensor.shape) if shared and assets is not None else tensor

    parts = [(spread(c.c2w, c.n_assets is None), spread(c.K, c.n_assets is None)) for c in (first, second)]
    view_axis = 0 if assets is None else 1
    return Cameras(
        torch.cat([c2w for c2w, _ in parts], dim=view_axis),
        torch.cat([K for _, K in parts], dim=view_axis),
        first.names + second.names,
    )


def join_frames(first: Tensor, second: Tensor, first_cameras: Cameras, second_cameras: Cameras) -> Tensor:
    """Frames (B*V1, ...) and (B*V2, ...) as (B*(V1+V2), ...), asset-major, each asset's first views before its second ones.

    Raises:
        ValueError: numbers of frames or assets that do not fit, frames of different size.
    """
    assets = count_assets(first.shape[0], first_cameras)
    others = count_assets(second.shape[0], second_cameras)
    if assets != others:
        raise ValueError(f"The first views show {assets} assets, the second {others}: both must show the same assets.")
    if first.shape[1:] != second.shape[1:]:
        raise ValueError(
            f"The first frames are {_size(first)}, the second {_size(second)}: resize one of them (core's Upscale Image) before joining. "
            "Where their proportions differ, make one set anew in the other's: squeezed or cropped views no longer fit their cameras."
        )
    rows = [frames.reshape(assets, -1, *frames.shape[1:]) for frames in (first, second)]
    return torch.cat(rows, dim=1).flatten(0, 1)


def on_squares(images: Tensor, masks: Tensor, cameras: Cameras) -> tuple[Tensor, Tensor, Cameras]:
    """Views (B*V, 3, H, W), their masks (B*V, 1, h, w) of any size and their cameras on white squares of the longer side."""
    assets = count_assets(len(images), cameras)
    fitted = cameras.for_pictures(*images.shape[2:])
    lenses = fitted.K.expand(assets, -1, -1).flatten(0, 1)
    if masks.shape[2:] != images.shape[2:]:
        masks = interpolate(masks, images.shape[2:], mode="bilinear", antialias=True)
    views, K = square_views(torch.cat([images, masks], dim=1), lenses, torch.tensor([1.0, 1.0, 1.0, 0.0]))
    K = K[: cameras.n_views] if cameras.n_assets is None else K.reshape(cameras.K.shape)
    return views[:, :3], views[:, 3:], replace(cameras, K=K)


def select_frames(frames: Tensor, cameras: Cameras, views: Sequence[int]) -> Tensor:
    """The given views of every asset: (B*V, ...) to (B*len(views), ...)."""
    assets = count_assets(frames.shape[0], cameras)
    return frames.reshape(assets, cameras.n_views, *frames.shape[1:])[:, list(views)].flatten(0, 1)


def parse_views(text: str, n_views: int) -> list[int]:
    """View indices written by a person: "0, 2, 4-5" gives [0, 2, 4, 5]; negative numbers count from the end.

    Raises:
        ValueError: nothing chosen, something that is no number, or an index outside the set.
    """
    views: list[int] = []
    for part in (piece.strip() for piece in text.split(",")):
        if not part:
            continue
        first, dash, last = part.partition("-") if part[0] != "-" else (part, "", "")
        try:
            start, end = int(first), int(last if dash else first)
        except ValueError:
            raise ValueError(f"Views: {reprlib.repr(part)} is neither a number nor a range such as 2-5.") from None
        if max(abs(start), abs(end)) > n_views:
            raise ValueError(f"Views: {part} lies outside this set of {n_views} views (0 to {n_views - 1}).")
        if end < start:
            raise ValueError(f"Views: {part} runs backwards; write {end}-{start}, or name the views one by one in the order you want.")
        views += range(start, end + 1)
    if not views:
        raise ValueError("Views: name at least one view, for example 0, 2, 4-5.")
    outside = [view for view in views if not -n_views <= view < n_views]
    if outside:
        raise ValueError(f"Views: {outside} lie outside this set of {n_views} views (0 to {n_views - 1}).")
    return [view % n_views for view in views]


def _size(frames: Tensor) -> str:
    return "x".join(str(n) for n in reversed(frames.shape[1:3])) + " pixels"
