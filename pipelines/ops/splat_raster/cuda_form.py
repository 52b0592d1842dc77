"""Gaussians drawn by kernels of our own on an NVIDIA card, built by the NVRTC that PyTorch carries: no toolkit, no compiled package.

The mathematics stands in three texts: `cuda_projection.cu`, `cuda_lists.cu`, `cuda_blending.cu`. All cameras are drawn in one launch for
each band of tile rows (`cuda_lists`). The same bits at each run.
"""

from __future__ import annotations

import logging
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..cuda import card as cards
from ..cuda.driver import Program
from . import torch_form
from .cuda_lists import LISTS, tile_lists

PROJECTION, BLENDING = (Path(__file__).with_name(f"cuda_{name}.cu") for name in ("projection", "blending"))
FEATURES_MAX = 64
"""Features that the kernels blend in one pass; more are drawn by the PyTorch form, on the same card."""
PROJECT_THREADS, THREADS, MOMENTS = 128, 256, 8  # as in the .cu files


log = logging.getLogger(__name__)


def prepare(device: torch.device) -> None:
    """Compiles and loads what colours need, and says in the log by what and how long.

    Raises:
        RuntimeError: no compiler works here, or the driver refuses.
    """
    start, card = time.perf_counter(), cards.card(device)
    for file, options in FOR_COLOURS:
        card.program(file, options)
    log.info("Splats on %s: kernels compiled by %s in %.1f s", device, card.words, time.perf_counter() - start)


