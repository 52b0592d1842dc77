"""Views or a picture in, a mesh out, judged on the 21-view orbit."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from ...pipelines import metrics
from ...pipelines.data.mesh import Mesh
from ...pipelines.nets.lpips import LPIPS
from ...pipelines.ops import mesh_sampling
from ...pipelines.rendering.mesh import render_mesh
from .. import baselines, reconstruct, retrieval, scenes
from .report import Row, mean_distance, optional_lpips, save_sheet, show_progress, summary

SMALL_ORBIT = 64  # the size the bars of PSNR are set at
SHEET_VIEWS = [0, 4, 8, 12, 16, 20]


def mesh_scores(mesh: Mesh, scene: scenes.Scene, lpips: LPIPS | None = None) -> tuple[Row, torch.Tensor]:
    """All scores of a mesh, and its orbit pictures."""
    points = mesh_sampling.sample_surface(mesh, scenes.SURFACE_POINTS, seed=1)
    images = render_mesh(mesh, scene.orbit.cameras, scenes.ORBIT_SIZE, scenes.ORBIT_SIZE, supersample=2).images
    truth, small = scene.orbit, scene.orbit.resized(SMALL_ORBIT)
    scores = metrics.surface_scores(points, scene.surface)
    scores["psnr"] = float(metrics.psnr(images, truth.images).mean())
    scores["psnr_64"] = float(metrics.psnr(retrieval.at_size(images, SMALL_ORBIT), small.images).mean())
    scores["psnr_box"] = float(metrics.psnr_box(images, truth.images, truth.masks).mean())
    scores["ssim"] = float(metrics.ssim(images, truth.images).mean())
    if lpips is not None:
        scores["lpips"] = mean_distance(lpips.distance, images, truth.images)
    return scores, images


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """`--stage lrm` and `--stage image_to_mesh`."""
    lrm, lpips = reconstruct.load_lrm(arguments.lrm), optional_lpips(arguments.lpips)
    view_model = None if arguments.stage == "lrm" else reconstruct.load_view_model(arguments.view_model, arguments.white_unet)
    mean_shape = baselines.mean_shape_mesh()
    rows: dict[str, list[Row]] = {}
    failures: list[str] = []
    seconds: list[float] = []
    surfaces: list[torch.Tensor] = []
    keys = scenes.chosen_keys(arguments)
    for key in keys:
        scene = scenes.load_scene(arguments, key, lrm.view_size)

        def ours(scene: scenes.Scene = scene) -> Mesh:
            if view_model is None:
                return reconstruct.views_to_mesh(lrm, scene.six)
            elevation = scene.query_elevation if arguments.elevation is None else arguments.elevation
            return reconstruct.image_to_mesh(view_model, lrm, scene.query, seed=arguments.seed, elevation=elevation, steps=arguments.steps)

        query = scene.query
        makers: dict[str, Callable[[], Mesh]] = {
            "ours": ours,
            "visual_hull": partial(baselines.visual_hull_mesh, scene.six.images, scene.six.masks, scene.six.cameras),
            "extrusion": partial(baselines.extrusion_mesh, query.images[0], query.masks[0], query.cameras),
            "mean_shape": lambda: mean_shape,
        }
        pictures = [scene.orbit.images]
        for name, make in makers.items():
            start = time.monotonic()
            try:
                mesh = make()
            except ValueError as error:
                failures.append(f"{name} on {scene.key}: {error}")
                print(failures[-1])
                mesh = reconstruct.nothing()
            if name == "ours":
                seconds.append(time.monotonic() - start)
                surfaces.append(mesh_sampling.sample_surface(mesh, 4096, seed=2))
            scores, images = mesh_scores(mesh, scene, lpips)
            rows.setdefault(name, []).append(scores)
            pictures.append(images)
        show_progress(scene.key, rows)
        if arguments.pictures:
            save_sheet(arguments.pictures, arguments.stage, scene.key, [p[SHEET_VIEWS] for p in pictures])
    result = summary(rows)
    result["objects"] = len(keys)
    result["failures"] = failures
    result["seconds_per_object"] = float(np.mean(seconds))
    result["mean_distance_between_outputs"] = _mean_distance_between(surfaces)
    return result


def _mean_distance_between(surfaces: list[torch.Tensor]) -> float | None:
    """Mean Chamfer distance between the outputs for different inputs: 0 would mean that the input does not matter."""
    pairs = [metrics.chamfer(surfaces[i], surfaces[j]) for i in range(len(surfaces)) for j in range(i)]
    return float(np.mean(pairs)) if pairs else None
