"""Runs every shipped workflow in a real ComfyUI, as the tests run it, and takes the SHA-256 of each mesh and splat file that it writes.

    python bench/template_hashes.py [--only WORD] > before.json
    python bench/template_hashes.py --against before.json

For changes that must not change results. The server runs on one thread: with more, sums are taken in an order that differs from run to
run. The last line is JSON; with --against, the exit status is 1 where a file differs or is missing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import lathe_root  # noqa: E402, F401
from lathe.bench import common  # noqa: E402
from shared_server import load_prompt, shared_server, workflow_names  # noqa: E402

ASSETS = (".glb", ".obj", ".ply", ".splat", ".spz")


def hashes(only: str) -> dict[str, list[str]]:
    """For each workflow the hashes of its assets, sorted: their names differ from run to run."""
    server, found = shared_server(threads=1), {}
    for name in workflow_names():
        if only not in name:
            continue
        run = server.run(load_prompt(name))
        if run.status != "success":
            raise SystemExit(f"{name}: {run.error.get('exception_message', run.status)}")
        files = [server.file(entry) for entry in run.files() if entry["filename"].endswith(ASSETS)]
        found[name] = sorted(f"{path.suffix[1:]} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files)
        print(f"{name}: {len(files)} files, {run.seconds:.0f} s", file=sys.stderr, flush=True)
    return found


def main() -> int:
    """Prints the hashes, or how they compare with others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only workflows whose name contains this word")
    parser.add_argument("--against", type=Path, help="what this command printed before")
    arguments = parser.parse_args()
    found = hashes(arguments.only)
    if arguments.against is None:
        common.finish({"bench": "template_hashes", "files": sum(map(len, found.values())), "hashes": found})
        return 0 if found else 1
    before = json.loads(arguments.against.read_text(encoding="utf-8").splitlines()[-1])["hashes"]
    names = sorted(name for name in {*before, *found} if arguments.only in name)
    changed = [name for name in names if sorted(before.get(name, [])) != found.get(name)]
    for name in changed:
        print(f"{name}: before {before.get(name)}, now {found.get(name)}")
    common.finish({"bench": "template_hashes", "files": sum(map(len, found.values())), "changed": changed})
    return 1 if changed or not found else 0


if __name__ == "__main__":
    sys.exit(main())
