"""GeoLRM's claim (section 4.3, table 3): more views, better splats. The mini model on 4 to 20 true views, judged on the same unseen ones.

Beside it, from the same views: the mini LRM of InstantMesh, whose planes were trained on six views, and a splat fit that is given as
much processor time as GeoLRM took.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...pipelines import metrics
from ...pipelines.cameras.orbits import posed_cameras
from ...pipelines.data.cameras import Cameras
from ...pipelines.fitting.perceptual import Perceptual, load_perceptual
from ...pipelines.reconstruction.geolrm.stages import GeoLRM
from ...pipelines.reconstruction.lrm import LRM
from ...pipelines.rendering.mesh import render_mesh
from ...pipelines.rendering.splats import render_splats
from ...pipelines.splats.fit import SplatFit
from ...pipelines.splats.fit_settings import load_fit_preset
from ...pipelines.splats.start import start_from_hull
from ...pipelines.systems import geolrm as system
from ...pipelines.weights.geolrm import MINI_FILE, load_geolrm
from .. import common
from .. import reconstruct as stages
from ..scenes import Views, angles_between, chosen_keys, load_depths, load_views
from .report import claim, save_sheet

COUNTS = (4, 8, 12, 16, 20)
SIZE = 64
RINGS, JUDGED_ELEVATIONS = (-10.0, 30.0), (10.0, 55.0)
LEAST_ANGLE = 15.0  # degrees between a judged view and any that goes in
LEAST_GAIN, MOST_FALL = 0.5, 0.05  # dB
THRESHOLD = 0.5
METHODS = ("ours", "lrm", "splat_fit")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """`--stage geolrm`."""
    geolrm, lrm, perceptual = load_geolrm(arguments.geolrm or MINI_FILE), stages.load_lrm(arguments.lrm), load_perceptual()
    inputs, judged = cameras_of_stage()
    psnr: dict[str, dict[int, list[float]]] = {name: {count: [] for count in COUNTS} for name in METHODS}
    ious: dict[int, list[float]] = {count: [] for count in COUNTS}
    recalls: dict[int, list[float]] = {count: [] for count in COUNTS}
    seconds: dict[int, list[float]] = {count: [] for count in COUNTS}
    objects: dict[str, Any] = {}
    for key in chosen_keys(arguments):
        *given, truth = load_views(arguments, key, [*inputs.values(), judged], SIZE)
        cells = true_cells(arguments, key, geolrm)
        shown = [truth.images]
        for count, views in zip(COUNTS, given, strict=True):
            start = time.process_time()
            seen = views.images, views.masks, views.cameras
            occupancy = system.views_to_voxels(seen, geolrm)
            splats = system.voxels_to_splats(occupancy, seen, geolrm, threshold=THRESHOLD, seed=arguments.seed)
            spent = time.process_time() - start
            seconds[count].append(spent)
            found = occupancy[0] > THRESHOLD
            ious[count].append(float((found & cells).sum() / (found | cells).sum().clamp_min(1)))
            recalls[count].append(float((found & cells).sum() / cells.sum().clamp_min(1)))
            images = {
                "ours": render_splats(splats, judged, SIZE, SIZE).images,
                "lrm": lrm_pictures(lrm, views, judged),
                "splat_fit": fit_pictures(views, judged, spent, arguments.seed, perceptual),
            }
            for name, pictures in images.items():
                psnr[name][count].append(float(metrics.psnr(pictures, truth.images).mean()))
            if count in (COUNTS[0], COUNTS[-1]):
                shown += images.values()
        objects[key] = {name: {str(count): psnr[name][count][-1] for count in COUNTS} for name in METHODS}
        print(f"{key}: " + "; ".join(f"{name} " + " ".join(f"{psnr[name][c][-1]:.2f}" for c in COUNTS) for name in METHODS), flush=True)
        if arguments.pictures:
            save_sheet(arguments.pictures, "geolrm", key, [torch.nn.functional.interpolate(row, scale_factor=2.0) for row in shown])
    means = {name: [float(np.mean(psnr[name][count])) for count in COUNTS] for name in METHODS}
    print()
    table = [(name, *values) for name, values in means.items()]
    table += [(name, *(float(np.mean(by[c])) for c in COUNTS)) for name, by in (("iou", ious), ("recall", recalls), ("CPU s", seconds))]
    common.print_table(("mean", *(f"{count} views" for count in COUNTS)), table)
    ours = means["ours"]
    falls = [before - after for before, after in zip(ours, ours[1:], strict=False)]
    by_views: Callable[[list[float]], dict[str, float]] = lambda values: dict(zip(map(str, COUNTS), values, strict=True))  # noqa: E731
    return {
        "psnr_by_views": by_views(ours),
        "lrm_psnr_by_views": by_views(means["lrm"]),
        "splat_fit_psnr_by_views": by_views(means["splat_fit"]),
        "iou": float(np.mean(ious[COUNTS[-1]])),
        "recall": float(np.mean(recalls[COUNTS[-1]])),
        "iou_by_views": by_views([float(np.mean(ious[count])) for count in COUNTS]),
        "recall_by_views": by_views([float(np.mean(recalls[count])) for count in COUNTS]),
        "cpu_seconds_by_views": by_views([float(np.mean(seconds[count])) for count in COUNTS]),
        "gain": common.paired_confidence(psnr["ours"][COUNTS[-1]], psnr["ours"][COUNTS[0]]),
        "per_object": objects,
        "claims": [
            claim("dB that 20 views are better than 4", ours[-1] - ours[0], LEAST_GAIN),
            claim("dB by which no step falls, as a negative number", -max(falls), -MOST_FALL),
        ],
    }


def cameras_of_stage() -> tuple[dict[int, Cameras], Cameras]:
    """Cameras of each number of views, half of them on each of two rings, and the 8 by which all are judged.

    Raises:
        ValueError: a judged view lies within 15 degrees of one that goes in.
    """
    from ...training.render_dataset import FOV, RADIUS

    inputs = {}
    for count in COUNTS:
        azimuths = [360.0 * step / count for step in range(count)]
        inputs[count] = posed_cameras(azimuths, [RINGS[step % 2] for step in range(count)], RADIUS, FOV)
    judged = posed_cameras([9 + 45.0 * step for step in range(8)], [JUDGED_ELEVATIONS[step % 2] for step in range(8)], RADIUS, FOV)
    for count, cameras in inputs.items():
        nearest = float(angles_between(cameras, judged).min())
        if nearest < LEAST_ANGLE:
            raise ValueError(f"A judged view lies {nearest:.1f} degrees from one of {count}; at least {LEAST_ANGLE:g} are needed.")
    return inputs, judged


def true_cells(arguments: argparse.Namespace, key: str, geolrm: GeoLRM) -> Tensor:
    """The cells that depth maps from all around say are surface (GeoLRM A.1), (Z, Y, X) as `propose` gives them."""
    from ...pipelines.ops.coordinate_frames.geolrm import geolrm_cameras
    from ...pipelines.reconstruction.geolrm.stages import to_voxel
    from ...training.geolrm.occupancy import occupied_cells, surface_points
    from ...training.render_dataset import dataset_cameras

    cameras = dataset_cameras(Path(key).stem if arguments.meshes else key).select(list(range(32)))
    depths = load_depths(arguments, key, cameras, 2 * SIZE)
    poses, _, unit = geolrm_cameras(cameras)
    cells = occupied_cells(surface_points(depths / unit, poses, cameras.K), geolrm.proposal.config.grid)  # type: ignore[union-attr]
    return to_voxel(torch.where(cells, 1.0, -1.0)) > THRESHOLD


def lrm_pictures(lrm: LRM, views: Views, judged: Cameras) -> Tensor:
    """What the mini LRM makes of the views, as the judged cameras see its mesh."""
    mesh = stages.views_to_mesh(lrm, views)
    return render_mesh(mesh, judged, SIZE, SIZE, supersample=2).images


def fit_pictures(views: Views, judged: Cameras, seconds: float, seed: int, perceptual: Perceptual) -> Tensor:
    """A splat fit of the views that ends after so much processor time."""
    settings = load_fit_preset("fast")
    start = time.process_time()
    begun = start_from_hull(views.images, views.masks, views.cameras, settings.points, seed)
    fit = SplatFit(views.images, views.masks, views.cameras, start=begun, settings=settings, seed=seed, perceptual=perceptual)
    while time.process_time() - start < seconds:
        fit.step()
    return render_splats(fit.result().splats, judged, SIZE, SIZE).images
