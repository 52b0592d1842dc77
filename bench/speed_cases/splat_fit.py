"""A whole fit of splats to 16 true views, from pictures to pruned Gaussians: how long it takes, and whether that is short enough.

`fast` runs on the CPU by the numba kernels. `paper` needs a GPU on which gsplat works; no GPU was at hand when this was written, so that
branch has never been executed.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

from ...pipelines import metrics
from ...pipelines.ops.splat_raster.dispatch import backend_for
from ...pipelines.rendering.splats import render_splats
from ...pipelines.splats.fit import fit_splats
from ...pipelines.splats.fit_settings import load_fit_preset
from ...training.objects import split
from .. import common, scenes
from ..quality_stages.report import claim

CASES = {"fast": (256, "cpu", "numba", 300.0), "paper": (512, "cuda", "gsplat", 60.0)}
"""Of each preset: pixels along an edge, the device, the rasteriser, and the seconds that the fit must stay below."""


def work(preset: str) -> dict[str, Any]:
    """In a child process: one fit to the first bench object. Kernels are compiled before the clock starts.

    Raises:
        RuntimeError: the rasteriser that the claim is about does not work here.
    """
    size, device, rasteriser, _ = CASES[preset]
    start = time.perf_counter()
    backend = backend_for(torch.device(device)).__name__.rpartition(".")[2].removesuffix("_form")
    if backend != rasteriser:
        raise RuntimeError(f"{rasteriser} does not work here; {backend} took its place.")
    first = time.perf_counter() - start
    key, cameras = split("bench")[0], scenes.turntable_cameras()[0]
    views = scenes.load_views(argparse.Namespace(meshes=None, objects=common.BENCH_OBJECTS), key, [cameras], size)[0]
    settings = load_fit_preset(preset)
    start, start_busy = time.perf_counter(), time.process_time()
    splats = fit_splats(views.images, views.masks, cameras, settings=settings, device=device)[0].splats
    times = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - start_busy, "first_seconds": first}
    shown = render_splats(splats, cameras, size, size).images
    facts = {"object": key, "views": len(views.images), "pixels": size, "steps": settings.steps, "gaussians": len(splats)}
    return {**times, **facts, "psnr_of_the_views": float(metrics.psnr(shown, views.images).mean()), "peak_gib": common.peak_rss_gib()}


def judge(fits: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """A claim for each preset that was measured, and a word on those that were not."""
    claims = []
    for preset, (size, device, rasteriser, most) in CASES.items():
        label = f"seconds of {preset}, 16 views of {size} px, {rasteriser}"
        if preset in fits:
            made = fits[preset]
            print(f"\n{preset}: {made['steps']} steps, {made['cpu_seconds']:.1f} CPU s, {made['psnr_of_the_views']:.1f} dB on those views")
            claims.append(claim(label, made["seconds"], below=most))
        else:
            print(f"\n{label}: not measured, {rasteriser} on {device} is not at hand.")
    return claims
