"""Processes that are ended together with all that they started, on POSIX and on Windows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from ...pipelines.ops.prove_worker import end_tree

__all__ = ["end", "end_tree", "start"]


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
