"""Files that appear whole or not at all: written beside their place, then moved there."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path


def write_files(folder: Path, contents: dict[str, bytes]) -> None:
    """Writes files into one folder, made if missing, so that a failure leaves none of them half written. The last one appears last.

    Raises:
        ValueError: the folder cannot be made or written, or the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        workshop = Path(tempfile.mkdtemp(prefix=".writing_", dir=folder))
        try:
            for name, data in contents.items():
                (workshop / name).write_bytes(data)
            for name in contents:
                os.replace(workshop / name, folder / name)
        finally:
            shutil.rmtree(workshop, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(f"The folder {folder} cannot be written to: {reason}. Choose another, or free its disk.") from error
