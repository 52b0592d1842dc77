"""Processes that are ended together with all that they started, on POSIX and on Windows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any


def start(command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
    """A process that leads a group of its own, so that Ctrl-C does not reach it either; `options` as of `subprocess.Popen`."""
    if sys.platform == "win32":
        return subprocess.Popen(command, text=True, creationflags=subprocess.CREATE_NEW_PROCESS_GROUP, **options)
    return subprocess.Popen(command, text=True, start_new_session=True, **options)


def end(process: subprocess.Popen[str]) -> None:
    """Ends a process of `start` and what it started, and waits for it."""
    if process.poll() is None:
        end_tree(process.pid)
        process.kill()  # where the system had no means to end them together
    process.wait()


def end_tree(pid: int) -> None:
    """Ends the process of this number, which another process may have begun by `start`, and what it started. None such is no error."""
    if sys.platform == "win32":
        command = ["taskkill", "/T", "/F", "/PID", str(pid)]
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        return
    with suppress(ProcessLookupError, PermissionError):  # the latter on macOS, where all of them have ended but are not yet forgotten
        os.killpg(pid, signal.SIGKILL)
