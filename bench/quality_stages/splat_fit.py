"""Sixteen true views in; splats, and the mesh made of them, out. Beside them the visual hull of the same views."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...pipelines import metrics
from ...pipelines.data.mesh import Mesh
from ...pipelines.ops import mesh_sampling
from ...pipelines.rendering.mesh import render_mesh
from ...pipelines.rendering.splats import render_splats
from ...pipelines.splats.to_mesh import splats_to_mesh
from ...pipelines.systems import im3d
from .. import baselines, common, reconstruct, scenes
from .report import Row, claim, optional_lpips, picture_scores, save_sheet, show_progress, summary

PRESET = "fast"
HULL_RESOLUTION = 192  # a cell is about a pixel wide; 256 adds 0.2 dB in four times the time
LEAST_PSNR, LEAST_FSCORE = 27.0, 0.95
SURFACE_SCORES = ("fscore_0.2", "fscore_0.05", "chamfer")
SHOWN = ("psnr", "ms_ssim", "perceptual", *SURFACE_SCORES)


@dataclass(frozen=True)
class Made:
    """A method's held-out pictures (8, 3, S, S), its surface, and what it took."""

    images: Tensor
    mesh: Mesh
    facts: dict[str, float]


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """`--stage splat_fit`."""
    lpips = optional_lpips(arguments.lpips)
    makers: dict[str, Callable[[scenes.Turntable, int], Made]] = {"ours": splats_and_mesh, "visual_hull": hull}
    rows: dict[str, list[Row]] = {}
    objects: dict[str, dict[str, Any]] = {}
    failures: list[str] = []
    peak = 0.0
    keys = scenes.chosen_keys(arguments)
    for key in keys:
        scene = scenes.load_turntable(arguments, key)
        pictures, facts = [scene.held_out.images], {}
        for name, make in makers.items():
            try:
                made = make(scene, arguments.seed)
            except ValueError as error:
                failures.append(f"{name} on {scene.key}: {error}")
                print(failures[-1])
                made = Made(torch.ones_like(scene.held_out.images), reconstruct.nothing(), {})
            peak = peak or common.peak_rss_gib()  # of the first fit alone: the hull takes more
            surface = metrics.surface_scores(mesh_sampling.sample_surface(made.mesh, scenes.SURFACE_POINTS, seed=1), scene.surface)
            scores = picture_scores(made.images, scene.held_out.images, lpips) | {n: surface[n] for n in SURFACE_SCORES}
            rows.setdefault(name, []).append(scores)
            pictures.append(made.images)
            facts |= made.facts
        objects[scene.key] = {**facts, **{name: scores[-1] for name, scores in rows.items()}}
        show_progress(scene.key, rows, SHOWN)
        print("   ", ", ".join(f"{name} {value:.1f}" for name, value in facts.items()), flush=True)
        if arguments.pictures:
            save_sheet(arguments.pictures, "splat_fit", scene.key, pictures)
    result = summary(rows)
    for name in ("seconds_fit", "cpu_seconds_fit", "seconds_mesh", "seconds_hull", "gaussians"):
        result[name] = float(np.mean([facts[name] for facts in objects.values() if name in facts] or [np.nan]))
    result["seconds_per_object"] = result["seconds_fit"] + result["seconds_mesh"]
    result |= {"preset": PRESET, "objects": len(keys), "per_object": objects, "failures": failures, "peak_gib_first_fit": peak}
    print()
    result["claims"] = [claim("psnr", result["psnr"], LEAST_PSNR), claim("fscore_0.2", result["fscore_0.2"], LEAST_FSCORE)]
    return result


def splats_and_mesh(scene: scenes.Turntable, seed: int) -> Made:
    """Fit Splats, then Splats to Mesh, as they come."""
    views, size = scene.inputs, scenes.TURNTABLE_SIZE
    start, cpu = time.monotonic(), time.process_time()
    splats = im3d.views_to_splats((views.images, views.masks, views.cameras), preset=PRESET, seed=seed)
    fitted, cpu = time.monotonic(), time.process_time() - cpu
    mesh = splats_to_mesh(splats)
    facts = {"seconds_fit": fitted - start, "cpu_seconds_fit": cpu, "seconds_mesh": time.monotonic() - fitted, "gaussians": len(splats)}
    return Made(render_splats(splats, scene.held_out.cameras, size, size).images, mesh, facts)


def hull(scene: scenes.Turntable, seed: int) -> Made:
    """The visual hull with colours of the views that see each place."""
    views, size = scene.inputs, scenes.TURNTABLE_SIZE
    start = time.monotonic()
    mesh = baselines.visual_hull_mesh(views.images, views.masks, views.cameras, HULL_RESOLUTION)
    facts = {"seconds_hull": time.monotonic() - start}
    return Made(render_mesh(mesh, scene.held_out.cameras, size, size, supersample=2).images, mesh, facts)
