"""The views that a fit of Gaussians is held against: checked, without what their masks leave out, and compared with renders."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from .data.cameras import Cameras
from .ops import losses
from .ops.splat_raster import Rendered, splat_cameras
from .perceptual import LEAST_SIDE, Perceptual
from .splat_settings import MOST_REMEMBERED, FitSettings

log = logging.getLogger(__name__)

LEAST_VIEW = 16  # pixels a side
EMPTY = 0.01  # masks below this show no object
SOLID = 0.5  # a mask that nowhere exceeds this is empty


def check_views(images: Tensor, masks: Tensor | None, cameras: Cameras) -> None:
    """Refuses what no fit can use, and warns of what will not give a solid.

    Raises:
        ValueError: shapes, counts and sizes that do not belong together, numbers that are not finite, all masks empty.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"Fit Splats: views of shape (V, 3, H, W) are expected, not {tuple(images.shape)}.")
    size = f"{images.shape[3]} x {images.shape[2]}"
    if cameras.n_assets is not None or cameras.n_views != len(images):
        raise ValueError(
            f"Fit Splats: {len(images)} views of one asset need as many cameras, not {cameras.n_views}; wire those they were made with."
        )
    if min(images.shape[2:]) < LEAST_VIEW:
        raise ValueError(f"Fit Splats: the views are {size} pixels; they need at least {LEAST_VIEW} a side.")
    for name, tensor in (("views", images), ("masks", masks)):
        if tensor is not None and not bool(torch.isfinite(tensor).all()):
            raise ValueError(
                f"Fit Splats: the {name} hold NaN or infinite pixels; the node before made them (often a VAE in half precision)."
            )
    if masks is not None:
        if masks.shape != (len(images), 1, *images.shape[2:]):
            raise ValueError(
                f"Fit Splats: {len(images)} views of {size} need as many masks of that size, not {tuple(masks.shape)}: "
                "resize them, or leave the masks away."
            )
        if not bool((masks > SOLID).any()):
            raise ValueError(
                "Fit Splats: all masks are empty, so there is no object to fit. Masks show the object in white; invert them if not."
            )
    if len(images) == 1:
        log.warning("Fit Splats: one view alone says nothing of depth; the asset will look right from there only.")
    elif bool((images == images[:1]).all()):
        log.warning("Fit Splats: all %d views are the same picture, though their cameras differ.", len(images))


def resized_views(images: Tensor, masks: Tensor | None, longest: int) -> tuple[Tensor, Tensor | None]:
    """Views with a longest side of at most `longest` pixels, by averaging; 0 keeps them."""
    height, width = losses.fitting_size(images.shape[2], images.shape[3], longest)
    return losses.resize_area(images, height, width), None if masks is None else losses.resize_area(masks, height, width)


def on_background(images: Tensor, masks: Tensor | None, settings: FitSettings) -> Tensor:
    """The views with the settings' background wherever their masks show no object; as they are without masks."""
    if masks is None:
        return images
    return torch.where(masks > EMPTY, images, images.new_tensor(settings.background).reshape(1, 3, 1, 1))


class Targets:
    """V views of one asset and how renders are compared with them.

    Views whose mask is empty are left out: a mask that failed would carve the object away. Outside the masks the background takes the
    place of whatever the pictures show there.

    Attributes:
        images: (V, 3, H, W) on the device.
        masks: (V, 1, H, W) or None.
        viewmats, Ks: the cameras as the renderer takes them.

    Raises:
        ValueError: as `check_views`.
    """

    def __init__(
        self, images: Tensor, masks: Tensor | None, cameras: Cameras, settings: FitSettings, perceptual: Perceptual | None,
        device: torch.device,
    ) -> None:  # fmt: skip
        check_views(images, masks, cameras)
        self._settings, self._perceptual = settings, perceptual
        useful = list(range(len(images)))
        if masks is not None:
            useful = (masks.flatten(1).amax(1) > SOLID).nonzero()[:, 0].tolist()
            if len(useful) < len(images):
                log.warning("Fit Splats: the masks of %d of %d views are empty and left out.", len(images) - len(useful), len(images))
        self.images = on_background(images, masks, settings)[useful].to(device, torch.float32).clone()
        self.masks = None if masks is None else masks[useful].to(device, torch.float32).clone()
        self.height, self.width = images.shape[2:]
        viewmats, Ks = splat_cameras(cameras.select(useful), self.height, self.width)
        self.viewmats, self.Ks = viewmats.to(device), Ks.to(device)
        self._small = losses.fitting_size(self.height, self.width, settings.perceptual_size)
        if min(self._small) < LEAST_SIDE:
            self._small = (self.height, self.width)
        self._maps: dict[int, list[Tensor]] = {}
        self._similarity, self._similarity_name = losses.ms_ssim, "1 - MS-SSIM"
        if settings.weights.ms_ssim and min(self.height, self.width) < losses.LEAST_MS_SSIM_SIDE:
            self._similarity, self._similarity_name = losses.ssim, "1 - SSIM"
            least, size = losses.LEAST_MS_SSIM_SIDE, f"{self.width} x {self.height}"
            log.info("Fit Splats: MS-SSIM needs views of at least %d pixels; SSIM is used for %s.", least, size)

    def __len__(self) -> int:
        return len(self.images)

    def compare(self, rendered: Rendered, views: Sequence[int], perceptual: bool) -> dict[str, Tensor]:
        """Each term's mean over renders of these views, and their weighted "total"; `perceptual` says whether that term is due."""
        weights, rows = self._settings.weights, list(views)
        images, targets = rendered.color.movedim(-1, 1), self.images[rows]
        terms: dict[str, tuple[float, Tensor]] = {}
        if weights.perceptual and perceptual:
            terms["perceptual"] = weights.perceptual, self._perceptual_distance(images, rows)
        if weights.ms_ssim:
            terms[self._similarity_name] = weights.ms_ssim, 1 - self._similarity(images, targets)
        if weights.mask and self.masks is not None:
            terms["mask"] = weights.mask, losses.l2(rendered.alpha.movedim(-1, 1), self.masks[rows])
        if weights.l1:
            terms["L1"] = weights.l1, losses.l1(images, targets)
        if weights.l2:
            terms["L2"] = weights.l2, losses.l2(images, targets)
        total = sum((weight * value.mean() for weight, value in terms.values()), images.sum() * 0)
        return {name: value.mean() for name, (_, value) in terms.items()} | {"total": total}

    def _perceptual_distance(self, images: Tensor, views: Sequence[int]) -> Tensor:
        assert self._perceptual is not None
        layers = zip(*(self._maps_of(view) for view in views), strict=True)
        drawn = self._perceptual.embed(losses.resize_area(images, *self._small))
        return self._perceptual.between(drawn, [torch.cat(layer) for layer in layers])

    def _maps_of(self, view: int) -> list[Tensor]:
        """A target as the perceptual network sees it: computed once where memory allows."""
        assert self._perceptual is not None
        if view in self._maps:
            return self._maps[view]
        with torch.no_grad():
            maps = self._perceptual.embed(losses.resize_area(self.images[view : view + 1], *self._small))
        if len(self) * Perceptual.bytes_of_maps(*self._small) <= MOST_REMEMBERED:
            self._maps[view] = maps
        return maps
