"""CPU splat rasteriser: SIMD kernels by numba, tiles of 16 x 8 pixels, forward and backward.

Threads take rows of tiles. Backward writes one gradient row for each pair of tile and Gaussian and then sums each Gaussian's rows in
a fixed order: no atomics, the same bits at any number of threads. Numbers are float32; tensors of other devices are copied to the CPU
and back.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..numba_jit import for_each
from . import numba_kernels as kernels
from .numba_projection import Lens, Project, array

GAUSSIANS_AT_ONCE = 1 << 14
PAIRS_MAX = 2**31 - 1
"""Pairs of tile and Gaussian in one picture."""


def draw(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, features: Tensor, viewmats: Tensor, Ks: Tensor,
    width: int, height: int, *, near: float, far: float, eps2d: float, antialiased: bool, absgrad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """See `torch_form.draw`."""
    lens = Lens(width, height, float(near), float(far), float(eps2d), bool(antialiased))
    means2d, shapes, extents, radii = Project.apply(means, quats, scales, opacities, viewmats, Ks, lens)
    picture = _Composite.apply(means2d, shapes, features, extents, radii, width, height, absgrad)
    blended, depth, alpha = picture.split([features.shape[-1], 1, 1], dim=-1)
    return blended, depth, alpha, means2d, radii


class _Lists:
    """The Gaussians of one camera, sorted into its tiles."""

    def __init__(self, splats: np.ndarray, depths: np.ndarray, width: int, height: int) -> None:
        n = len(splats)
        self.splats = splats
        self.across, self.down = -(-width // kernels.TILE_X), -(-height // kernels.TILE_Y)
        self.first, self.starts = np.empty(n + 1, np.int64), np.empty(self.across * self.down + 1, np.int64)
        kernels.count_tiles(splats, self.first, self.starts, self.across, self.down)
        if self.first[-1] > PAIRS_MAX:
            raise ValueError(
                f"Splats: the Gaussians touch {self.first[-1]:,} tiles of one {width} x {height} picture in all, at most {PAIRS_MAX:,} can "
                "be drawn. Many are far too large: check the scales (linear, not logarithms) or draw a smaller picture."
            )
        order, spare = np.empty(n, np.int32), np.empty(n, np.int32)
        seen = kernels.depth_order(depths, splats, order, spare)
        self.owner, self.slot = np.empty(self.first[-1], np.int32), np.empty(self.first[-1], np.int32)
        kernels.fill_tiles(splats, order, seen, self.first, self.starts, self.owner, self.slot, self.across, self.down)


class _Composite(torch.autograd.Function):
    """Pictures (C, H, W, F + 2) of the features (C, N, F) or (1, N, F), depth and alpha."""

    @staticmethod
    def forward(ctx: Any, means2d: Tensor, shapes: Tensor, features: Tensor, extents: Tensor, radii: Tensor,
                width: int, height: int, absgrad: bool) -> Tensor:  # fmt: skip
        views, n = means2d.shape[:2]
        channels = features.shape[-1] + 1
        flat = [array(t) for t in (means2d, shapes, extents, features)]
        lists: list[Any] = [None] * views

        def sort(c: int) -> None:
            centres, shape, extent, feature = (part[c if len(part) == views else 0] for part in flat)
            splats = np.empty((n, kernels.FEATURES + -(-channels // kernels.BLOCK) * kernels.BLOCK), np.float32)
            depths = np.empty(n, np.float32)
            kernels.pack(centres, shape, extent, feature, splats, depths)
            lists[c] = _Lists(splats, depths, width, height)

        for_each(sort, views)
        picture = np.empty((views, height, width, channels + 1), np.float32)
        light, last = np.empty((views, height, width), np.float32), np.empty((views, height, width), np.float32)
        down = -(-height // kernels.TILE_Y)

        def blend(item: int) -> None:
            c, ty = divmod(item, down)
            some = lists[c]
            kernels.forward_row(ty, some.across, some.splats, some.starts, some.owner, picture[c], light[c], last[c])

        for_each(blend, views * down)
        ctx.lists, ctx.light, ctx.last, ctx.absgrad, ctx.shared = lists, light, last, absgrad, len(features) < views
        ctx.save_for_backward(means2d)
        return torch.from_numpy(picture).to(means2d.device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (means2d,) = ctx.saved_tensors
        lists, absgrad = ctx.lists, ctx.absgrad
        views, n = means2d.shape[:2]
        grads = array(grad)
        widths = (2, 5, grads.shape[-1] - 2)
        sums = [np.empty((views, n, width), np.float32) for width in widths] + [np.empty((views, n if absgrad else 0, 2), np.float32)]
        for c, some in enumerate(lists):  # one camera after the other: the rows are by far the largest array here
            _backward(some, ctx.light[c], ctx.last[c], grads[c], [part[c] for part in sums], absgrad)
        g_means2d, g_shapes, g_features, absolute = (torch.from_numpy(part).to(means2d.device) for part in sums)
        if absgrad:
            means2d.absgrad = absolute
        return g_means2d, g_shapes, g_features.sum(0, keepdim=True) if ctx.shared else g_features, None, None, None, None, None


def _backward(lists: _Lists, light: np.ndarray, last: np.ndarray, grad: np.ndarray, sums: list[np.ndarray], absgrad: bool) -> None:
    """Gradients of one camera's picture into sums."""
    n = len(lists.splats)
    rows = np.empty((len(lists.owner), lists.splats.shape[1]), np.float32)

    def spread(ty: int) -> None:
        kernels.backward_row(ty, lists.across, lists.splats, lists.starts, lists.owner, lists.slot, light, last, grad, rows, absgrad)

    def gather(chunk: int) -> None:
        span = chunk * GAUSSIANS_AT_ONCE, min((chunk + 1) * GAUSSIANS_AT_ONCE, n)
        kernels.gather_rows(*span, lists.splats, lists.first, rows, *sums)

    for_each(spread, lists.down)
    for_each(gather, -(-n // GAUSSIANS_AT_ONCE))
