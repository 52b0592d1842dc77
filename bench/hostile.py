"""Hostile inputs for every node, in a real ComfyUI: what is wrong must be refused in plain words or said, and nothing may hang.

    python bench/hostile.py [--small] [--seed N] [--only KIND/NODE] [--count N | --all] [--json FILE]
    python bench/hostile.py --case ID [--seed N]

Numbers typed and linked, pictures, masks, cameras, meshes, splats, files, names; bench/hostile_cases/table.py says what is right for each.
The last line is JSON: tried, and of these right (a success that the table allows, finite and not empty, warned of where that is due),
clear (a refusal in plain words where the table allows one), raw (another error, or a refusal where there is nothing to refuse), hang
(longer than the limit, or a server that died), silent (a success where the table wants a refusal or a warning, or NaN, infinity or nothing
in an output). The exit status is 1 where raw, hang or silent is above 0.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import lathe_root  # noqa: E402, F401
from lathe.bench import common  # noqa: E402
from lathe.bench.hostile_cases.inputs import Case, all_cases, chosen  # noqa: E402
from lathe.bench.hostile_cases.prepare import hostile_files  # noqa: E402
from lathe.bench.hostile_cases.server import HostileServer  # noqa: E402
from lathe.bench.hostile_cases.verdict import BAD, VERDICTS, Verdict, judge  # noqa: E402

COUNT, SMALL_COUNT = 2000, 200
LIMIT = 25.0  # seconds for one input
FIRST_LIMIT = 120.0  # for the sound one, with which a node compiles and loads what it needs
SLOW_LIMIT = 3.0  # seconds after which a sound but long run is cancelled
GIB = 10  # of address space for the server
SLOW_NODES = frozenset(["LatheDistilMesh", "LatheFitMesh"])


def try_case(server: HostileServer, case: Case, info: dict[str, Any], salt: str) -> Verdict:
    """Runs one case and judges it. Its files are there for its time only."""
    paths = [server.base / case.place / name for name in case.files]
    for path, content in zip(paths, case.files.values(), strict=True):
        path.write_bytes(content)
    try:
        limit = FIRST_LIMIT if case.kind == "sound" else SLOW_LIMIT if case.slow else LIMIT
        outcome = server.run(case.prompt(info, salt), limit)
        return judge(case, outcome, server.base)
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


def wanted(case: Case, only: str) -> bool:
    """Whether `--only` names it: each part, in its order, begins a part of the id or is one of its words."""
    return all(part.lower() in own.lower() for part, own in zip(only.split("/"), case.id.split("/"), strict=False))


def select(cases: list[Case], arguments: argparse.Namespace) -> list[Case]:
    """The cases of this call, those of a node together.

    Raises:
        SystemExit: none is named so.
    """
    if arguments.case:
        found = [case for case in cases if case.id == arguments.case]
    else:
        found = [case for case in cases if wanted(case, arguments.only)]
        if not arguments.all:
            count = SMALL_COUNT if arguments.small else arguments.count
            found = chosen(found, count, arguments.seed, SLOW_NODES)
    if not found:
        raise SystemExit(f"There is no case {arguments.case or arguments.only!r}: --list prints them.")
    return sorted(found, key=lambda case: (case.node, case.kind != "sound"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help=f"{SMALL_COUNT} inputs, for CI")
    parser.add_argument("--count", type=int, default=COUNT, help=f"how many inputs, {COUNT} by default")
    parser.add_argument("--all", action="store_true", help="every input at every place")
    parser.add_argument("--seed", type=int, default=0, help="which inputs are drawn, and what is drawn in them")
    parser.add_argument("--only", default="", metavar="KIND/NODE", help="only cases of this kind, or of this kind and node")
    parser.add_argument("--case", default="", metavar="ID", help="this case alone")
    parser.add_argument("--list", action="store_true", help="print the ids and end")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every verdict there")
    arguments = parser.parse_args()
    print(common.machine_line(common.machine()), flush=True)
    start, verdicts = time.monotonic(), {}
    with HostileServer(GIB) as server:
        nodes = server.nodes()
        cases = select(all_cases(nodes, hostile_files(server, arguments.seed), arguments.seed), arguments)
        if arguments.list:
            print("\n".join(case.id for case in cases))
            return 0
        for number, case in enumerate(cases):
            verdict = verdicts[case.id] = try_case(server, case, nodes[case.node], f"{number}")
            if verdict.what in BAD or arguments.case:
                print(f"{verdict.what}: {case.id}\n    {verdict.why.strip()}", flush=True)
    result = report(verdicts, arguments.seed, time.monotonic() - start)
    if arguments.json:
        table = {id: {"verdict": verdict.what, "why": verdict.why} for id, verdict in verdicts.items()}
        arguments.json.write_text(json.dumps({**result, "cases": table}, indent=1) + "\n", encoding="utf-8")
    common.finish(result)
    return 1 if any(result[what] for what in BAD) else 0


def report(verdicts: dict[str, Verdict], seed: int, seconds: float) -> dict[str, Any]:
    """Prints a table by kind and how to repeat what is bad; the counts."""
    kinds = Counter((id.split("/", 1)[0], verdict.what) for id, verdict in verdicts.items())
    rows = [[kind, *(kinds[kind, what] for what in VERDICTS)] for kind in sorted({kind for kind, _ in kinds})]
    common.print_table(("kind", *VERDICTS), rows)
    for id, verdict in verdicts.items():
        if verdict.what in BAD:
            print(f"{verdict.what}: python bench/hostile.py --seed {seed} --case {json.dumps(id)}")
    counts = Counter(verdict.what for verdict in verdicts.values())
    return {"tried": len(verdicts), **{what: counts[what] for what in VERDICTS}, "seconds": round(seconds, 1)}


if __name__ == "__main__":
    sys.exit(main())
