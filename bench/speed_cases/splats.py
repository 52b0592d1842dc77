"""Forward and backward of the splat rasteriser: the numba kernels beside the PyTorch form, and gsplat where there is a GPU.

The scene is a bumpy sphere of small tilted Gaussians seen from a distance of 4: about 20 of them contribute to a pixel. A run is what an
optimiser's step pays: projection, sorting, blending, a squared error on colour and alpha, and all gradients.
After these, a whole fit by preset (`splat_fit`).
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ...pipelines.data.cameras import Cameras
from ...pipelines.ops import camera_math
from ...pipelines.ops.splat_raster import dispatch, proof
from .. import common
from . import splat_fit

SIZES = ((10_000, 256), (50_000, 512), (100_000, 512))
"""Gaussians and pixels along an edge."""
PROTOTYPE_MS = {1: (22.0, 90.0, 149.0), 2: (23.0, 60.0, 98.0)}
"""Median milliseconds at SIZES with 1 and 2 threads: prototype figures, 2 shared Zen 4 cores, quiet. The target is 1.5 times these."""
REPEATS = 9
GROWTH = {
    "gaussians": [(n, 512, 1) for n in (6_250, 12_500, 25_000, 50_000, 100_000, 200_000)],
    "pixels along an edge": [(50_000, size, 1) for size in (128, 256, 512, 1024)],
    "views": [(20_000, 256, views) for views in (1, 2, 4, 8, 16)],
}


def scene(n: int, size: int, views: int, device: str) -> tuple[list[Tensor], dict[str, Any], Tensor]:
    """Leaves to differentiate, the other arguments of `render_gaussians`, and the target pictures with alpha."""
    draws = torch.Generator().manual_seed(0)
    out = torch.nn.functional.normalize(torch.randn(n, 3, generator=draws), dim=-1)
    x, y, z = out.unbind(-1)
    bumps = 1 + 0.12 * torch.sin(5 * x + 1) * torch.sin(7 * y) + 0.08 * torch.sin(6 * z + x)
    scales = 1.6 / math.sqrt(n) * torch.exp(0.4 * torch.randn(n, 3, generator=draws))
    quats = torch.randn(n, 4, generator=draws)
    opacities, colors = 0.1 + 0.8 * torch.rand(n, generator=draws), torch.rand(n, 3, generator=draws)
    leaves = [part.to(device).requires_grad_() for part in (0.75 * bumps[:, None] * out, quats, scales, opacities, colors)]
    poses = camera_math.orbit(torch.arange(views) * (360 / views) + 20, torch.full((views,), 15.0), 4.0)
    cameras = Cameras(poses, camera_math.intrinsics(30, views), tuple(map(str, range(views))))
    viewmats, Ks = dispatch.splat_cameras(cameras, size, size)
    rest = {"viewmats": viewmats.to(device), "Ks": Ks.to(device), "width": size, "height": size}
    rest["background"] = torch.ones(3, device=device)
    return leaves, rest, torch.rand(views, size, size, 4, generator=draws).to(device)


def step(leaves: list[Tensor], rest: dict[str, Any], target: Tensor) -> Callable[[], dict[str, float]]:
    """One run; gives numbers by which two forms can be told equal."""

    def run() -> dict[str, float]:
        made = dispatch.render_gaussians(*leaves, **rest)
        loss = ((torch.cat([made.color, made.alpha], dim=-1) - target) ** 2).mean()
        gradients = torch.autograd.grad(loss, leaves)
        return {"loss": float(loss.detach()), "gradient": float(gradients[0].norm())}

    return run


def timed(n: int, size: int, views: int, device: str, repeats: int) -> dict[str, Any]:
    """Milliseconds of one case after one run that is not counted, whose seconds are `first_seconds`."""
    run = step(*scene(n, size, views, device))
    start = time.perf_counter()
    made = run()
    first = time.perf_counter() - start
    wall, busy = [], []
    for _ in range(repeats):
        start, start_busy = time.perf_counter(), time.process_time()
        run()
        wall.append(1000 * (time.perf_counter() - start))
        busy.append(1000 * (time.process_time() - start_busy))
    times = {"median_ms": median(wall), "min_ms": min(wall), "cpu_ms": median(busy), "cpu_min_ms": min(busy), "first_seconds": first}
    return {"gaussians": n, "pixels": size, "views": views, **times, **made}


def work(form: str) -> dict[str, Any]:
    """In a child process: every size with one backend; how time grows with ours. Or a whole fit, as "fit fast".

    Raises:
        Disproved: the form draws wrongly on this machine.
    """
    if form.startswith("fit "):
        return splat_fit.work(form.removeprefix("fit "))
    name = {"ours": "numba", "obvious": "torch", "gsplat": "gsplat"}[form]
    device = "cuda" if form == "gsplat" else "cpu"
    backend = importlib.import_module(f"...pipelines.ops.splat_raster.{name}_form", __package__)
    proof.prove(backend, torch.device(device))
    dispatch.backend_for = lambda device: backend  # type: ignore[assignment]
    repeats = 1 if form == "obvious" else REPEATS
    cases = [timed(n, size, 1, device, repeats) for n, size in SIZES]
    growth = {}
    if form != "obvious" and torch.get_num_threads() == 1:
        growth = {label: [timed(*case, device, 3) for case in series] for label, series in GROWTH.items()}
    return {"cases": cases, "growth": growth, "peak_gib": common.peak_rss_gib()}


def report(results: dict[str, dict[str, Any]], fits: dict[str, dict[str, Any]], facts: dict[str, Any], plot: Path | None) -> int:
    """The tables, the picture, and the JSON line. `results` by "ours, 1 thread" and the like, `fits` by preset.

    Returns:
        1 where a claim does not hold, else 0.
    """
    threads_of = {"ours, 1 thread": 1, "ours, 2 threads": 2}
    reference = results["ours, 1 thread"]["cases"]
    rows, ratios = [], {}
    for form, result in results.items():
        for index, case in enumerate(result["cases"]):
            expected = PROTOTYPE_MS[threads_of[form]][index] if form in threads_of else None
            ratio = case["median_ms"] / expected if expected else None
            if expected:
                ratios[f"{form}, {case['gaussians']} @ {case['pixels']}"] = {
                    "median": ratio, "min": case["min_ms"] / expected, "cpu_min": case["cpu_min_ms"] / expected,
                }  # fmt: skip
            label = f"{form}: {case['gaussians']} @ {case['pixels']}"
            rows.append((label, *(case[k] for k in ("median_ms", "min_ms", "cpu_ms", "cpu_min_ms")), expected, ratio))
            for key in ("loss", "gradient"):
                if abs(case[key] - reference[index][key]) > 1e-3 * abs(reference[index][key]):
                    print(f"{label}: another {key} than ours; its figures are no comparison.")
    common.print_table(("form", "median ms", "min ms", "CPU ms", "CPU min ms", "prototype ms", "ratio"), rows)
    growth = results["ours, 1 thread"]["growth"]
    for label, series in growth.items():
        key = {"gaussians": "gaussians", "views": "views"}.get(label, "pixels")
        print(f"\nms (least CPU ms) by {label}: " + ", ".join(f"{c[key]}: {c['min_ms']:.0f} ({c['cpu_min_ms']:.0f})" for c in series))
    if plot:
        draw_growth(results, plot)
    claims = splat_fit.judge(fits)
    common.finish(
        {
            "bench": "speed",
            "stage": "splats",
            "milliseconds": {row[0]: row[1] for row in rows},
            "ratio_to_prototype": ratios,
            "prototype_ms": {f"{threads} thread(s)": dict(zip(map(str, SIZES), ms, strict=True)) for threads, ms in PROTOTYPE_MS.items()},
            "prototype_machine": "prototype figures, 2 shared Zen 4 cores, quiet",
            "forms": results,
            "fits": fits,
            "claims": claims,
            "machine": facts,
        }
    )
    return 0 if all(one["holds"] for one in claims) else 1


def draw_growth(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Milliseconds against Gaussians, pixels and views, in one picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(GROWTH), figsize=(13, 3.6))
    for axis, label in zip(axes, GROWTH, strict=True):
        key = {"gaussians": "gaussians", "views": "views"}.get(label, "pixels")
        for form, result in results.items():
            if series := result["growth"].get(label):
                axis.plot([c[key] for c in series], [c["cpu_min_ms"] for c in series], marker="o", label=form)
        n, size, views = GROWTH[label][0]
        picture, count = f"{size} x {size}", f"{n:,} Gaussians"
        fixed = {"gaussians": picture, "pixels along an edge": count, "views": f"{count}, {picture}"}[label]
        axis.set(xlabel=label, ylabel="forward + backward, CPU ms", title=fixed, xscale="log", yscale="log")
        axis.set_xticks([case[{"gaussians": 0, "views": 2}.get(label, 1)] for case in GROWTH[label]])
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.yaxis.set_major_formatter("{x:.0f}")
        axis.yaxis.set_minor_formatter("{x:.0f}")
        axis.xaxis.minorticks_off()
        axis.grid(alpha=0.3, which="both")
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
