"""Speed and memory, beside the obvious form of the same mathematics and beside the published code.

    python bench/speed.py --stage flexicubes [--official DIR]
    python bench/speed.py --stage lrm [--official DIR] [--variant instant_mesh_large]
    python bench/speed.py --stage image_to_mesh
    python bench/speed.py --stage splats [--plot FILE]
    python bench/speed.py --stage hash_grid
    python bench/speed.py --stage distil

DIR is a checkout of InstantMesh that the user has fetched. Every form runs in a process of its own, one after the other, with the same
number of threads and the same inputs; memory is that process's peak, its weights included. CPU seconds say the same of a machine that
others use too: they do not count the time spent waiting for a core. The last line is JSON: `seconds` and
`peak_gib` of ours, and `ratio`, how many times as long the published code takes (the obvious form where no DIR is given). The stage
`splats` is forward and backward of the splat rasteriser with 1 and 2 threads, in milliseconds, and how they grow; --plot draws that. Then
it fits splats to 16 views: preset fast with 2 threads in less than 300 seconds, and where gsplat works, paper in less than 60; the exit
status is 1 where one takes longer.
`hash_grid` is the same of the hash grid that fields are distilled into. `distil` is seconds an iteration of the distillation loops and of
their parts, with the small preset and two at the paper's sizes, and the hash grid's ratio beside (many minutes on a busy CPU).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import lathe_root  # noqa: E402, F401
import torch  # noqa: E402
from lathe.bench import common  # noqa: E402

REPEATS = {"flexicubes": 5, "lrm": 1, "image_to_mesh": 2}
SAME = 1e-3  # relative difference of the outputs' sums up to which two forms did the same work


def work(arguments: argparse.Namespace) -> dict[str, Any]:
    """In a child process: prepares one form, runs it, and measures."""
    from lathe.bench.speed_cases import distil, hash_grid, official, ours, splats

    torch.set_num_threads(arguments.threads)
    if arguments.stage == "splats":
        return splats.work(arguments.worker)
    if arguments.stage == "hash_grid":
        return hash_grid.work(arguments.worker)
    if arguments.stage == "distil":
        return distil.work(arguments.worker)
    n, variant = arguments.resolution, arguments.variant
    make = {
        ("flexicubes", "ours"): partial(ours.flexicubes_ours, n),
        ("flexicubes", "obvious"): partial(ours.flexicubes_obvious, n),
        ("flexicubes", "official"): partial(official.flexicubes, arguments.official, n),
        ("lrm", "ours"): partial(ours.lrm_ours, variant),
        ("lrm", "obvious"): partial(ours.lrm_obvious, variant),
        ("lrm", "official"): partial(official.lrm, arguments.official, variant),
        ("image_to_mesh", "ours"): partial(ours.image_to_mesh, False),
        ("image_to_mesh", "obvious"): partial(ours.image_to_mesh, True),
    }[arguments.stage, arguments.worker]
    run = make()
    prepared = common.peak_rss_gib()
    seconds, busy, made = [], [], {}
    for _ in range(REPEATS[arguments.stage]):
        start, start_busy = time.perf_counter(), time.process_time()
        made = run()
        seconds.append(time.perf_counter() - start)
        busy.append(time.process_time() - start_busy)
    times = {"seconds": median(seconds), "fastest": min(seconds), "cpu_seconds": median(busy)}
    return {**times, "peak_gib": common.peak_rss_gib(), "peak_before_gib": prepared, **made}


def measure(arguments: argparse.Namespace, form: str) -> dict[str, Any]:
    """Runs one form in a child process.

    Raises:
        RuntimeError: the child failed.
    """
    command = [sys.executable, __file__, "--worker", form, "--stage", arguments.stage, "--variant", arguments.variant]
    command += ["--resolution", str(arguments.resolution), "--threads", str(arguments.threads)]
    if arguments.official:
        command += ["--official", str(arguments.official)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads), "MKL_NUM_THREADS": str(arguments.threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise RuntimeError(f"The {form} form failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> int:
    """Runs a stage; 1 where a claim of its does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=(*REPEATS, "splats", "hash_grid", "distil"), required=True)
    parser.add_argument("--official", type=Path, help="a checkout of the published InstantMesh code")
    parser.add_argument("--variant", default="instant_mesh_base", choices=("instant_mesh_base", "instant_mesh_large"))
    parser.add_argument("--resolution", type=int, default=128, help="of FlexiCubes, cubes an edge")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--plot", type=Path, help="where to draw how the time of splats grows, .png (needs matplotlib)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        common.finish(work(arguments))
        return 0
    torch.set_num_threads(arguments.threads)
    facts = common.machine()
    print(common.machine_line(facts), flush=True)
    if arguments.stage == "splats":
        return measure_splats(arguments, facts)
    if arguments.stage == "hash_grid":
        measure_hash_grid(arguments, facts)
        return 0
    if arguments.stage == "distil":
        measure_distil(arguments, facts)
        return 0
    forms = ["ours", "obvious"]
    if arguments.official and arguments.stage == "image_to_mesh":
        print("The published pipeline from picture to mesh needs its released weights: compare it stage by stage.")
    elif arguments.official:
        forms.append("official")
    results: dict[str, dict[str, Any]] = {}
    for form in forms:
        results[form] = measure(arguments, form)
        print(f"{form}: {results[form]['seconds']:.2f} s, peak {results[form]['peak_gib']:.2f} GiB", flush=True)
    report(arguments, results, facts)
    return 0


