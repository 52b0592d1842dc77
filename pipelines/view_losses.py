"""Pictures of an asset against the views it is fitted to, by the weighted losses of `ops.losses`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .ops import losses as terms_of
from .ops.losses import LossWeights, fitting_size, resize_area
from .perceptual import LEAST_SIDE, Perceptual, load_perceptual

MOST_REMEMBERED = 1 << 30  # bytes that targets as the perceptual network sees them may take


class ViewLosses:
    """The targets of one asset, and the order in which they have their turn.

    Args:
        images: (V, 3, H, W) over the background.  masks: (V, 1, H, W) or None, which leaves the mask loss out.
        perceptual_size: longest side for the perceptual loss, 0 is the views' own.
        perceptual: its network; None takes the bundled one, where the loss has a weight.
    """

    def __init__(
        self,
        images: Tensor,
        masks: Tensor | None,
        weights: LossWeights,
        *,
        perceptual_size: int,
        generator: torch.Generator,
        perceptual: Perceptual | None = None,
    ) -> None:
        if weights.perceptual and perceptual is None:
            perceptual = load_perceptual(device=images.device)
        self.images, self.masks, self.weights, self.perceptual, self.generator = images, masks, weights, perceptual, generator
        height, width = images.shape[2:]
        self._small = fitting_size(height, width, perceptual_size)
        if min(self._small) < LEAST_SIDE:
            self._small = (height, width)
        multi = min(height, width) >= terms_of.LEAST_MS_SSIM_SIDE
        self._structural = terms_of.ms_ssim if multi else terms_of.ssim
        self._structure_name = "1 - MS-SSIM" if multi else "1 - SSIM"
        self._waiting: list[int] = []
        self._remembered: dict[int, list[Tensor]] = {}

    def next_views(self, count: int) -> list[int]:
        """That many views, no view twice until all had their turn; 0 gives all."""
        if count == 0 or count >= len(self.images):
            return list(range(len(self.images)))
        chosen: list[int] = []
        while len(chosen) < count:
            if not self._waiting:
                self._waiting = torch.randperm(len(self.images), generator=self.generator).tolist()
            chosen.append(self._waiting.pop())
        return chosen

    def compare(self, images: Tensor, alphas: Tensor | None, views: Sequence[int], *, perceptual: bool) -> tuple[Tensor, dict[str, float]]:
        """The weighted sum of the terms' means over these views, and every mean before its weight.

        Args:
            images: (B, 3, H, W) of these views.  alphas: (B, 1, H, W), or None without a mask loss.
            perceptual: whether that loss counts this time.
        """
        weights, rows = self.weights, list(views)
        targets = self.images[rows]
        terms: dict[str, tuple[float, Tensor]] = {}
        if weights.perceptual and perceptual and self.perceptual is not None:
            maps = self.perceptual.embed(resize_area(images, *self._small))
            terms["perceptual"] = weights.perceptual, self.perceptual.between(maps, self._target_maps(rows))
        if weights.ms_ssim:
            terms[self._structure_name] = weights.ms_ssim, 1 - self._structural(images, targets)
        if weights.mask and self.masks is not None and alphas is not None:
            terms["mask"] = weights.mask, terms_of.l2(alphas, self.masks[rows])
        if weights.l1:
            terms["L1"] = weights.l1, terms_of.l1(images, targets)
        if weights.l2:
            terms["L2"] = weights.l2, terms_of.l2(images, targets)
        total = sum((weight * value.mean() for weight, value in terms.values()), images.sum() * 0)
        return total, {name: float(value.detach().mean()) for name, (_, value) in terms.items()}

    def _target_maps(self, views: Sequence[int]) -> list[Tensor]:
        """The targets as the perceptual network sees them: computed once each where memory allows."""
        assert self.perceptual is not None
        room = len(self.images) * Perceptual.bytes_of_maps(*self._small) <= MOST_REMEMBERED
        found = []
        for view in views:
            maps = self._remembered.get(view)
            if maps is None:
                with torch.no_grad():
                    maps = self.perceptual.embed(resize_area(self.images[view : view + 1], *self._small))
                if room:
                    self._remembered[view] = maps
            found.append(maps)
        return [torch.cat(layer) for layer in zip(*found, strict=True)]
