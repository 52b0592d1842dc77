"""Seconds an iteration of the coarse and the fine stage of a distillation, and of their parts, with the presets' own settings.

The priors are two latent diffusion models with random weights behind the same score distillation as real ones (`random_diffusion`): a
text-to-image model, and one that is told a picture as Zero-1-to-3 is, with the prior preset's guidance. On a CPU they are small: the
seconds of `prior` then say what Lathe spends around a network, not what Stable Diffusion would, and no whole run is projected. On a GPU
both have SD 1.5's full size and its VAE, whose encoder the gradient goes through, and the whole run is projected: seconds an iteration
times the preset's steps, coarse and fine, with the fine stage's start and without the texture's baking. The branches for a GPU have never
been executed: no GPU was at hand when they were written.

An iteration sees the reference view, random views, or both. Of each kind that a preset has, iterations from the middle of its run are
measured, and weighted by how often they occur. The field is the soft ball that a run begins with; a later field fills other cells.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any

import torch

from ...pipelines.cameras.orbits import posed_cameras
from ...pipelines.distillation.cameras_and_shading import ReferenceView
from ...pipelines.distillation.field import DistilField
from ...pipelines.distillation.loop import Distillation
from ...pipelines.distillation.mesh import DistilMesh
from ...pipelines.distillation.prior_settings import preset_names, stages_of
from ...pipelines.distillation.priors import Prior, ScoreDistillation, combine, trade
from ...pipelines.distillation.settings import DistilPreset, LoopSettings, load_distil_preset
from ...training.objects import BUNDLED, load_object, split
from .. import common
from ..oracle_priors import FOV, RADIUS, TrueViews
from . import hash_grid
from .random_diffusion import RandomDiffusion

PRESETS, STAGES = ("mini", "threestudio", "paper"), ("coarse", "fine")
SIZES = {"mini": (64, 64)}
PAPER_SIZES = (512, 256)
"""Sides of the pictures that the 2D and the 3D prior are asked about."""
ITERATIONS = {"mini": 8}
"""Of each kind that are measured on a CPU; 1 where nothing is said."""
GPU_ITERATIONS, GPU_WARM_UP = 20, 3
REFERENCE_SIDE, WARM_UP_SIDE = 256, 32
GOAL_MINUTES = 10.0
PARTS = ("prepare", "render", "prior", "backward and step")


class Stopwatch:
    """Seconds by the clock and of the processor, by part. On a GPU it waits until all that was begun is done."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.spent: dict[str, list[float]] = {}
        self.busy: dict[str, list[float]] = {}

    def timed(self, name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        """`run`, whose seconds are noted under `name`."""

        @wraps(run)
        def measured(*args: Any, **options: Any) -> Any:
            start, start_busy = self._now(), time.process_time()
            made = run(*args, **options)
            self.spent.setdefault(name, []).append(self._now() - start)
            self.busy.setdefault(name, []).append(time.process_time() - start_busy)
            return made

        return measured

    def clear(self) -> None:
        """Forgets what was noted."""
        self.spent, self.busy = {}, {}

    def parts(self, iterations: int) -> dict[str, dict[str, float]]:
        """Seconds an iteration of each part; what is left of "step" is backward, the optimiser's step and the losses."""
        out = {}
        for kind, noted in (("seconds", self.spent), ("cpu_seconds", self.busy)):
            each = {name: sum(noted.get(name, [])) / iterations for name in ("prepare", "render", "prior")}
            each["backward and step"] = sum(noted["step"]) / iterations - sum(each.values())
            out[kind] = each
        return out

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def kind_of(number: int, settings: LoopSettings) -> str:
    """What the iteration of this number, from 1, looks at: "reference", "random" or "both"."""
    if number > settings.reference_first and number % settings.reference_every:
        return "random"
    return "both" if settings.together and number > settings.reference_first else "reference"


def kind_made(losses: dict[str, float]) -> str:
    """The same, from what a step says it did."""
    return "both" if {"reference", "prior"} <= set(losses) else "random" if "prior" in losses else "reference"


def priors(preset: str, device: torch.device, full: bool) -> tuple[Prior, list[RandomDiffusion]]:
    """The two priors in full weight, as Magic123 has them, with the prior preset of that name where there is one."""
    weighting = preset if preset in preset_names() else "threestudio"
    models = [RandomDiffusion(size, full=full, seen=kind == "3d", device=device, seed=number)
              for number, (kind, size) in enumerate(zip(("2d", "3d"), SIZES.get(preset, PAPER_SIZES), strict=True))]  # fmt: skip
    parts = [ScoreDistillation(model, stages_of(weighting, kind)) for model, kind in zip(models, ("2d", "3d"), strict=True)]
    return combine(list(zip(parts, trade(0.5), strict=True))), models


def measure(loop: Distillation, stage: str, iterations: int, warm_up: int) -> dict[str, Any]:
    """Seconds an iteration of a loop that has made no step yet, and how they divide.

    Raises:
        RuntimeError: a step was not finite, so that it was not a whole one, or saw other views than foretold.
    """
    settings, watch = loop.settings, Stopwatch(loop.device)
    evaluated: list[int] = []
    grid = loop.net.grid  # type: ignore[attr-defined]
    grid.register_forward_hook(lambda _, inputs, __: evaluated.append(len(inputs[0])))
    numbers: dict[str, list[int]] = {}
    for number in range(1, settings.steps + 1):
        numbers.setdefault(kind_of(number, settings), []).append(number)
    prepared = watch.timed("prepare", loop.before)
    loop.before = prepared  # type: ignore[method-assign]
    loop.draw = watch.timed("render", loop.draw)  # type: ignore[method-assign]
    assert loop.prior is not None
    prior = loop.prior
    told = watch.timed("prior", prior.guide)
    loop.prior = _Told(prior, told)
    _warm_up(loop)
    coarse = stage == "coarse"
    every = settings.march.every if coarse else 1  # type: ignore[attr-defined]
    if coarse:
        loop.losses = []
        watch.clear()
        prepared(0.0)
        update, update_busy = watch.spent["prepare"][0] / every, watch.busy["prepare"][0] / every
    kinds: dict[str, Any] = {}
    step = watch.timed("step", loop.step)
    for kind, known in numbers.items():
        for measuring, count in ((False, warm_up), (True, iterations)):
            watch.clear()
            evaluated.clear()
            for _ in range(count):
                loop.losses = [{}] * (known[len(known) // 2] - 1)
                if kind_made(step()) != kind:
                    raise RuntimeError(f"The {stage} stage made a step of another kind than {kind!r}.")
            if measuring:
                made = watch.parts(count)
                if coarse:  # whether a measured step updates the occupancy is chance; its share is known
                    made["seconds"]["prepare"], made["cpu_seconds"]["prepare"] = update, update_busy
                kinds[kind] = {"share": len(known) / settings.steps, "points": sum(evaluated) / count, **made}
    if loop.skipped:
        raise RuntimeError(f"{loop.skipped} steps of the {stage} stage were not finite; they are no measurement.")
    parts = {of: {part: sum(one["share"] * one[of][part] for one in kinds.values()) for part in PARTS} for of in ("seconds", "cpu_seconds")}
    return {
        "seconds": sum(parts["seconds"].values()),
        "cpu_seconds": sum(parts["cpu_seconds"].values()),
        "parts": parts["seconds"],
        "cpu_parts": parts["cpu_seconds"],
        "points": sum(one["share"] * one["points"] for one in kinds.values()),
        "kinds": kinds,
        "iterations_of_each_kind": iterations,
        "pixels": settings.size_at(0.5),
        "steps": settings.steps,
    }


class _Told:
    """A prior whose `guide` is timed. The loop has asked for its stage and its cameras already."""

    def __init__(self, prior: Prior, guide: Callable[..., Any]) -> None:
        self.required_cameras = getattr(prior, "required_cameras", None)
        self.guide = guide


def _warm_up(loop: Distillation) -> None:
    """A small step of each kind, so that kernels are compiled."""
    settings = loop.settings
    loop.settings = replace(settings, size=WARM_UP_SIDE, first_size=0, reference_first=0, reference_every=1, together=True)
    loop.step()
    loop.settings = settings


def work(form: str) -> dict[str, Any]:
    """In a child process: one stage with one preset, as "mini coarse"."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    preset, stage = form.split()
    return run(preset, load_distil_preset(preset), stage, device)


def run(name: str, preset: DistilPreset, stage: str, device: torch.device) -> dict[str, Any]:
    """One stage with these settings. CUDA has networks in full size and more iterations."""
    full = device.type == "cuda"
    iterations, warm_up = (GPU_ITERATIONS, GPU_WARM_UP) if full else (ITERATIONS.get(name, 1), 0)
    truth = TrueViews(load_object(BUNDLED, split("bench")[0]))
    image, mask = truth.render(posed_cameras([0.0], [0.0], RADIUS, FOV), REFERENCE_SIDE)
    reference = ReferenceView(image, mask)
    prior, models = priors(name, device, full)
    loop = DistilField(reference, prior, preset.coarse, device=device)
    watch = Stopwatch(device)
    if stage == "coarse":
        result = measure(loop, stage, iterations, warm_up)
    else:
        # How long the colours of the start are learned matters to a projection alone.
        settings = preset.fine if full else replace(preset.fine, color_start=1)
        mesh = watch.timed("start", DistilMesh)(loop.field(), reference, prior, settings, device=device)
        del loop
        result = measure(mesh, stage, iterations, warm_up)
        result["faces"] = len(mesh.mesh().faces)
        result["start_seconds"] = watch.spent["start"][0]
    result["prior"] = "SD 1.5 in full size, random weights" if full else "small latent diffusion, random weights"
    result |= {"full": full, "prior_weights": [model.weights for model in models], "peak_gib": common.peak_rss_gib()}
    if full:
        result["peak_gpu_gib"] = torch.cuda.max_memory_allocated(device) / common.GIB
    return result


def projected(coarse: dict[str, Any], fine: dict[str, Any]) -> float | None:
    """Minutes of a whole run, coarse and fine; None where the networks were small."""
    if not (coarse["full"] and fine["full"]):
        return None
    return float(sum(stage["seconds"] * stage["steps"] for stage in (coarse, fine)) + fine["start_seconds"]) / 60


def report(results: dict[str, dict[str, Any]], grid: dict[str, Any], facts: dict[str, Any]) -> None:
    """The table and the JSON line. `results` by preset and stage; `grid` is what `hash_grid.work` says with two threads."""
    rows = []
    for preset, result in results.items():
        for stage in STAGES:
            made = result[stage]
            label = f"{preset}, {stage}, {made['pixels']} px"
            rows.append((label, made["seconds"], made["cpu_seconds"], *made["parts"].values(), round(made["points"])))
    common.print_table(("iteration", "seconds", "CPU s", *PARTS, "points"), rows)
    ratios = hash_grid.ratios_to_prototype(grid["cases"])
    print("Hash grid, 2 threads, times the prototype's: " + ", ".join(
        f"{label} {ratio['median']:.2f} ({ratio['cpu_min_of_2_threads']:.2f} by the processor's time)" for label, ratio in ratios.items()
    ))  # fmt: skip
    minutes = {preset: projected(result["coarse"], result["fine"]) for preset, result in results.items()}
    totals = {of: {preset: {stage: result[stage][of] for stage in STAGES} for preset, result in results.items()}
              for of in ("seconds", "cpu_seconds")}  # fmt: skip
    for preset, whole in minutes.items():
        if whole is not None:
            print(f"{preset}: a whole run would take {whole:.1f} minutes here.")
    if all(whole is None for whole in minutes.values()):
        print("No GPU: the networks were small, and no whole run is projected.")
    common.finish(
        {
            "bench": "speed",
            "stage": "distil",
            **totals,
            "projected_minutes": minutes,
            "goal_minutes": GOAL_MINUTES,
            "hash_grid_ratio_to_prototype": ratios,
            "presets": results,
            "machine": facts,
        }
    )
