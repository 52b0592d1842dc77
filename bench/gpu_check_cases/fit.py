"""A whole fit of splats to 16 true views of a bench object, our kernels drawing (`speed_cases.splat_fit` is the same on other forms)."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

from splat_scenes import drawn_by

from ...pipelines import metrics
from ...pipelines.ops.choose_backend import SPLAT
from ...pipelines.rendering.splats import render_splats
from ...pipelines.splats.fit import fit_splats, with_changes
from ...pipelines.splats.fit_settings import FitSettings, load_fit_preset
from ...training.objects import split
from .. import common, scenes
from .findings import Finding, judged
from .place import Place

BARS = {"fast": (256, 300.0, 35.7), "paper": (512, 60.0, 25.0)}
"""Of each preset: pixels along an edge, seconds at most, PSNR of the views at least (dB). With numba `fast` reaches 36.2; `paper` has not
been run yet, its PSNR only tells what is plainly wrong."""
SAME_DB = 0.05
"""Two forms' few steps end this near to each other."""


def fit_of(preset: str) -> Callable[[Place], Iterator[Finding]]:
    """The check of a preset. In emulation: a few steps at a small size, against the same with numba."""

    def work(place: Place) -> Iterator[Finding]:
        settings, size = load_fit_preset(preset), BARS[preset][0]
        if place.emulated:
            ours = _fitted(with_changes(settings, steps=10, points=150), 32, "cpu")
            with drawn_by(SPLAT.module("numba")):
                numba = _fitted(with_changes(settings, steps=10, points=150), 32, "cpu")
            words = f"10 steps, {ours['gaussians']} Gaussians: {ours['psnr']:.3f} dB, with numba {numba['psnr']:.3f} dB"
            yield judged(abs(ours["psnr"] - numba["psnr"]) < SAME_DB, f"fit {preset}", f"{words}; seconds not measured without a GPU")
            return
        made = _fitted(settings, size, str(place.device))
        _, seconds, least = BARS[preset]
        what = f"{settings.steps} steps, 16 views of {size} px, {made['gaussians']:,} Gaussians"
        words = f"{what}: {made['seconds']:.1f} s (at most {seconds:g}), {made['psnr']:.2f} dB on those views (at least {least:g})"
        good = made["seconds"] < seconds and made["psnr"] > least
        yield judged(good, f"fit {preset}", words, **made)

    return work


def _fitted(settings: FitSettings, size: int, device: str) -> dict[str, Any]:
    key, cameras = split("bench")[0], scenes.turntable_cameras()[0]
    views = scenes.load_views(argparse.Namespace(meshes=None, objects=common.BENCH_OBJECTS), key, [cameras], size)[0]
    start = time.perf_counter()
    splats = fit_splats(views.images, views.masks, cameras, settings=settings, device=device)[0].splats
    seconds = time.perf_counter() - start
    shown = render_splats(splats, cameras, size, size, device=device).images
    return {"seconds": seconds, "psnr": float(metrics.psnr(shown, views.images).mean()), "gaussians": len(splats)}
