"""One picture and priors in, a field and a mesh out, with oracles in the priors' place: what the loops reach when the priors are right."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...pipelines import metrics
from ...pipelines.cameras.orbits import posed_cameras
from ...pipelines.data.cameras import Cameras
from ...pipelines.data.mesh import Mesh
from ...pipelines.distillation.cameras_and_shading import PLAIN, ReferenceView, Shading
from ...pipelines.distillation.field import DistilField
from ...pipelines.distillation.loop import Distillation, Drawn
from ...pipelines.distillation.priors import Prior, combine, trade
from ...pipelines.distillation.settings import load_distil_preset
from ...pipelines.meshes.clean import clean
from ...pipelines.meshes.extract import field_to_mesh
from ...pipelines.ops import mesh_sampling
from ...pipelines.rendering.mesh import render_mesh
from ...pipelines.systems import magic123
from ...training.objects import load_object
from .. import common, scenes
from ..oracle_priors import FOV, RADIUS, Oracle, TrueViews, oracle_prior
from .report import Row, claim, save_sheet, show_progress

PRESET = "mini"
FINE_OBJECTS = 4
ALONE_OBJECTS = 4  # on which the 2D oracle alone and no prior at all are tried
SLIDER = (0.0, 0.25, 0.5, 0.75, 1.0)
SLIDER_STEPS, SLIDER_SIZE = 100, 32
SUPERSAMPLE = 2  # of field and mesh at the fine size, as of the true views
REFERENCE_SIDE = 256
MESH_CELLS = 96
LEAST_PSNR, LEAST_FSCORE, LEAST_GAIN = 20.0, 0.9, 1.0
LEAST_LEAD = 0.05  # dB by which one trial must be better than another


@dataclass
class Scene:
    """An object, its picture, and the views that a result is judged on, none nearer than 15 degrees to the picture's."""

    key: str
    truth: TrueViews
    surface: Tensor
    reference: ReferenceView
    cameras: Cameras


class _Watched:
    """Remembers the cameras that a loop rendered last, for the oracles to hold the pose they are told against."""

    def __init__(self) -> None:
        self.cameras: Cameras | None = None

    def watch(self, loop: Distillation) -> None:
        draw = loop.draw

        def drawn(cameras: Cameras, size: int, shading: Sequence[Shading], background: Tensor, learning: bool) -> Drawn:
            if learning:
                self.cameras = cameras
            return draw(cameras, size, shading, background, learning)

        loop.draw = drawn  # type: ignore[method-assign]

    def __call__(self) -> Cameras | None:
        return self.cameras


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """`--stage distil`."""
    keys = scenes.chosen_keys(arguments)
    seconds: dict[str, list[float]] = {}

    def spent(name: str, start: tuple[float, float]) -> None:
        for kind, now, before in zip(("seconds", "cpu_seconds"), (time.monotonic(), time.process_time()), start, strict=True):
            seconds.setdefault(f"{kind}_{name}", []).append(now - before)

    rows: dict[str, list[Row]] = {}
    objects: dict[str, dict[str, Any]] = {}
    poses = 0
    known = [load_scene(arguments, key) for key in keys[:2]]
    for number, key in enumerate(keys):
        scene = known[number] if number < len(known) else load_scene(arguments, key)
        pictures = [views_of(scene, load_distil_preset(PRESET).fine.size)]
        start = time.monotonic(), time.process_time()
        coarse, asked = coarse_run(scene, ("3d", "2d"), arguments.seed)
        spent("coarse", start)
        poses += asked
        scores = coarse_scores(coarse, scene)
        if number < FINE_OBJECTS:
            start = time.monotonic(), time.process_time()
            mesh, asked = fine_run(coarse, scene, arguments.seed)
            spent("fine", start)
            poses += asked
            more, shown = fine_scores(coarse, mesh, scene)
            rows.setdefault("fine", []).append(more)
            pictures += shown
        rows.setdefault("ours", []).append(scores)
        if number < ALONE_OBJECTS:
            for name, kinds in (("2d_alone", ("2d",)), ("none", ())):
                start = time.monotonic(), time.process_time()
                alone, asked = coarse_run(scene, kinds, arguments.seed)
                spent(name, start)
                poses += asked
                rows.setdefault(name, []).append(coarse_scores(alone, scene))
        objects[key] = {name: made[-1] for name, made in rows.items() if number < len(made)}
        show_progress(key, {name: made for name, made in rows.items() if number < len(made)}, tuple(rows["ours"][0]) + ("psnr", "gain"))
        if arguments.pictures and len(pictures) > 1:
            save_sheet(arguments.pictures, "distil", key, [part[::3] for part in pictures])
    result: dict[str, Any] = {"preset": PRESET, "objects": len(keys), "poses_checked": poses, "per_object": objects}
    result |= {name: float(np.mean(values)) for name, values in seconds.items()}
    result |= summarise(rows)
    result["slider"] = slider(*known, arguments.seed) if len(known) == 2 else None
    print()
    common.print_table(("prior", "psnr", "fscore_0.2"), [(n, m["psnr"], m["fscore_0.2"]) for n, m in result["means"].items()])
    result["claims"] = claims(result)
    return result


