"""What a GPU must show before Lathe's own CUDA kernels are trusted on it, in one command of less than eight minutes.

    python bench/gpu_checks.py [--gsplat WHEEL] [--seconds 460] [--only NAME,...] [--json FILE]
    python bench/gpu_checks.py --emulate
    python bench/gpu_checks.py --needs

A line for each finding as soon as it is made, the cheapest and most telling first: PASS or FAIL where there is a bar, NOTE for figures
without one, NOT MEASURED with the reason. Pictures and gradients against the oracle, the same bits, threads, streams, allocators, bands,
the proofs before use, compute-sanitizer, the length of launches, times beside gsplat, numba and PyTorch, whole fits. Checks run in
processes of their own: one that crashes, hangs or breaks the CUDA context fails alone. What needs a program or package that is not here is
left out; --needs lists them. With --emulate the kernels run on the processor by `support/cuda_emulator.py` (which needs g++) at small
sizes; what only a GPU can say is not measured. The last line is JSON; the exit status is 1 where something failed.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "support"), str(ROOT / "tests")]  # tests: the scenes of the rasteriser's suite
import lathe_root  # noqa: E402, F401
import torch  # noqa: E402
from lathe.bench import common  # noqa: E402
from lathe.bench.gpu_check_cases import launches, needs, processes, rivals, times, workers  # noqa: E402
from lathe.bench.gpu_check_cases.findings import FAIL, Check, Finding, not_measured  # noqa: E402
from lathe.bench.gpu_check_cases.pictures import drawn  # noqa: E402
from lathe.bench.gpu_check_cases.place import Place  # noqa: E402
from lathe.bench.gpu_check_cases.table import CHECKS  # noqa: E402
from lathe.bench.speed_cases import splats  # noqa: E402


def one_step() -> None:
    """What `ncu` looks at."""
    place = Place(emulated=False)
    drawn(*splats.scene(50_000, 512, 1, str(place.device)))
    place.wait()


def small_scenes() -> None:
    """What compute-sanitizer looks at."""
    place = Place(emulated=False)
    launches.small_scenes(str(place.device))
    place.wait()
    print("small scenes drawn", flush=True)


PROGRAMS = {"one_step": one_step, "small_scenes": small_scenes, "build_gsplat": rivals.build}
"""What checks run in processes of their own."""


def main(checks: Sequence[Check] = CHECKS) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emulate", action="store_true", help="on the processor, at small sizes")
    parser.add_argument("--seconds", type=float, default=460.0, help="for all checks; 460 by default")
    parser.add_argument("--gsplat", type=Path, metavar="WHEEL", help="gsplat's wheel, to build and compare with")
    parser.add_argument("--only", metavar="NAME,...", help=f"these checks: {', '.join(check.name for check in checks)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the last line there, too")
    parser.add_argument("--needs", action="store_true", help="list what to carry to a bare machine, and end")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--program", choices=PROGRAMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.program:
        PROGRAMS[arguments.program]()
        return 0
    if arguments.worker:
        workers.serve(checks, arguments.emulate)
        return 0
    if arguments.needs:
        needs.show()
        return 0
    if arguments.only:
        wanted = set(arguments.only.split(","))
        if unknown := wanted - {check.name for check in checks}:
            parser.error(f"there are no checks {', '.join(sorted(unknown))}")
        checks = [check for check in checks if check.name in wanted]
    if not arguments.emulate and not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU here; --emulate runs what can be run without one")
    return run(checks, arguments)


def run(checks: Sequence[Check], arguments: argparse.Namespace) -> int:
    """Makes the checks, prints what they find; returns the exit status."""
    start, found = time.monotonic(), list[Finding]()

    def say(finding: Finding) -> None:
        found.append(finding)
        print(f"[{time.monotonic() - start:5.1f} s] {finding.line()}", flush=True)

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # other programs' words may hold what Windows' code page does not
    facts = common.machine()
    print(common.machine_line(facts), flush=True)
    command = [sys.executable, sys.argv[0], "--worker", *(["--emulate"] if arguments.emulate else [])]
    with tempfile.TemporaryDirectory(prefix="lathe_checks_", ignore_cleanup_errors=True) as temporary:
        folder, build = Path(temporary), None
        try:
            if arguments.gsplat and not arguments.emulate:
                try:
                    build = rivals.start_build(arguments.gsplat, folder)
                except (OSError, zipfile.BadZipFile) as error:
                    say(not_measured("gsplat", f"the wheel cannot be read: {error}"))
            workers.run_all(checks, command=command, emulated=arguments.emulate, seconds=arguments.seconds, folder=folder, say=say)
        finally:
            if build is not None:
                processes.end(build)
    if any(check.name.startswith("times_") for check in checks):
        for finding in times.compared(found, arguments.emulate):
            say(finding)
    counts = Counter(finding.verdict for finding in found)
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    result = {"bench": "gpu_checks", "emulated": arguments.emulate, "seconds": time.monotonic() - start, "counts": counts}
    result |= {"findings": [asdict(finding) for finding in found], "machine": facts}
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)
    common.finish(result)
    return 1 if counts[FAIL] else 0


if __name__ == "__main__":
    sys.exit(main())
