"""Presets: one JSON file of a folder each, so that a new file is a new preset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from .json_files import UNUSABLE, read_json

Preset = TypeVar("Preset")


def read_preset(path: Path, make: Callable[[dict[str, Any]], Preset]) -> Preset:
    """`make` of what the file holds.

    Raises:
        ValueError: a file that cannot be read, or from which `make` makes nothing; names the file.
    """
    remedy = "Compare it with the presets beside it, or take it away."
    data = read_json(path, remedy)
    try:
        return make(data)
    except KeyError as error:
        raise ValueError(f"The preset {path} lacks {error}. {remedy}") from error
    except UNUSABLE as error:
        raise ValueError(f"The preset {path} is none: {str(error).rstrip('.')}. {remedy}") from error
