"""Every GLB that Lathe wrote while tests ran, put before the official glTF validator at the end of the session (see tests/conftest.py)."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from pathlib import Path

from node_tools import packages, validate

GENERATOR = "Lathe"  # what Lathe writes into asset.generator; files of other writers, broken ones included, are not judged

SHOWN = 5  # errors of one file in the message


class InvalidFiles(Exception):
    """Lathe wrote files that are not valid glTF; the message names each with its errors."""


def generator_of(path: Path) -> str:
    """asset.generator of a GLB; empty where the file has none, cannot be parsed, or was cut short, as tests do with files of Lathe's."""
    try:
        data = path.read_bytes()
        whole, length = struct.unpack_from("<8xII", data)
        return str(json.loads(data[20 : 20 + length])["asset"]["generator"]) if len(data) >= whole else ""
    except (OSError, struct.error, ValueError, LookupError, TypeError):
        return ""


def written_by_lathe(folders: Iterable[Path]) -> list[Path]:
    """The GLB files in and below these folders that Lathe wrote."""
    found = {path for folder in folders for path in folder.rglob("*.glb") if path.is_file()}
    return sorted(path for path in found if generator_of(path) == GENERATOR)


def check_written_glbs(folders: Iterable[Path]) -> str:
    """Validates all of them; a sentence for the end of pytest's report, empty where there are none.

    Raises:
        InvalidFiles: one of them has an error.
    """
    files = written_by_lathe(folders)
    if not files:
        return ""
    try:
        packages()
    except LookupError as problem:
        return f"{len(files)} GLB files that Lathe wrote were not validated: {problem}"
    version, faults = validate(files)
    if faults:
        lines = ["\n    ".join([f"{file} ({len(errors)} errors)", *errors[:SHOWN]]) for file, errors in faults.items()]
        raise InvalidFiles(f"{len(faults)} of {len(files)} GLB files that Lathe wrote are not valid glTF 2.0:\n" + "\n".join(lines))
    return f"{len(files)} GLB files that Lathe wrote have no errors, says glTF-Validator {version}"