def measure_splats(arguments: argparse.Namespace, facts: dict[str, Any]) -> int:
    """Ours with 1 and 2 threads, the PyTorch form, and gsplat where it works on a GPU; then whole fits.

    PyTorch's idle threads sleep here: spinning, as they do by default, they take the cores of a shared machine from the kernels.
    """
    from lathe.bench.speed_cases import splats

    forms = [("ours, 1 thread", "ours", 1), ("ours, 2 threads", "ours", 2), ("torch, 1 thread", "obvious", 1)]
    if torch.cuda.is_available():
        forms.append(("gsplat", "gsplat", 1))
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    results = {}
    for label, form, threads in forms:
        arguments.threads = threads
        try:
            results[label] = measure(arguments, form)
        except RuntimeError as error:
            if form != "gsplat":
                raise
            print(f"gsplat does not work here: {str(error).splitlines()[-1]}")
            continue
        print(f"{label}: done, peak {results[label]['peak_gib']:.2f} GiB", flush=True)
    arguments.threads, fits = 2, {}
    for preset in ("fast", "paper") if "gsplat" in results else ("fast",):
        fits[preset] = measure(arguments, f"fit {preset}")
        print(f"fit with {preset}: {fits[preset]['seconds']:.1f} s, peak {fits[preset]['peak_gib']:.2f} GiB", flush=True)
    return splats.report(results, fits, facts, arguments.plot)


def measure_hash_grid(arguments: argparse.Namespace, facts: dict[str, Any]) -> None:
    """Ours with 1 and 2 threads, and the PyTorch form. As in `measure_splats`, PyTorch's idle threads sleep."""
    from lathe.bench.speed_cases import hash_grid

    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    results = {}
    for label, form, threads in (("ours, 1 thread", "ours", 1), ("ours, 2 threads", "ours", 2), ("torch, 1 thread", "obvious", 1)):
        arguments.threads = threads
        results[label] = measure(arguments, form)
        print(f"{label}: done, peak {results[label]['peak_gib']:.2f} GiB", flush=True)
    hash_grid.report(results, facts)


def measure_distil(arguments: argparse.Namespace, facts: dict[str, Any]) -> None:
    """Every preset with the threads asked for, and the hash grid with 2 as in its own stage."""
    from lathe.bench.speed_cases import distil

    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    results: dict[str, dict[str, Any]] = {}
    for preset in distil.PRESETS:
        for stage in distil.STAGES:
            made = measure(arguments, f"{preset} {stage}")
            results.setdefault(preset, {})[stage] = made
            print(f"{preset}, {stage}: {made['seconds']:.2f} s an iteration, peak {made['peak_gib']:.2f} GiB", flush=True)
    arguments.stage, arguments.threads = "hash_grid", 2
    distil.report(results, measure(arguments, "ours"), facts)


def report(arguments: argparse.Namespace, results: dict[str, dict[str, Any]], facts: dict[str, Any]) -> None:
    """The table, and the JSON line."""
    ours = results["ours"]
    print()
    names = ("seconds", "fastest", "cpu_seconds", "peak_gib", "peak_before_gib", "vertices", "faces")
    rows = [(form, *(r[name] for name in names), r["seconds"] / ours["seconds"]) for form, r in results.items()]
    common.print_table(("form", "median s", "fastest s", "CPU s", "peak GiB", "before GiB", "vertices", "faces", "times ours"), rows)
    for form, r in results.items():
        if "parts" in r:
            print(f"{form}: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in r["parts"].items()))
    other = results.get("official") or results.get("obvious")
    for form, r in results.items():
        if r["faces"] != ours["faces"] or abs(r["sum"] - ours["sum"]) > SAME * abs(ours["sum"]):
            print(f"The {form} form made another mesh than ours; its figures are no comparison.")
    common.finish(
        {
            "bench": "speed",
            "stage": arguments.stage,
            "seconds": ours["seconds"],
            "peak_gib": ours["peak_gib"],
            "ratio": other["seconds"] / ours["seconds"] if other else None,
            "cpu_ratio": other["cpu_seconds"] / ours["cpu_seconds"] if other else None,
            "memory_ratio": other["peak_gib"] / ours["peak_gib"] if other else None,
            "compared_with": "official" if "official" in results else "obvious" if other else None,
            "forms": results,
            "machine": facts,
        }
    )


if __name__ == "__main__":
    sys.exit(main())