def load_scene(arguments: argparse.Namespace, key: str) -> Scene:
    """An object of the library, its front as the reference view of Magic123's setting."""
    if arguments.meshes is not None:
        raise ValueError("The stage distil has oracles for the library's objects only: leave --meshes out.")
    obj = load_object(arguments.objects, key)
    truth = TrueViews(obj)
    mesh = Mesh(torch.from_numpy(obj.vertices), torch.from_numpy(obj.faces).long())
    image, mask = truth.render(posed_cameras([0.0], [0.0], RADIUS, FOV), REFERENCE_SIDE)
    azimuths = [30.0 * step + 15.0 for step in range(12)]
    cameras = posed_cameras(azimuths, [(-15.0, 10.0, 35.0)[step % 3] for step in range(12)], RADIUS, FOV)
    return Scene(key, truth, mesh_sampling.sample_surface(mesh, scenes.SURFACE_POINTS, seed=0), ReferenceView(image, mask), cameras)


def oracles(scene: Scene, kinds: Sequence[str], size: int, watched: _Watched) -> tuple[Prior | None, list[Oracle]]:
    """The priors named, in the balance of the slider's middle, and the oracles in them."""
    made = [oracle_prior(scene.truth, size, words=kind == "2d", watch=watched) for kind in kinds]
    models = [prior.model for prior in made if isinstance(prior.model, Oracle)]
    by_kind = dict(zip(kinds, made, strict=True))
    if len(made) == 2:
        return magic123.both_priors(by_kind["2d"], by_kind["3d"]), models
    return (made[0] if made else None), models


def coarse_run(scene: Scene, kinds: Sequence[str], seed: int) -> tuple[DistilField, int]:
    """A finished coarse stage, and how many poses the oracles checked."""
    settings, watched = load_distil_preset(PRESET).coarse, _Watched()
    prior, models = oracles(scene, kinds, settings.size, watched)
    loop = magic123.coarse(scene.reference, prior, preset=PRESET, seed=seed)
    watched.watch(loop)
    loop.run(settings.steps)
    return loop, sum(model.checked for model in models)


def fine_run(coarse: DistilField, scene: Scene, seed: int) -> tuple[Mesh, int]:
    """A finished, textured mesh of the fine stage, and how many poses the oracles checked."""
    settings, watched = load_distil_preset(PRESET).fine, _Watched()
    prior, models = oracles(scene, ("3d", "2d"), settings.size, watched)
    loop = magic123.fine(coarse.field(), scene.reference, prior, preset=PRESET, seed=seed)
    watched.watch(loop)
    loop.run(settings.steps)
    return loop.textured(), sum(model.checked for model in models)


def views_of(scene: Scene, size: int) -> Tensor:
    """The true views that results are judged on."""
    return scene.truth.render(scene.cameras, size)[0]


def drawn_views(loop: DistilField, cameras: Cameras, size: int) -> Tensor:
    """What the field looks like; as Render Views, but only where the loop knows that something is."""
    white = torch.ones(3)
    return torch.cat([loop.draw(cameras.select([view]), size, [PLAIN], white, False).images for view in range(cameras.n_views)])


def coarse_scores(loop: DistilField, scene: Scene) -> Row:
    """PSNR of novel views at the coarse size, and F-score of the surface in the object's own size."""
    size, field = loop.coarse.size, loop.field()
    images = drawn_views(loop, scene.cameras, size)
    scores = {"psnr": float(metrics.psnr(images, views_of(scene, size)).mean())}
    try:
        mesh = clean(field_to_mesh(field, "marching_cubes", MESH_CELLS))
    except ValueError:  # a loop without a prior need not have a surface
        return scores | {"fscore_0.2": 0.0, "fscore_0.05": 0.0}
    return scores | _surface(mesh, scene)


