"""gsplat from a wheel, built in the background for this card by the machine's nvcc while other checks run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import processes
from .findings import Finding, judged, not_measured
from .place import Place
from .times import times_of
from .workers import surroundings

SCRIPT = Path(__file__).resolve().parents[1] / "gpu_checks.py"
MAX_JOBS = "14"
RESERVE = 3.0  # seconds before the check's limit at which the build is given up


def start_build(wheel: Path, folder: Path) -> subprocess.Popen[str]:
    """Unpacks the wheel and starts the build.

    Raises:
        OSError, zipfile.BadZipFile: the wheel cannot be read.
    """
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder)
    environment = surroundings("toolkit", folder) | {"MAX_JOBS": MAX_JOBS}
    with open(folder / "build.log", "w") as log:
        command = [sys.executable, str(SCRIPT), "--program", "build_gsplat"]
        made = processes.start(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
    (folder / "build.pid").write_text(str(made.pid))
    return made


def build() -> None:
    """In the process of `start_build`: builds, and writes what came of it."""
    folder = Path(os.environ["LATHE_GSPLAT"])
    start = time.monotonic()
    try:
        _choose_architecture()
        from gsplat.cuda._backend import _C  # type: ignore[import-not-found]

        wrong = "" if _C is not None else "it found no CUDA toolkit"
    except BaseException as error:  # the parent must hear of it in any case
        wrong = f"{type(error).__name__}: {' '.join(str(error).split())[-300:]}"
    made = folder / "build.tmp"
    made.write_text(json.dumps({"wrong": wrong, "seconds": time.monotonic() - start}))
    made.replace(folder / "built.json")


def _choose_architecture() -> None:
    import torch

    major, minor = torch.cuda.get_device_capability(0)
    os.environ["TORCH_CUDA_ARCH_LIST"] = f"{major}.{minor}"


def built(place: Place) -> Iterator[Finding]:
    """Waits for the build; one that takes too long is given up, for it would spoil the times that follow."""
    folder = Path(os.environ["LATHE_GSPLAT"])
    if not (folder / "gsplat").is_dir():
        try:
            _choose_architecture()
            import gsplat  # type: ignore[import-not-found]  # noqa: F401
        except ImportError:
            yield not_measured("gsplat", "neither installed nor given by --gsplat")
        else:
            yield judged(True, "gsplat", "installed already")
        return
    while (done := _outcome(folder)) is None and time.monotonic() < place.deadline - RESERVE:
        time.sleep(0.2)
    if done is None:
        processes.end_tree(int((folder / "build.pid").read_text()))
        yield not_measured("gsplat", "its build took too long and was given up")
    elif done["wrong"]:
        yield not_measured("gsplat", f"it does not build: {done['wrong']}")
    else:
        _choose_architecture()
        yield judged(True, "gsplat", f"built by nvcc in {done['seconds']:.0f} s", seconds=done["seconds"])


def times(place: Place) -> Iterator[Finding]:
    """gsplat's times, in a process that sees the toolkit."""
    folder = Path(os.environ["LATHE_GSPLAT"])
    done = _outcome(folder)
    if (folder / "gsplat").is_dir() and (done is None or done["wrong"]):
        yield not_measured("times of gsplat", "it was not built")
    else:
        yield from times_of("gsplat")(place)


def _outcome(folder: Path) -> dict[str, Any] | None:
    """What came of the build; None before it has ended."""
    file = folder / "built.json"
    return json.loads(file.read_text()) if file.exists() else None
