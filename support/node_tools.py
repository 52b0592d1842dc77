"""The node packages that tests use (tests/node/package.json): glTF-Validator, gltfpack, glTF-Transform. Installed at first need."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from lathe_root import ROOT

LISTED = ROOT / "tests" / "node"
INSTALLED = ROOT / ".comfyui" / "node"
OLDEST_NODE = 18
INSTALL_SECONDS = 300
# No scripts of packages are run. A registry that does not answer is asked twice, for half a minute each.
PATIENCE = ["--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-timeout=30000"]
QUIET = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", *PATIENCE]


def packages() -> Path:
    """The node_modules folder; installs it where that was not yet done for this lockfile.

    Raises:
        LookupError: no node or npm, a node that is too old, or an install that failed; the message says which.
    """
    folder, problem = _installed()
    if folder is None:
        raise LookupError(problem)
    return folder


def run_tool(package: str, *arguments: Any, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    """Runs the command of an installed package, such as `run_tool("gltfpack", "-i", a, "-o", b)`."""
    root = packages() / package
    commands = json.loads((root / "package.json").read_text(encoding="utf-8"))["bin"]
    script = root / (commands if isinstance(commands, str) else next(iter(commands.values())))
    return _run(["node", str(script), *map(str, arguments)], seconds)


def validate(files: list[Path]) -> tuple[str, dict[Path, list[str]]]:
    """Asks glTF-Validator, in one process. Returns its version and, for each file that has errors, one line an error."""
    packages_path = {"NODE_PATH": str(packages())}
    done = _run(["node", str(LISTED / "validate.js")], 600, json.dumps([str(file) for file in files]), packages_path)
    if done.returncode:
        raise RuntimeError(f"tests/node/validate.js failed: {done.stderr[-2000:]}")
    answer = json.loads(done.stdout)
    return answer["version"], {file: answer["files"][str(file)] for file in files if answer["files"][str(file)]}


@cache
def _installed() -> tuple[Path | None, str]:
    """The folder, or None and why not; asked once a process, so that a registry that is away is waited for only once."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return None, "there is no node or no npm on the PATH"
    version = _run(["node", "--version"], 30).stdout.strip()
    if int(version.lstrip("v").partition(".")[0] or 0) < OLDEST_NODE:
        return None, f"node is {version}, and {OLDEST_NODE} or newer is needed"
    digest = hashlib.sha256(b"".join((LISTED / name).read_bytes() for name in ("package.json", "package-lock.json"))).hexdigest()
    target = INSTALLED / digest[:16]
    if not target.exists():
        try:
            _install(target)
        except (OSError, subprocess.SubprocessError) as error:
            return None, f"npm could not install tests/node/package.json: {error}"
    return target / "node_modules", ""


def _install(target: Path) -> None:
    """`npm ci` beside the target, which appears when it is whole."""
    INSTALLED.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=INSTALLED))
    try:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(LISTED / name, fresh)
        done = _run(["npm", "ci", *QUIET], INSTALL_SECONDS, folder=fresh)
        if done.returncode:
            raise OSError(" ".join(done.stderr.split())[:300] or f"status {done.returncode}")
        if not target.exists():  # another session may have been quicker
            fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _run(
    command: list[str], seconds: float, text: str = "", variables: dict[str, str] | None = None, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    program = shutil.which(command[0]) or command[0]  # on Windows npm is a .cmd, found by its full name alone
    environment = {**os.environ, **(variables or {})}
    return subprocess.run(
        [program, *command[1:]], input=text, capture_output=True, text=True, encoding="utf-8", timeout=seconds, env=environment, cwd=folder
    )
