"""Forward and backward of the hash grid: the numba kernels beside the PyTorch form, and the optimiser's step on its table.

The points are those of a picture of 128 x 128 rays with 64 samples each through the cube (1.05 million), the grid is the paper's: 16
levels, 2^19 rows, 16 to 2048 cells. Features are summed with fixed weights; gradients go to the table, and apart from that to the points.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from ...pipelines.ops import camera_math
from ...pipelines.ops.hash_grid.dispatch import HashGrid
from .. import common

SIDE, SAMPLES = 128, 64
PROTOTYPE_MS = {"forward": 120.0, "forward + backward": 280.0}
"""With 2 threads: prototype figures, 2 shared Zen 4 cores, busy. The target is 1.5 times these."""
REPEATS = 7


def scene() -> tuple[torch.Tensor, torch.Tensor]:
    """Points (N, 3) along rays in [-1, 1]^3, and the weights (N, 32) of their features."""
    draws = torch.Generator().manual_seed(0)
    origins, directions = camera_math.rays(camera_math.look_at(torch.tensor([[0.4, 0.3, 1.8]])), camera_math.intrinsics(40, 1), SIDE, SIDE)
    depths = 0.8 + 2.0 * (torch.arange(SAMPLES) + torch.rand(SIDE * SIDE, SAMPLES, generator=draws)) / SAMPLES
    points = origins.reshape(-1, 1, 3) + depths[..., None] * directions.reshape(-1, 1, 3)
    return points.reshape(-1, 3).clamp(-1, 1), torch.rand(SIDE * SIDE * SAMPLES, 32, generator=draws)


def timed(run: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Milliseconds by the clock and of the processor, after one run that is not counted where there are several."""
    if repeats > 1:
        run()
    wall, busy = [], []
    for _ in range(repeats):
        start, start_busy = time.perf_counter(), time.process_time()
        run()
        wall.append(1000 * (time.perf_counter() - start))
        busy.append(1000 * (time.process_time() - start_busy))
    return {"median_ms": median(wall), "min_ms": min(wall), "cpu_min_ms": min(busy)}


def work(form: str) -> dict[str, Any]:
    """In a child process: every part with one backend."""
    backend = importlib.import_module(f"...pipelines.ops.hash_grid.{ {'ours': 'numba', 'obvious': 'torch'}[form] }_form", __package__)
    grid = HashGrid()
    points, weights = scene()
    table, leaf = grid.table, points.clone().requires_grad_()
    repeats = 1 if form == "obvious" else REPEATS

    def encode(where: torch.Tensor) -> torch.Tensor:
        return backend.encode(table, where, grid.layout, grid.levels)

    def forward() -> None:
        with torch.no_grad():
            encode(points)

    def backward(where: torch.Tensor, *leaves: torch.Tensor) -> Callable[[], tuple[torch.Tensor, ...]]:
        return lambda: torch.autograd.grad(encode(where), leaves, weights)

    with torch.no_grad():
        sums = {"features": float((encode(points) * weights).sum())}
    sums["gradient"] = float(backward(points, table)()[0].norm())
    cases = {"forward": timed(forward, repeats), "forward + backward": timed(backward(points, table), repeats)}
    if form == "ours":
        cases["forward + backward, points too"] = timed(backward(leaf, table, leaf), repeats)
        table.grad = backward(points, table)()[0]
        for label, fused in (("Adam", False), ("Adam, fused", True)):
            cases[label] = timed(torch.optim.Adam([table], lr=1e-2, eps=1e-15, fused=fused).step, repeats)
    return {"cases": cases, "sums": sums, "peak_gib": common.peak_rss_gib()}


def ratios_to_prototype(cases: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """By label, of what `work` measured with two threads: the median's, the shortest's, and the processor's time's, shared by the
    threads, which is what a machine that nobody else uses would take."""
    found = {}
    for label, expected in PROTOTYPE_MS.items():
        case = cases[label]
        busy = case["cpu_min_ms"] / 2 / expected
        found[label] = {"median": case["median_ms"] / expected, "min": case["min_ms"] / expected, "cpu_min_of_2_threads": busy}
    return found


def report(results: dict[str, dict[str, Any]], facts: dict[str, Any]) -> None:
    """The table and the JSON line. `results` by "ours, 1 thread" and the like; the ratios are those of "ours, 2 threads"."""
    rows, ratios = [], ratios_to_prototype(results["ours, 2 threads"]["cases"]) if "ours, 2 threads" in results else {}
    for form, result in results.items():
        for label, case in result["cases"].items():
            expected = PROTOTYPE_MS.get(label) if form == "ours, 2 threads" else None
            figures = (case["median_ms"], case["min_ms"], case["cpu_min_ms"])
            rows.append((f"{form}: {label}", *figures, expected, ratios[label]["median"] if expected else None))
        for name, value in results["ours, 1 thread"]["sums"].items():
            if abs(result["sums"][name] - value) > 1e-3 * abs(value):
                print(f"{form}: another sum of {name} than ours; its figures are no comparison.")
    common.print_table(("form", "median ms", "min ms", "CPU min ms", "prototype ms", "ratio"), rows)
    torch_form, ours = results.get("torch, 1 thread"), results["ours, 1 thread"]["cases"]
    times = {}
    if torch_form:
        times = {label: case["cpu_min_ms"] / ours[label]["cpu_min_ms"] for label, case in torch_form["cases"].items()}
        print("CPU time of PyTorch's form, times ours: " + ", ".join(f"{label} {ratio:.1f}" for label, ratio in times.items()))
    common.finish(
        {
            "bench": "speed",
            "stage": "hash_grid",
            "points": SIDE * SIDE * SAMPLES,
            "milliseconds": {row[0]: row[1] for row in rows},
            "ratio_to_prototype": ratios,
            "torch_times_ours": times,
            "prototype_ms": PROTOTYPE_MS,
            "prototype_machine": "prototype figures, 2 threads, 2 shared Zen 4 cores, busy",
            "forms": results,
            "machine": facts,
        }
    )
