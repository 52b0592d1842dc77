"""The views that a fit of Gaussians or of a mesh is held against: checked, without what their masks leave out, compared with renders."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..data.cameras import Cameras
from ..data.views import SOLID, check_views, on_background
from ..ops import losses
from .perceptual import LEAST_SIDE, Perceptual

log = logging.getLogger(__name__)


VIEWS_AT_ONCE = 4  # views of a step that are drawn and compared together: bounds memory, changes nothing else
MOST_REMEMBERED = 1 << 30  # bytes that targets as the perceptual network sees them may take


class Comparing(Protocol):
    """What the settings of a fit say of its views; see `splats.fit_settings.FitSettings`."""

    @property
    def weights(self) -> losses.LossWeights: ...
    @property
    def views_per_step(self) -> int: ...
    @property
    def perceptual_size(self) -> int: ...
    @property
    def background(self) -> tuple[float, float, float]: ...


def memory_of_views(views: int, height: int, width: int, settings: Comparing) -> int:
    """Bytes that the views of one asset, their renders and what compares them take at the peak of a step.

    Rough, and meant to be too much rather than too little: pictures that autograd keeps are counted in floats a pixel, by hand.
    """
    pixels = height * width
    at_once = min(settings.views_per_step or views, views, VIEWS_AT_ONCE)
    drawn = at_once * pixels * (60 + (160 if settings.weights.ms_ssim else 0))
    seen = 0
    if settings.weights.perceptual:
        small = losses.fitting_size(height, width, settings.perceptual_size)
        maps = Perceptual.bytes_of_maps(max(small[0], LEAST_SIDE), max(small[1], LEAST_SIDE))
        seen = 8 * at_once * maps + min(views * maps, MOST_REMEMBERED)
    return 4 * (views * pixels * 4 + drawn) + seen


def resized_views(images: Tensor, masks: Tensor | None, longest: int) -> tuple[Tensor, Tensor | None]:
    """Views with a longest side of at most `longest` pixels, by averaging; 0 keeps them.

    Raises:
        ValueError: masks of another size than the views', which would be stretched over them.
    """
    if masks is not None and masks.shape[2:] != images.shape[2:]:
        sizes = [f"{tensor.shape[3]} x {tensor.shape[2]}" for tensor in (masks, images)]
        raise ValueError(f"The masks are {sizes[0]} pixels, the views {sizes[1]}: make the masks of these views, or resize them alike.")
    height, width = losses.fitting_size(images.shape[2], images.shape[3], longest)
    return losses.resize_area(images, height, width), None if masks is None else losses.resize_area(masks, height, width)


class Targets:
    """V views of one asset, the order in which they have their turn, and how renders are compared with them.

    Views whose mask is empty are left out: a mask that failed would carve the object away. Outside the masks the background takes the
    place of whatever the pictures show there.

    Args:
        images, masks, cameras: as `AssetViews`.
        settings: background, losses, views a step.
        perceptual: the network of the perceptual loss, where that has a weight.
        generator: draws the order.
        device: where renders will be.
        stage: who fits; messages begin with it.

    Attributes:
        images: (V, 3, H, W) on the device, over the background.
        masks: (V, 1, H, W) or None.
        cameras: those of the views that are left, for pictures of their size.
        height, width: pixels.

    Raises:
        ValueError: as `check_views`, and no masks where the mask loss is all there is.
    """

    def __init__(
        self, images: Tensor, masks: Tensor | None, cameras: Cameras, settings: Comparing, perceptual: Perceptual | None,
        generator: torch.Generator, device: torch.device, stage: str,
    ) -> None:  # fmt: skip
        check_views(images, masks, cameras, stage)
        weights = settings.weights
        if masks is None and not (weights.perceptual or weights.ms_ssim or weights.l1 or weights.l2):
            raise ValueError(f"{stage}: only the mask loss has a weight, and there are no masks: wire them, or weigh another loss.")
        if len(images) == 1:
            log.warning("%s: one view alone says nothing of depth; the asset will look right from there only.", stage)
        elif bool((images == images[:1]).all()):
            log.warning("%s: all %d views are the same picture, though their cameras differ.", stage, len(images))
        self._settings, self._perceptual, self._generator = settings, perceptual, generator
        useful = list(range(len(images)))
        if masks is not None:
            useful = (masks.flatten(1).amax(1) > SOLID).nonzero()[:, 0].tolist()
            if len(useful) < len(images):
                lost = len(images) - len(useful)
                log.warning("%s: the masks of %d of %d views are empty; these views are left out.", stage, lost, len(images))
        self.images = on_background(images, masks, settings.background)[useful].to(device, torch.float32).clone()
        self.masks = None if masks is None else masks[useful].to(device, torch.float32).clone()
        self.height, self.width = images.shape[2:]
        self.cameras = cameras.select(useful).for_pictures(self.height, self.width)
        self._waiting: list[int] = []
        self._small = losses.fitting_size(self.height, self.width, settings.perceptual_size)
        if min(self._small) < LEAST_SIDE:
            self._small = (self.height, self.width)
        self._maps: dict[int, list[Tensor]] = {}
        self._similarity, self._similarity_name = losses.ms_ssim, "1 - MS-SSIM"
        if settings.weights.ms_ssim and min(self.height, self.width) < losses.LEAST_MS_SSIM_SIDE:
            self._similarity, self._similarity_name = losses.ssim, "1 - SSIM"
            least, size = losses.LEAST_MS_SSIM_SIDE, f"{self.width} x {self.height}"
            log.info("%s: MS-SSIM needs views of at least %d pixels; SSIM is used for %s.", stage, least, size)

    def __len__(self) -> int:
        return len(self.images)

    def next_views(self) -> list[int]:
        """The views of a step: no view twice until all had their turn."""
        count = self._settings.views_per_step
        if count == 0 or count >= len(self):
            return list(range(len(self)))
        chosen: list[int] = []
        while len(chosen) < count:
            if not self._waiting:
                self._waiting = torch.randperm(len(self), generator=self._generator).tolist()
            chosen.append(self._waiting.pop())
        return chosen

    def compare(self, images: Tensor, alphas: Tensor | None, views: Sequence[int], perceptual: bool) -> dict[str, Tensor]:
        """Each term's mean over renders of these views, and their weighted "total".

        Args:
            images: (B, 3, H, W) of B views.
            alphas: (B, 1, H, W), or None, which leaves the mask loss out.
            perceptual: whether that term is due.
        """
        weights, rows = self._settings.weights, list(views)
        targets = self.images[rows]
        terms: dict[str, tuple[float, Tensor]] = {}
        if weights.perceptual and perceptual:
            terms["perceptual"] = weights.perceptual, self._perceptual_distance(images, rows)
        if weights.ms_ssim:
            terms[self._similarity_name] = weights.ms_ssim, 1 - self._similarity(images, targets)
        if weights.mask and self.masks is not None and alphas is not None:
            terms["mask"] = weights.mask, losses.l2(alphas, self.masks[rows])
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
