"""CPU splat rasteriser: SIMD kernels by numba, tiles of 16 x 8 pixels, forward and backward.

Threads take rows of tiles. Backward writes one gradient row for each pair of tile and Gaussian and then sums each Gaussian's rows in
a fixed order: no atomics, the same bits at any number of threads. Kernels compute in float32; tensors of other devices are copied
to the CPU and back.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..splat_projection import ALPHA_MIN, Projected, project
from . import splat_kernels as kernels
from .numba_jit import for_each

GAUSSIANS_AT_ONCE = 1 << 14


def draw(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, features: Tensor, viewmats: Tensor, Ks: Tensor,
    width: int, height: int, *, near: float, far: float, eps2d: float, antialiased: bool, absgrad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """See `splat_torch.draw`."""
    projected = project(
        means, quats, scales, opacities, viewmats, Ks, width, height, near=near, far=far, eps2d=eps2d, antialiased=antialiased
    )
    parts = [features.expand(len(viewmats), -1, -1), projected.depths[..., None]]
    blended, alpha = composite(projected, torch.cat(parts, dim=-1), width, height, absgrad)
    return *blended.split([features.shape[-1], 1], dim=-1), alpha, projected.means2d, projected.radii


def composite(projected: Projected, features: Tensor, width: int, height: int, absgrad: bool) -> tuple[Tensor, Tensor]:
    """Blends features (C, N, F). Returns pictures (C, H, W, F) and alpha (C, H, W, 1); see `splat_torch.composite`."""
    means2d, depths, conics, opacities, radii = projected
    picture = _Composite.apply(means2d, conics, opacities, features, depths.detach(), radii, width, height, absgrad)
    return picture.split([features.shape[-1], 1], dim=-1)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to("cpu", torch.float32).contiguous().numpy()


class _Lists:
    """The Gaussians of one camera as the kernels want them, sorted into tiles."""

    def __init__(self, means2d: np.ndarray, conics: np.ndarray, opacities: np.ndarray, depths: np.ndarray, radii: np.ndarray,
                 features: np.ndarray, width: int, height: int) -> None:  # fmt: skip
        n = len(means2d)
        self.features = features
        self.across, self.down = -(-width // kernels.TILE_X), -(-height // kernels.TILE_Y)
        a, b, c = conics.T
        # Half sizes of the box around the ellipse where alpha is 1/255: sqrt(2 ln(255 opacity) times the variance).
        with np.errstate(all="ignore"):
            reach = 2 * np.log(np.maximum(opacities, ALPHA_MIN) / np.float32(ALPHA_MIN)) / np.where(radii[:, 0] > 0, a * c - b * b, 1)
            extent = np.sqrt(np.maximum(reach[:, None] * np.stack([c, a], axis=-1), 0))
        self.splats = np.concatenate([means2d, conics, opacities[:, None], extent], axis=1, dtype=np.float32)
        self.first, self.starts = np.empty(n + 1, np.int64), np.empty(self.across * self.down + 1, np.int64)
        kernels.count_tiles(self.splats, radii, self.first, self.starts, self.across, self.down)
        order, spare = np.empty(n, np.int32), np.empty(n, np.int32)
        seen = kernels.depth_order(depths, radii, order, spare)
        self.owner, self.slot = np.empty(self.first[-1], np.int32), np.empty(self.first[-1], np.int32)
        kernels.fill_tiles(self.splats, order, seen, self.first, self.starts, self.owner, self.slot, self.across, self.down)


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, means2d: Tensor, conics: Tensor, opacities: Tensor, features: Tensor, depths: Tensor, radii: Tensor,
                width: int, height: int, absgrad: bool) -> Tensor:  # fmt: skip
        views = len(means2d)
        arrays = [_array(t) for t in (means2d, conics, opacities, depths)]
        radii_array, features_array = radii.cpu().numpy(), _array(features)
        lists: list[Any] = [None] * views

        def sort(c: int) -> None:
            lists[c] = _Lists(*(array[c] for array in arrays), radii_array[c], features_array[c], width, height)

        for_each(sort, views)
        picture = np.empty((views, height, width, features.shape[-1] + 1), np.float32)
        down = lists[0].down if views else 0

        def blend(item: int) -> None:
            c, ty = divmod(item, down)
            some = lists[c]
            kernels.forward_row(ty, some.across, some.splats, some.features, some.starts, some.owner, picture[c])

        for_each(blend, views * down)
        ctx.lists, ctx.picture, ctx.absgrad = lists, picture, absgrad
        ctx.save_for_backward(means2d)
        return torch.from_numpy(picture).to(means2d.device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (means2d,) = ctx.saved_tensors
        lists, picture, absgrad = ctx.lists, ctx.picture, ctx.absgrad
        views, n = means2d.shape[:2]
        channels = picture.shape[-1] - 1
        columns = kernels.GEOMETRY + channels + 2 * absgrad
        grad_array = _array(grad)
        rows = [np.empty((len(some.owner), columns), np.float32) for some in lists]
        down = lists[0].down if views else 0

        def spread(item: int) -> None:
            c, ty = divmod(item, down)
            some = lists[c]
            kernels.backward_row(
                ty, some.across, some.splats, some.features, some.starts, some.owner, some.slot, picture[c], grad_array[c], rows[c], absgrad
            )

        for_each(spread, views * down)
        widths = (2, 3, 1, channels, 2 * absgrad)
        sums = [np.zeros((views, n, w), np.float32) for w in widths]
        chunks = -(-n // GAUSSIANS_AT_ONCE)

        def gather(item: int) -> None:
            c, chunk = divmod(item, chunks)
            span = chunk * GAUSSIANS_AT_ONCE, min((chunk + 1) * GAUSSIANS_AT_ONCE, n)
            some, (means, conics, opacities, features, absolute) = lists[c], [part[c] for part in sums]
            kernels.gather_rows(*span, some.splats, some.first, rows[c], means, conics, opacities[:, 0], features, absolute)

        for_each(gather, views * chunks)
        means, conics, opacities, features, absolute = [torch.from_numpy(part).to(means2d.device) for part in sums]
        if absgrad:
            means2d.absgrad = absolute
        return means, conics, opacities[..., 0], features, None, None, None, None, None
