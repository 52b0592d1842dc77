"""Parity with the published code: every golden of parity_list.json, its error, and whether that is within tolerance.

    python bench/parity.py [--bundled] [--only WORD]

Small goldens of the repository are always compared. The others, the full-size ones among them, are read where the environment variable
LATHE_REFERENCE points; a golden that is not there counts as failed. The last line is JSON; the exit status is 1 where anything failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import lathe_root  # noqa: E402, F401
from lathe.bench import common  # noqa: E402
from lathe.bench.parity_checks import flexicubes, geolrm, instantmesh, zero123plus  # noqa: E402
from lathe.bench.parity_checks.goldens import Result, check_group, find_golden  # noqa: E402

LIST = Path(__file__).parent / "parity_list.json"
CHECKS = {
    "flexicubes": flexicubes.outputs, "instantmesh": instantmesh.outputs, "zero123plus": zero123plus.outputs, "geolrm": geolrm.outputs,
}  # fmt: skip


def read_list() -> list[dict[str, Any]]:
    """The groups of parity_list.json: one golden file each."""
    return json.loads(LIST.read_text(encoding="utf-8"))["groups"]


def run_group(group: dict[str, Any]) -> list[Result]:
    """Compares every name of one group."""
    return check_group(group, CHECKS[group["check"]])


def is_bundled(group: dict[str, Any]) -> bool:
    """Whether the golden lies in the repository, whole."""
    path = find_golden(group["golden"])
    return path is not None and "tests" in path.parts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundled", action="store_true", help="only the goldens that lie in the repository")
    parser.add_argument("--only", default="", help="only goldens whose name contains this word")
    arguments = parser.parse_args()
    facts = common.machine()
    print(common.machine_line(facts), flush=True)
    groups = [g for g in read_list() if arguments.only in g["golden"] and (not arguments.bundled or is_bundled(g))]
    results: list[Result] = []
    rows = []
    for group in groups:
        start = time.monotonic()
        found = run_group(group)
        results += found
        seconds = time.monotonic() - start
        rows.append((group["golden"], group["section"], len(found), sum(not r.passed for r in found), _worst(found), seconds))
        outputs = [(r.name, r.error, _tolerance(r), "ok" if r.passed else "FAILED") for r in found]
        common.print_table(("output", "error", "tolerance", ""), outputs)
        print(flush=True)
    common.print_table(("golden", "section", "outputs", "failed", "tolerance used", "seconds"), rows)
    failed = [r for r in results if not r.passed]
    for r in failed:
        print(f"FAILED {r.name}: {r.why or f'error {r.error:.3g}, tolerance {_tolerance(r)}'}")
    common.finish(
        {
            "bench": "parity",
            "passed": len(results) - len(failed),
            "failed": len(failed),
            "failures": [r.name for r in failed],
            "peak_gib": common.peak_rss_gib(),
            "machine": facts,
        }
    )
    return 1 if failed or not results else 0


def _tolerance(result: Result) -> str:
    rule = result.rule
    if rule.how == "close":
        return f"{rule.atol:g}" + (f" + {rule.rtol:g} |x|" if rule.rtol else "")
    return {"equal": "equal", "triangles": "same triangles"}.get(rule.how, f"{rule.how} {rule.atol:g}")


def _worst(results: list[Result]) -> float | None:
    """The largest share of its tolerance that an output uses up; None where an output is missing."""
    return None if any(r.error is None for r in results) else max(r.used for r in results)


if __name__ == "__main__":
    sys.exit(main())
