"""A form's proof in a child process with a CUDA context of its own: `prove_in_child` is the parent's side, `main` the child's.

Run as a script this file is the child. It loads the folder that holds the operations as a package of a fixed name, without what lies above
it, makes its context, writes `ready`, proves the form, and writes the verdict as a line of JSON. A child that never wrote `ready` says
nothing about the form: it could not be started, found no PyTorch, or the GPU takes no second context. One that did, and then ends without
a verdict or takes too long, has shown that the form fails. Running out of memory says nothing about the form either.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

NAME = "lathe_proof"
START_SECONDS = 180.0
"""What starting Python, importing PyTorch and making a context may take."""
END_SECONDS = 10.0
"""How long to wait until a process that was ended is gone; one that waits for its GPU may stay longer."""
ENCODING = "utf-8"
NO_WINDOW = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # Windows only


class NoVerdict(Exception):
    """The child could not say whether the form works; the text says why."""


def in_words(error: BaseException) -> str:
    """An error as one line. What this module and proofs raise speaks for itself; other errors need their type."""
    text = " ".join(str(error).split())
    return text if type(error).__name__ in ("Disproved", "NoVerdict") else f"{type(error).__name__}: {text}"


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice: PyTorch, the driver and libraries have each a class of their own for it."""
    return isinstance(error, MemoryError) or "out of memory" in str(error).lower()


def prove_in_child(folder: Path, package: str, form: str, device: str, seconds: float, start_seconds: float = START_SECONDS) -> str | None:
    """Runs `proof.prove(<form>_form, device)` of a package in a child process.

    Waits for the child. Nobody can cancel that, for operations have no `tick` that would ask ComfyUI. An exception in this thread, such as
    KeyboardInterrupt, ends the child and all that it started.

    Args:
        folder: of the package that holds all that the operations need.
        package: of the operation, inside that folder, such as "ops.splat_raster".
        form: its name, such as "gsplat".
        device: such as "cuda:0".
        seconds: limit for the proof, from the moment the child is ready.
        start_seconds: limit for becoming ready.

    Returns:
        None where the form is proven, else what is wrong with it.

    Raises:
        NoVerdict: the child did not get as far as the proof, or ran out of memory.
    """
    if not Path(sys.executable or "").name.lower().startswith("python"):  # a host with Python inside would start once more
        raise NoVerdict(f"this program is not Python: {sys.executable or 'it has no name'}")
    with tempfile.TemporaryDirectory(prefix="lathe_", ignore_cleanup_errors=True) as temporary:
        said, words = Path(temporary) / "said.txt", Path(temporary) / "words.txt"
        own_packages = ["-s"] if sys.flags.no_user_site else []
        folders = os.pathsep.join(map(str, sys.path))
        command = [sys.executable, *own_packages, __file__, folders, str(folder), package, form, device, str(said)]
        code = _run(command, said, words, seconds, start_seconds)
        lines = _lines(said)
        if not lines:
            raise NoVerdict(f"a child process {_ending(code, start_seconds)}{_last(words)}")
        if len(lines) == 1 or code is None:
            return f"its test {_ending(code, seconds)}{_last(words)}"
        verdict = json.loads(lines[-1])
    if "no_room" in verdict:
        raise NoVerdict(f"a child process ran out of memory: {verdict['no_room']}")
    return verdict["wrong"]  # type: ignore[no-any-return]


def _run(command: list[str], said: Path, words: Path, seconds: float, start_seconds: float) -> int | None:
    """The child's exit code, None where it was ended for taking too long."""
    try:
        with open(words, "wb") as out:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, creationflags=NO_WINDOW, start_new_session=True
            )
    except OSError as error:
        raise NoVerdict(f"a child process cannot be started: {in_words(error)}") from error
    limit, ready = time.monotonic() + start_seconds, False
    try:
        while time.monotonic() < limit:
            try:
                return child.wait(0.05)
            except subprocess.TimeoutExpired:
                if not ready and _lines(said):
                    limit, ready = time.monotonic() + seconds, True
        return None
    finally:
        if child.poll() is None:
            _end(child)


def end_tree(pid: int) -> None:
    """Ends a process that leads a group of its own, and all that it started, such as compilers. No such process is no error."""
    with suppress(OSError, subprocess.TimeoutExpired):
        if sys.platform == "win32":
            command, quiet = ["taskkill", "/T", "/F", "/PID", str(pid)], subprocess.DEVNULL
            subprocess.run(command, stdin=quiet, stdout=quiet, stderr=quiet, creationflags=NO_WINDOW, timeout=END_SECONDS)
        else:
            os.killpg(pid, signal.SIGKILL)


def _end(child: subprocess.Popen[bytes]) -> None:
    end_tree(child.pid)
    child.kill()
    with suppress(subprocess.TimeoutExpired):
        child.wait(END_SECONDS)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding=ENCODING).splitlines() if path.exists() else []


def _ending(code: int | None, seconds: float) -> str:
    return f"took more than {seconds:.0f} s" if code is None else f"ended with code {code}"


def _last(words: Path) -> str:
    lines = words.read_text(encoding=ENCODING, errors="replace").strip().splitlines()
    return f": {lines[-1].strip()}" if lines else ""


def main(folder: str, package: str, form: str, device: str, said: str) -> int:
    """The child: proves and writes into the file `said`. Returns the exit status, 0 where the form is proven."""
    import torch

    spec = importlib.util.spec_from_file_location(NAME, Path(folder) / "__init__.py", submodule_search_locations=[folder])
    assert spec is not None and spec.loader is not None
    sys.modules[NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[NAME])
    proof = importlib.import_module(f"{NAME}.{package}.proof")
    torch.zeros(1, device=device)
    verdict: dict[str, str | None]
    with open(said, "w", encoding=ENCODING, buffering=1) as out:
        out.write("ready\n")
        try:
            proof.prove(importlib.import_module(f"{NAME}.{package}.{form}_form"), torch.device(device))
            verdict = {"wrong": None}
        except Exception as error:  # the form may raise anything
            verdict = {"no_room" if out_of_memory(error) else "wrong": in_words(error)}
        out.write(json.dumps(verdict) + "\n")
    return 0 if verdict == {"wrong": None} else 1


if __name__ == "__main__":
    here, others = Path(__file__).resolve().parent, sys.argv[1].split(os.pathsep)
    # Modules of this folder must not hide others' of the same name, and a host may know more folders of packages than Python does.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
    sys.path.extend(entry for entry in others if entry and entry not in sys.path)
    status = main(*sys.argv[2:])
    sys.stdout.flush()
    os._exit(status)  # the verdict is written; taking libraries down may crash or hang
