"""What NVIDIA's own tools say of the kernels: compute-sanitizer and Nsight Compute, where the machine has them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from . import processes
from .findings import Finding, judged, not_measured, note
from .launches import shipped_kernels
from .place import Place

SCRIPT = Path(__file__).resolve().parents[1] / "gpu_checks.py"
METRICS = (
    "gpu__time_duration.sum", "sm__throughput.avg.pct_of_peak_sustained_elapsed", "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "sm__warps_active.avg.pct_of_peak_sustained_active", "launch__registers_per_thread",
)  # fmt: skip


def _run(command: list[str], place: Place, environment: dict[str, str] | None = None) -> tuple[int | None, str]:
    """Exit code, None where the check's time was over, and what was printed."""
    left = max(place.deadline - time.monotonic() - 2, 1)
    child = processes.start(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace",
        env=os.environ | (environment or {}),
    )  # fmt: skip
    try:
        printed, _ = child.communicate(timeout=left)
    except subprocess.TimeoutExpired:
        processes.end(child)  # the tool and the program that it runs
        return None, ""
    return child.returncode, printed


def sanitizer(tool: str) -> Callable[[Place], Iterator[Finding]]:
    """The check of one tool: the small scenes through every kernel, each tensor in memory of its own."""

    def work(place: Place) -> Iterator[Finding]:
        program = shutil.which("compute-sanitizer")
        if program is None:
            yield not_measured(tool, "compute-sanitizer is not on the PATH")
            return
        command = [program, "--tool", tool, "--report-api-errors", "no", sys.executable, str(SCRIPT), "--program", "small_scenes"]
        start = time.monotonic()
        code, printed = _run(command, place, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})
        yield verdict(tool, code, printed, time.monotonic() - start)

    return work


def verdict(tool: str, code: int | None, printed: str, seconds: float) -> Finding:
    """What a run of compute-sanitizer shows. It passes only where the scenes were drawn to their end; an error may have ended them."""
    name = f"compute-sanitizer {tool}"
    if code is None:
        return not_measured(name, f"not finished after {seconds:.0f} s")
    summary = next((line for line in printed.splitlines() if "SUMMARY" in line), "")
    words = f"{summary.strip('= ')}, {seconds:.0f} s"
    counted = re.search(r"(\d+) (?:error|hazard)", summary)
    if counted is None or "not supported" in printed or (int(counted[1]) == 0 and "small scenes drawn" not in printed):
        return not_measured(name, f"it did not run (code {code}): {' '.join(printed.split())[-300:]}")
    if int(counted[1]) == 0 and code == 0:
        return judged(True, name, words)
    kernels = [kernel for kernel in shipped_kernels() if re.search(rf"\b{kernel}\b", printed)]
    named = f"; kernels named: {', '.join(kernels)}" if kernels else ""
    return judged(False, name, f"{words}{named}\n" + "\n".join(printed.splitlines()[:40]))


def counters(place: Place) -> Iterator[Finding]:
    """Nsight Compute's counters of each kernel in one run at 50k Gaussians and 512 px."""
    program = shutil.which("ncu")
    if program is None:
        yield not_measured("ncu", "ncu is not on the PATH")
        return
    command = [program, "--clock-control", "none", "--metrics", ",".join(METRICS)]
    if kernels := shipped_kernels():
        command += ["--kernel-name", "regex:^(" + "|".join(kernels) + ")$"]
    code, printed = _run([*command, sys.executable, str(SCRIPT), "--program", "one_step"], place)
    if code != 0:
        yield not_measured("ncu", f"code {code}: {' '.join(printed.split())[-300:]}")
        return
    wanted = [line.rstrip() for line in printed.splitlines() if "Context" in line or any(metric in line for metric in METRICS)]
    yield note("ncu", "one run of 50000 @ 512\n" + "\n".join(wanted))
