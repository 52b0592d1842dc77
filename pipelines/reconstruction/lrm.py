"""Posed views to a field: InstantMesh's sparse-view reconstruction model as a stage."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.cameras import Cameras
from ..data.field import Field
from ..data.progress import Tick, no_tick, part_of
from ..data.views import count_assets, match_cameras, squeezed
from ..nets.attention import Attention
from ..nets.triplane_lrm import LRMConfig, TriplaneLRM
from ..ops.square_pictures import square_views, warn_of_padding


@dataclass(frozen=True)
class LRM:
    """A loaded reconstruction network, and what one should know to feed it.

    Attributes:
        net: the network; whoever loads it puts it on its device and stores it in its precision (`TriplaneLRM.cast_trunk`).
        name: for people.
        background: colour behind the object in the views it was trained on.
    """

    net: TriplaneLRM
    name: str
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @property
    def config(self) -> LRMConfig:
        """Sizes of the network."""
        return self.net.config

    @property
    def view_size(self) -> int:
        """Side, in pixels, to which views are resized."""
        return self.net.config.image_size


def reconstruct(
    lrm: LRM,
    images: Tensor,
    masks: Tensor | None,
    cameras: Cameras,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    attention: Attention | None = None,
    tick: Tick = no_tick,
) -> list[Field]:
    """Reconstructs B assets from V posed views each; B assets give what B single calls give.

    Args:
        lrm: the loaded network.
        images: (B*V, 3, H, W) in [0, 1], the V views of an asset one after another; padded to squares, and resized to the network's
            size. Where masks are None their background must be the network's.
        masks: (B*V, 1, H, W), 1 = object, to put the views on the network's background; or None.
        cameras: the V views' cameras, or B times V of them.
        device: where the caller wants it computed; the network must be there already. None takes the network's place.
        dtype: of the transformers' multiplications (bfloat16 or float16 on a GPU); None takes what the weights are stored in.
        attention: replaces the network's attention function.
        tick: called after every layer of every asset.

    Returns:
        B fields, on the CPU.

    Raises:
        ValueError: views and cameras that do not match, pixels that are not numbers, views without an object.
    """
    n_assets = check_views(images, masks, cameras)
    cameras = match_cameras(cameras, *images.shape[2:], stage="Reconstruct")
    warn_of_padding("Reconstruct", images, "Square views show the object larger, and finer.")
    here = next(lrm.net.parameters()).device
    if device is not None and torch.device(device).type != here.type:
        raise ValueError(f"The network is on {here}, but is to run on {device}: move it there first.")
    fields = []
    with torch.no_grad():
        for asset in range(n_assets):
            rows = slice(asset * cameras.n_views, (asset + 1) * cameras.n_views)
            views, own_masks, own = _fit(images[rows], None if masks is None else masks[rows], cameras.of_asset(asset), lrm)
            own_tick = part_of(tick, asset, n_assets)
            fields.append(lrm.net.field(views, own_masks, own, dtype=dtype, attention=attention, tick=own_tick))
    return fields


def check_views(images: Tensor, masks: Tensor | None, cameras: Cameras) -> int:
    """The number of assets; ValueError where the inputs do not make any."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"Reconstruction needs images of shape (N, 3, H, W), not {tuple(images.shape)}.")
    n_assets = count_assets(len(images), cameras)
    n_views = cameras.n_views
    if not torch.isfinite(images).all():
        raise ValueError("The images hold NaN or infinite pixels: a stage before this one failed. Look at its output.")
    if masks is not None:
        expected = (len(images), 1, *images.shape[2:])
        if masks.shape != expected:
            raise ValueError(f"Masks must have shape {expected} like the images, not {tuple(masks.shape)}.")
        if not torch.isfinite(masks).all():
            raise ValueError("The masks hold NaN or infinite numbers.")
        for asset, own in enumerate(masks.split(n_views)):
            if not (own > 0).any():
                raise ValueError(f"All {n_views} masks of asset {asset + 1} are empty: 1 marks the object (invert a transparency mask).")
    for asset, own in enumerate(images.split(n_views)):
        if bool((own == own[:1, :, :1, :1]).all()):
            raise ValueError(f"The views of asset {asset + 1} show one flat colour: there is nothing to reconstruct.")
    return n_assets


def _fit(images: Tensor, masks: Tensor | None, cameras: Cameras, lrm: LRM) -> tuple[Tensor, Tensor | None, Cameras]:
    """Views of one asset on the network's background at its size, their masks and their cameras."""
    images = images.float().clamp(0, 1)
    if masks is not None:
        masks = masks.float().clamp(0, 1)
        images = images * masks + torch.tensor(lrm.background, device=images.device)[:, None, None] * (1 - masks)
    if images.shape[2] != images.shape[3] or bool(squeezed(cameras.pixel_aspects(*images.shape[2:])).any()):
        canvas = torch.tensor([*lrm.background, *([] if masks is None else [0.0])])
        views, K = square_views(images if masks is None else torch.cat([images, masks], dim=1), cameras.K, canvas)
        images, masks, cameras = views[:, :3], None if masks is None else views[:, 3:], replace(cameras, K=K)
    size = (lrm.view_size, lrm.view_size)
    if images.shape[2:] != size:
        images = F.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)
        masks = None if masks is None else F.interpolate(masks, size, mode="bilinear", antialias=True)
    return images, masks, cameras


def estimate_memory(config: LRMConfig, n_views: int, dtype: torch.dtype = torch.float32) -> int:
    """Bytes that `reconstruct` needs on the network's device beside the weights, whatever the number of assets.

    Counts what lives at once at the widest point of each transformer (the hidden layer of its MLP before and after the activation, the
    residual stream, queries, keys and values), for an attention that does not hold its matrix, and a tenth for the allocator.
    """
    size = torch.finfo(dtype).bits // 8
    tokens = n_views * ((config.image_size // config.patch_size) ** 2 + 1)
    queries = 3 * config.triplane_low_res**2
    views = n_views * 3 * config.image_size**2 * 4 * 2
    dim, hidden = config.encoder_dim, config.encoder_mlp_dim
    encoder = tokens * (3 * dim * 4 + max(2 * hidden, 5 * dim) * size)
    dim = config.transformer_dim
    context = tokens * (config.encoder_dim * (4 + size) + 2 * dim * size)
    transformer = context + queries * (3 * dim * 4 + max(2 * 4 * dim, 5 * dim) * size)
    planes = 2 * 3 * config.triplane_dim * config.triplane_res**2 * 4
    cast = 0 if dtype == torch.float32 else 4 * dim * dim * size
    return int(1.1 * (views + planes + cast + max(encoder, transformer)))
