"""What every benchmark shares: the machine line, tables for people, one line of JSON, the choice of objects, paired confidence."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

GIB = 1024**3
BENCH_OBJECTS = Path(__file__).resolve().parents[1] / "tests" / "data" / "objects"


def machine() -> dict[str, Any]:
    """What the figures were measured on: processor, cores, threads in use, memory, versions, date (UTC)."""
    import torch

    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }


def machine_line(facts: dict[str, Any]) -> str:
    """The machine in one line."""
    gpu = f", {facts['gpu']}" if facts["gpu"] else ", no GPU"
    return (
        f"{facts['cpu']}, {facts['cores']} cores, {facts['threads']} thread(s) in use{gpu}; "
        f"Python {facts['python']}, torch {facts['torch']}; {facts['date']}"
    )


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def version_of(package: str) -> str | None:
    """Installed version of a distribution, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def print_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A plain aligned table: text to the left, numbers to the right."""
    cells = [[str(h) for h in header]] + [[_cell(value) for value in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    for number, row in enumerate(cells):
        print("  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))).rstrip())
        if number == 0:
            print("  ".join("-" * w for w in widths))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if value and abs(value) < 0.01 else f"{value:.3f}"
    return str(value)


def finish(result: dict[str, Any]) -> None:
    """Prints `result` as the last line of output, JSON without NaN (NaN and infinity become null)."""
    sys.stdout.flush()
    print(json.dumps(_plain(result), allow_nan=False), flush=True)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


def paired_confidence(ours: Sequence[float], theirs: Sequence[float], *, seed: int = 0, draws: int = 10_000) -> dict[str, float]:
    """Mean of the paired differences `ours - theirs` with its 95 % interval, by seeded bootstrap over the objects.

    Returns `mean`, `low`, `high`. With one object the interval is the difference itself and says nothing.

    Raises:
        ValueError: nothing to compare, or lists of different length.
    """
    difference = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    if difference.size == 0:
        raise ValueError("Confidence: there are no pairs to compare.")
    generator = np.random.default_rng(seed)
    means = difference[generator.integers(0, difference.size, (draws, difference.size))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {"mean": float(difference.mean()), "low": float(low), "high": float(high)}


def peak_rss_gib(children: bool = False) -> float:
    """Highest resident memory so far of this process (or of its finished children), GiB. Not on Windows."""
    import resource  # which Windows does not have

    usage = resource.getrusage(resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF).ru_maxrss
    return usage * (1 if sys.platform == "darwin" else 1024) / GIB


def add_object_arguments(parser: argparse.ArgumentParser) -> None:
    """`--objects`, `--all`, `--meshes`: which objects a benchmark runs on."""
    parser.add_argument(
        "--objects",
        type=Path,
        default=os.environ.get("LATHE_OBJECTS") or BENCH_OBJECTS,
        help="folder of the furniture archives (*.sh3f), needed for --all; default: LATHE_OBJECTS, else the repository's bench objects",
    )
    parser.add_argument("--all", action="store_true", help="the whole test split instead of its 8 bench objects")
    parser.add_argument("--meshes", type=Path, help="folder of own meshes (.glb, .obj) to measure on instead")
