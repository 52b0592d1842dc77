"""Files that appear whole or not at all: written beside their place, then moved there."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path, PurePosixPath, PureWindowsPath


def safe_output_path(folder: Path | str, name: str, suffix: str) -> Path:
    """`folder`/`name``suffix`, where `name` may hold subfolders but cannot lead out of `folder`.

    Characters that some file systems refuse become underscores; a suffix that `name` already has is not doubled.

    Raises:
        ValueError: an empty or absolute name, or one with "..".
    """
    plain = name.strip().replace("\\", "/")
    if PurePosixPath(plain).is_absolute() or PureWindowsPath(name.strip()).anchor or ".." in plain.split("/"):
        raise ValueError(f"The file name {name!r} leads out of its folder; use a plain name such as lathe/mesh.")
    pieces = [re.sub(r'[<>:"|?*\x00-\x1f]', "_", piece).strip() for piece in plain.split("/") if piece not in ("", ".")]
    if not pieces or not pieces[-1].removesuffix(suffix):
        raise ValueError(f"The file name {name!r} is empty; use a plain name such as lathe/mesh.")
    return Path(folder).joinpath(*pieces[:-1], pieces[-1].removesuffix(suffix) + suffix)


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
