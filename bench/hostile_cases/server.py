"""A real ComfyUI for hostile prompts: it is cancelled after a limit, started again where it hangs or dies, and held to some memory."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from comfy_server import Server, ServerError, link_pack
from comfy_source import comfyui_dir
from lathe_root import ROOT
from shared_server import ARTIFACTS, SERVER_TESTS, TEST_PACK

PACK = Path(__file__).parent / "pack"
CACHED = "200"  # results that the server keeps, so that sources are made once
GRACE = 30.0  # seconds from Cancel after which a prompt counts as one that cannot be cancelled
PATIENCE = 4.0  # times the limit that a server gets which has had little of a busy processor


@dataclass
class Outcome:
    """What became of one prompt.

    status: "success", "refused" (by core, before anything ran), "error", "cancelled", "stuck" (Cancel did not end it) or "died".
    kind, message, trace: of the error. report: what the pack's Report told. files: what output nodes wrote. `seconds` of the run,
    `after_cancel` of the processor from Cancel to its end.
    """

    status: str
    kind: str = ""
    message: str = ""
    trace: list[str] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    seconds: float = 0.0
    after_cancel: float = 0.0


class _Watch:
    """Presses Cancel when a run has had its time: `limit` seconds, and half of that of the processor or PATIENCE times the limit."""

    def __init__(self, server: Server, limit: float) -> None:
        self.server, self.limit, self.start = server, limit, time.monotonic()
        self.used, self.pressed = self._processor(), 0.0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def _processor(self) -> float:
        try:
            times = psutil.Process(self.server.process.pid).cpu_times()
        except psutil.Error:
            return 0.0
        return float(times.user + times.system)

    def _look(self) -> None:
        while not self.over.wait(0.25):
            passed = time.monotonic() - self.start
            busy = self._processor() - self.used < self.limit / 2
            if passed > self.limit * (PATIENCE if busy else 1):
                self.pressed = self._processor()
                with contextlib.suppress(OSError):
                    self.server.interrupt()
                return

    def since_cancel(self) -> float:
        """Seconds of the processor since Cancel; 0 where it was not pressed."""
        return self._processor() - self.pressed if self.pressed else 0.0

    def end(self) -> None:
        self.over.set()
        self.thread.join()


class HostileServer:
    """Runs prompts, one after the other. Use it in a `with`.

    Args:
        gib: address space of the server, GiB.
        extra_packs: folders of further custom nodes, by name.
    """

    def __init__(self, gib: int, extra_packs: dict[str, Path] | None = None) -> None:
        tree = comfyui_dir()
        if tree is None:
            raise LookupError("no ComfyUI: run `python dev.py test`, or set COMFYUI_DIR")
        self.tree, self.gib, self.starts = tree, gib, 0
        self.server: Server | None = None
        self.base = Path(tempfile.mkdtemp(prefix="lathe-hostile-")) / "base"
        packs = {"lathe": ROOT, TEST_PACK: SERVER_TESTS / "tiny_models", "lathe_hostile": PACK, **(extra_packs or {})}
        for name, folder in packs.items():
            link_pack(folder, self.base / "custom_nodes", name)
        (self.base / "input").mkdir()
        (self.base / "models" / "lathe").mkdir(parents=True)

    def __enter__(self) -> HostileServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.base.parent, ignore_errors=True)

    def up(self) -> Server:
        """The running server; a new one where there is none."""
        if self.server is None:
            flags = ["--cpu", "--disable-api-nodes", "--cache-lru", CACHED]
            surroundings = {"OMP_NUM_THREADS": "1", "LATHE_HOSTILE_GIB": str(self.gib)}
            log = ARTIFACTS / f"hostile_{self.starts}.log"
            self.starts += 1
            self.server = Server(sys.executable, self.tree, self.base, log, flags, environment=surroundings)
            self.server.wait_until_up()
        return self.server

    def stop(self) -> None:
        """Ends the server, also one that is stuck."""
        if self.server is not None:
            self.server.process.kill()
            self.server.process.wait()
            self.server = None

    def nodes(self) -> dict[str, Any]:
        """What /object_info says of the pack's nodes."""
        everything = self.up().get("/object_info")
        return {name: info for name, info in everything.items() if info["python_module"] == "custom_nodes.lathe"}

    def run(self, prompt: dict[str, Any], limit: float) -> Outcome:
        """Runs a prompt; presses Cancel after `limit` seconds, later on a machine that is busy with other things."""
        server, start = self.up(), time.monotonic()
        watch = _Watch(server, limit)
        try:
            run = server.run(prompt, timeout=limit * PATIENCE + GRACE)
        except ServerError as error:
            if str(error).startswith("The server refused the prompt"):
                return Outcome("refused", message=str(error), seconds=time.monotonic() - start)
            status = "stuck" if server.process.poll() is None else "died"
            self.stop()
            return Outcome(status, message=str(error), seconds=time.monotonic() - start)
        except OSError as error:
            self.stop()
            return Outcome("died", message=str(error), seconds=time.monotonic() - start)
        finally:
            watch.end()
        outcome = Outcome({"interrupted": "cancelled"}.get(run.status, run.status), seconds=run.seconds)
        outcome.after_cancel = watch.since_cancel()
        if run.error:
            outcome.kind, outcome.message = run.error["exception_type"], run.error["exception_message"]
            outcome.trace = run.error["traceback"]
        for ui in run.outputs.values():
            outcome.report = ui["report"][0] if "report" in ui else outcome.report
        outcome.files = [server.file(entry) for entry in run.files() if entry.get("type") == "output"]
        return outcome