def draw(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, features: Tensor, viewmats: Tensor, Ks: Tensor,
    width: int, height: int, *, near: float, far: float, eps2d: float, antialiased: bool, absgrad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """See `torch_form.draw`."""
    if features.shape[-1] > FEATURES_MAX:
        _say_slow()
        return torch_form.draw(
            means, quats, scales, opacities, features, viewmats, Ks, width, height,
            near=near, far=far, eps2d=eps2d, antialiased=antialiased, absgrad=absgrad,
        )  # fmt: skip
    # Kernels read what they are given as float32 of this card.
    quats, scales, opacities, features = (part.to(means) for part in (quats, scales, opacities, features))
    lens = (width, height, float(near), float(far), float(eps2d), int(antialiased))
    means2d, shapes, depths, extents, radii = _Project.apply(means, quats, scales, opacities, viewmats, Ks, lens)
    picture = _Blend.apply(means2d, shapes, depths, features, extents, width, height, absgrad)
    blended, depth, alpha = picture.split([features.shape[-1], 1, 1], dim=-1)
    return blended, depth, alpha, means2d, radii


@lru_cache
def _say_slow() -> None:
    log.info("Splats of more than %d features are drawn by PyTorch's slower form, for Lathe's CUDA kernels blend no more.", FEATURES_MAX)


class _Project(torch.autograd.Function):
    """means2d (C, N, 2), shapes (C, N, 4) of conic and opacity, depths (C, N), and the constants extents and radii (C, N, 2)."""

    @staticmethod
    def forward(ctx: Any, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, viewmats: Tensor, Ks: Tensor,
                lens: tuple[int | float, ...]) -> tuple[Tensor, ...]:  # fmt: skip
        given = [t.detach().contiguous() for t in (means, quats, scales, opacities)]
        given += [t.detach().double().contiguous() for t in (viewmats, Ks)]
        views, n = len(viewmats), len(means)
        means2d, shapes, depths, extents = (means.new_empty(views, n, *rest) for rest in ((2,), (4,), (), (2,)))
        radii = torch.empty(views, n, 2, dtype=torch.int32, device=means.device)
        blocks = -(-views * n // PROJECT_THREADS)
        arguments = [*given, n, views, *lens, means2d, shapes, depths, extents, radii]
        cards.card(means.device).program(PROJECTION).launch("project", blocks, PROJECT_THREADS, arguments)
        ctx.lens = lens
        ctx.save_for_backward(*given, radii)
        ctx.mark_non_differentiable(extents, radii)
        return means2d, shapes, depths, extents, radii

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_means2d: Tensor, g_shapes: Tensor, g_depths: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        *given, radii = ctx.saved_tensors
        views, n = radii.shape[:2]
        sums = [torch.empty_like(part) for part in given[:4]]
        screen = [part.contiguous() for part in (g_means2d, g_shapes, g_depths)]
        arguments = [*given, n, views, *ctx.lens, radii, *screen, *sums]
        cards.card(radii.device).program(PROJECTION).launch("project_back", -(-n // PROJECT_THREADS), PROJECT_THREADS, arguments)
        return *sums, None, None, None


class _Blend(torch.autograd.Function):
    """Pictures (C, H, W, F + 2) of the features (C, N, F) or (1, N, F), depth and alpha."""

    @staticmethod
    def forward(ctx: Any, means2d: Tensor, shapes: Tensor, depths: Tensor, features: Tensor, extents: Tensor,
                width: int, height: int, absgrad: bool) -> Tensor:  # fmt: skip
        views, count = len(means2d), features.shape[-1]
        values = features.detach().contiguous()
        lists = tile_lists(means2d, depths, extents, width, height, 4 * _columns(count))
        picture = means2d.new_empty(views, height, width, count + 2)
        light, last = means2d.new_empty(views, height, width), torch.empty(views, height, width, dtype=torch.int32, device=means2d.device)
        program = _program(means2d.device, count)
        for band in lists.bands:
            given = (means2d, shapes, values, depths, _rows_of(values), band.starts, band.owners)
            for first, tiles in band.launches():
                where = (first, band.begin, lists.across, lists.down, width, height)
                program.launch("blend", tiles, THREADS, [*given, *where, picture, light, last])
        ctx.lists, ctx.absgrad = lists, absgrad
        ctx.save_for_backward(means2d, shapes, depths, values, light, last)
        return picture

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_picture: Tensor) -> tuple[Tensor | None, ...]:
        means2d, shapes, depths, values, light, last = ctx.saved_tensors
        (views, height, width), n, count = last.shape, means2d.shape[1], values.shape[-1]
        lists, columns, g_picture = ctx.lists, _columns(count), g_picture.contiguous()
        g_means2d, g_shapes, g_depths, absolute = (means2d.new_empty(views, n, *rest) for rest in ((2,), (4,), (), (2,)))
        g_values = means2d.new_empty(views, n, count)
        program, entries = _program(means2d.device, count), views * n
        for band in lists.bands:
            rows = means2d.new_empty(len(band.owners), columns)
            given = (means2d, shapes, values, depths, _rows_of(values), band.starts, band.owners, band.slots)
            for first, tiles in band.launches():
                where = (first, band.begin, lists.across, lists.down, width, height)
                program.launch("blend_back", tiles, THREADS, [*given, *where, light, last, g_picture, rows])
            goes_on, ends_here = int(band is not lists.bands[0]), int(band is lists.bands[-1])
            summed = (shapes, lists.order, band.ends, entries, rows, goes_on, ends_here)
            made = (g_means2d, g_shapes, g_values, g_depths, absolute)
            program.launch("gather", -(-entries // (THREADS // columns)), THREADS, [*summed, *made])
        if ctx.absgrad:
            means2d.absgrad = absolute
        return g_means2d, g_shapes, g_depths, g_values if len(values) == views else g_values.sum(0, keepdim=True), None, None, None, None


def _columns(features: int) -> int:
    """Numbers of a gradient row, COLUMNS of `cuda_blending.cu`."""
    return -(-(MOMENTS + features + 1) // 16) * 16


def _program(device: torch.device, features: int) -> Program:
    return cards.card(device).program(BLENDING, _options(features))


def _options(features: int) -> tuple[str, ...]:
    return (f"-DFEATURES={features}",)


FOR_COLOURS = ((PROJECTION, ()), (LISTS, ()), (BLENDING, _options(3)))
"""The texts, with the compiler's options, that a picture in three colours needs."""


def _rows_of(values: Tensor) -> int:
    """Rows of features: N where all cameras share them, else C * N."""
    return max(1, values.shape[0] * values.shape[1])
