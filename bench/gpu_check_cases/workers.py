"""Runs checks in worker processes: a check that crashes, hangs or loses the CUDA context costs its own process and no other check."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from . import processes
from .findings import FAIL, Check, Finding, not_measured

OUT_OF_TIME = "out of time"
START_SECONDS = 60.0  # what a new process may take to import PyTorch and answer, beside the check's own limit


class Lost(RuntimeError):
    """The worker is gone; the text says how."""


class Worker:
    """One process that makes the checks it is asked for, one after the other."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.fresh = True
        pipe = subprocess.PIPE
        self._process = processes.start(command, stdin=pipe, stdout=pipe, bufsize=1, env=dict(environment))
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def ask(self, name: str, limit: float) -> Iterator[Finding]:
        """The findings of a check, as they come.

        Raises:
            Lost: the process ended, or took longer than `limit` seconds and was ended, or is of no more use.
        """
        assert self._process.stdin is not None
        end = time.monotonic() + limit
        try:
            self._process.stdin.write(json.dumps([name, limit]) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise Lost(f"its process is gone (code {self._process.wait()})") from error
        while True:
            try:
                line = self._lines.get(timeout=max(end - time.monotonic(), 0))
            except queue.Empty:
                self.stop()
                raise Lost(f"it took more than {limit:.0f} s") from None
            if line is None:
                raise Lost(f"its process ended with code {self._process.wait()}")
            kind, content = json.loads(line)
            if kind == "finding":
                yield Finding(**content)
                continue
            self.fresh = False
            if not content:
                self.stop()
                raise Lost("afterwards the CUDA context was lost")
            return

    def stop(self) -> None:
        """Ends the process and what it started."""
        processes.end(self._process)


def serve(checks: Sequence[Check], emulated: bool) -> None:
    """The worker's side. What a check prints goes to standard error; standard output is for the answers."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    from .place import Place

    place = Place(emulated)
    by_name = {check.name: check for check in checks}
    for line in sys.stdin:
        name, limit = json.loads(line)
        place.deadline = time.monotonic() + limit
        try:
            for finding in by_name[name].work(place):
                answers.write(json.dumps(["finding", asdict(finding)]) + "\n")
        except Exception as error:
            traceback.print_exc()
            words = " ".join(f"{type(error).__name__}: {error}".split())
            answers.write(json.dumps(["finding", asdict(Finding(FAIL, name, words[:500]))]) + "\n")
        answers.write(json.dumps(["end", place.healthy()]) + "\n")


def run_all(
    checks: Sequence[Check], *, command: Sequence[str], emulated: bool, seconds: float, folder: Path, say: Callable[[Finding], None]
) -> None:
    """Makes the checks in their order and tells each finding at once.

    Args:
        command: starts a worker that knows the same checks.
        seconds: for all of them; what would not fit any more is not measured.
        folder: where gsplat may lie, see `rivals`.
    """
    end, workers = time.monotonic() + seconds, dict[str, Worker]()
    try:
        for check in checks:
            left = end - time.monotonic()
            if emulated and check.gpu_only:
                say(not_measured(check.name, check.gpu_only))
                continue
            if left < check.seconds:
                say(not_measured(check.name, OUT_OF_TIME))
                continue
            worker = workers.get(check.surroundings)
            if worker is None:
                worker = workers[check.surroundings] = Worker(command, surroundings(check.surroundings, folder))
            limit = check.limit + (START_SECONDS if worker.fresh else 0)
            try:
                for finding in worker.ask(check.name, min(limit, left)):
                    say(finding)
            except Lost as error:
                del workers[check.surroundings]
                late = time.monotonic() > end - 0.5
                say(not_measured(check.name, OUT_OF_TIME) if late else Finding(FAIL, check.name, str(error)))
    finally:
        for worker in workers.values():
            worker.stop()


def surroundings(kind: str, folder: Path) -> dict[str, str]:
    """The environment of a worker, see `Check.surroundings`."""
    environment = dict(os.environ)
    if kind == "toolkit":
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder), environment.get("PYTHONPATH"))))
        return environment | {"TORCH_EXTENSIONS_DIR": str(folder / "extensions"), "LATHE_GSPLAT": str(folder)}
    for name in [name for name in environment if name in ("CUDA_HOME", "CUDACXX") or name.startswith("CUDA_PATH")]:
        del environment[name]  # on Windows there is one of each version, too, such as CUDA_PATH_V13_0
    paths = environment.get("PATH", "").split(os.pathsep)
    environment["PATH"] = os.pathsep.join(path for path in paths if shutil.which("nvcc", path=path) is None)
    if kind == "async":
        environment["PYTORCH_CUDA_ALLOC_CONF"] = "backend:cudaMallocAsync"
    return environment