def fine_scores(coarse: DistilField, mesh: Mesh, scene: Scene) -> tuple[Row, list[Tensor]]:
    """PSNR of novel views of field and mesh at the fine size, their difference, F-scores; and the two sets of pictures."""
    size = load_distil_preset(PRESET).fine.size
    truth = views_of(scene, size)
    before = F.avg_pool2d(drawn_views(coarse, scene.cameras, SUPERSAMPLE * size), SUPERSAMPLE)
    after = render_mesh(mesh, scene.cameras, size, size, supersample=SUPERSAMPLE).images
    low, high = (float(metrics.psnr(images, truth).mean()) for images in (before, after))
    return {"psnr": high, "psnr_coarse": low, "gain": high - low} | _surface(mesh, scene), [before, after]


def _surface(mesh: Mesh, scene: Scene) -> Row:
    own = Mesh(mesh.vertices / scene.truth.scale, mesh.faces)
    scores = metrics.surface_scores(mesh_sampling.sample_surface(own, scenes.SURFACE_POINTS, seed=1), scene.surface)
    return {name: scores[name] for name in ("fscore_0.2", "fscore_0.05")}


def slider(first: Scene, second: Scene, seed: int) -> list[dict[str, float]]:
    """PSNR to either object with the oracles of both, by the slider between them; short runs that know no picture."""
    out = []
    settings = load_distil_preset(PRESET).coarse
    settings = replace(settings, steps=SLIDER_STEPS, size=SLIDER_SIZE, first_size=0)
    print("\nSlider between the oracles of two objects:")
    for share in SLIDER:
        watched = _Watched()
        prior = combine([(oracle_prior(scene.truth, SLIDER_SIZE, watch=watched), weight)
                         for scene, weight in zip((second, first), trade(share), strict=True)])  # fmt: skip
        loop = DistilField(ReferenceView(), prior, settings, seed=seed)
        watched.watch(loop)
        loop.run(settings.steps)
        images = drawn_views(loop, first.cameras, SLIDER_SIZE)
        to_first, to_second = (float(metrics.psnr(images, views_of(scene, SLIDER_SIZE)).mean()) for scene in (first, second))
        out.append({"slider": share, "psnr_first": to_first, "psnr_second": to_second})
        print(f"  {share:.2f}: {to_first:.1f} dB to {first.key}, {to_second:.1f} dB to {second.key}", flush=True)
    return out


def summarise(rows: dict[str, list[Row]]) -> dict[str, Any]:
    """Means; those of the trials with fewer objects over the same objects."""

    def mean(name: str, what: str, count: int | None = None) -> float:
        return float(np.mean([row[what] for row in rows[name][:count]]))

    few = len(rows["none"])
    means = {name: {what: mean(name, what, few) for what in ("psnr", "fscore_0.2")} for name in ("ours", "2d_alone", "none")}
    return {
        "coarse_psnr": mean("ours", "psnr"), "fscore_0.2": mean("ours", "fscore_0.2"),
        "coarse_psnr_at_fine_size": mean("fine", "psnr_coarse"), "fine_psnr": mean("fine", "psnr"),
        "fine_gain": mean("fine", "gain"), "fine_fscore_0.2": mean("fine", "fscore_0.2"),
        "fine_fscore_0.05": mean("fine", "fscore_0.05"), "coarse_fscore_0.05": mean("ours", "fscore_0.05"), "means": means,
    }  # fmt: skip


def claims(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What the stage says of the loops."""
    means = result["means"]
    out = [
        claim("coarse_psnr", result["coarse_psnr"], LEAST_PSNR),
        claim("fscore_0.2", result["fscore_0.2"], LEAST_FSCORE),
        claim("fine_gain", result["fine_gain"], LEAST_GAIN),
        claim("both over 2D alone, dB", means["ours"]["psnr"] - means["2d_alone"]["psnr"], LEAST_LEAD),
        claim("2D alone over none, dB", means["2d_alone"]["psnr"] - means["none"]["psnr"], LEAST_LEAD),
    ]
    if result["slider"]:
        lead = [row["psnr_second"] - row["psnr_first"] for row in result["slider"]]
        steps = [after - before for before, after in zip(lead, lead[1:], strict=False)]
        out.append(claim("slider moves to the second object, least step in dB", min(steps), LEAST_LEAD))
        out.append(claim("slider ends at either object, dB", min(-lead[0], lead[-1]), 1.0))
    return out
