"""Fetches a catalogue entry from the Hugging Face hub, because a user asked for it: nothing here runs by itself.

Files arrive in a staging folder beside their place, where an interrupted download goes on later, are checked, and then move into place
at once: a loader never sees half a file.
"""

from __future__ import annotations

import fnmatch
import hashlib
import inspect
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..data.progress import Tick, no_tick
from .catalog import CatalogEntry, inside

STAGING = ".incoming"
_MEBIBYTE = 1 << 20


def download(row: CatalogEntry, folder: Path, *, tick: Tick = no_tick) -> Path:
    """Fetches the entry into a model folder, unless it is there.

    Args:
        row: what.
        folder: the model folder; made where missing.
        tick: told MiB done and MiB in all; what it raises stops the download, which can go on later.

    Returns:
        the file or folder.

    Raises:
        ValueError: no huggingface_hub, no connection, no room, a folder that cannot be written, a wrong checksum.
    """
    target = inside(folder, row.path)
    if target.exists():
        return target
    by_hand = f"It can also be fetched by hand from {row.page} and put at {target}."
    hub = _hub(by_hand)
    progress = _Progress(tick)
    try:
        remote = list(_remote_files(hub, row))
        progress.total = sum(size for _, size, _ in remote)
        staging = inside(folder, f"{STAGING}/{row.name}")
        staging.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(staging).free
        if progress.total > free:
            raise ValueError(f"{row.title} needs {progress.total >> 20} MiB, but {folder} has {free >> 20} MiB free.")
        for name, size, sha256 in remote:
            path = _fetch(hub, row, name, staging, progress)
            progress.finished(size)
            if sha256 is not None:
                _verify(path, sha256, progress)
    except ValueError:
        raise
    except Exception as error:
        if progress.stopped is not None:
            raise progress.stopped from None
        raise ValueError(f"{row.title} could not be downloaded ({error}). {by_hand}") from error
    source = staging if row.is_folder else inside(staging, row.files[0])
    shutil.rmtree(staging / ".cache", ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, target)
    shutil.rmtree(staging, ignore_errors=True)
    return target


class _Progress:
    """Bytes to ticks, and the exception with which the caller stopped: the hub's code may wrap or swallow it."""

    def __init__(self, tick: Tick) -> None:
        self.tick = tick
        self.total = 0
        self.done = 0
        self.current = 0
        self.stopped: Exception | None = None

    def add(self, count: float) -> None:
        self.current += int(count)
        self._report(self.done + self.current)

    def finished(self, size: int) -> None:
        """A file is complete, whether its bytes came now, earlier, or unannounced."""
        if self.stopped is not None:
            raise self.stopped
        self.done, self.current = self.done + size, 0
        self._report(self.done)

    def _report(self, count: int) -> None:
        try:
            self.tick(min(count, self.total) // _MEBIBYTE, max(1, self.total // _MEBIBYTE))
        except Exception as error:
            self.stopped = error
            raise


def _hub(by_hand: str) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ValueError(f"Downloading needs the package huggingface_hub (pip install huggingface_hub). {by_hand}") from error
    return huggingface_hub


def _remote_files(hub: Any, row: CatalogEntry) -> Iterator[tuple[str, int, str | None]]:
    """Name, size and sha256 (of large files) of what the entry's patterns match in its repository."""
    found = hub.HfApi().model_info(row.repository, revision=row.revision, files_metadata=True).siblings or []
    matched = [file for file in found if any(fnmatch.fnmatchcase(file.rfilename, pattern) for pattern in row.files)]
    if not matched:
        raise ValueError(f"{row.page} has no {', '.join(row.files)} any more.")
    for file in matched:
        stored = getattr(file.lfs, "sha256", None)
        yield file.rfilename, file.size or 0, row.sha256 if row.sha256 is not None and not row.is_folder else stored


def _fetch(hub: Any, row: CatalogEntry, name: str, staging: Path, progress: _Progress) -> Path:
    """One file into the staging folder, going on where an earlier try stopped."""
    inside(staging, name)
    options: dict[str, Any] = {}
    # older hubs cannot report the bytes of a single file: progress then moves a file at a time
    if "tqdm_class" in inspect.signature(hub.hf_hub_download).parameters:
        options["tqdm_class"] = _bar(progress)
    return Path(hub.hf_hub_download(row.repository, name, revision=row.revision, local_dir=str(staging), **options))


def _bar(progress: _Progress) -> type:
    """A progress bar class for the hub that reports to `progress` and prints nothing."""
    from tqdm.auto import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*args, **{**options, "disable": True})
            progress.current = int(options.get("initial") or 0)

        def update(self, n: float | None = 1) -> None:
            progress.add(n or 0)

    return Bar


def _verify(path: Path, sha256: str, progress: _Progress) -> None:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(8 * _MEBIBYTE):
            digest.update(block)
            progress.add(0)
    if digest.hexdigest() != sha256.lower():
        path.unlink()
        raise ValueError(
            f"{path.name} arrived with checksum {digest.hexdigest()}, expected {sha256}: it was damaged on the way, or the publisher "
            "changed it. Try again."
        )
