"""JSON from files that anybody may have written: in UTF-8, UTF-16 or UTF-32, with or without a byte order mark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# What making something of a file's settings can end in where these are not what they should be.
UNUSABLE = (TypeError, ValueError, LookupError, AttributeError, RuntimeError, ArithmeticError)


def read_json(path: Path, remedy: str) -> Any:
    """What a JSON file holds.

    Args:
        remedy: the sentence that ends an error.

    Raises:
        ValueError: no such file, a folder, no permission, no text, no JSON, or nesting too deep to read; names the file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"The file {path} cannot be read: {error.strerror or error}. {remedy}") from error
    return parse_json(data, str(path), remedy)


def parse_json(text: str | bytes, name: str, remedy: str) -> Any:
    """What JSON text from the file of this `name` says. Raises ValueError as `read_json` does."""
    try:
        if not text.strip():
            raise ValueError("it is empty")
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{name} is nested too deep to be read. {remedy}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is no JSON that can be read: byte {error.start} is no text in UTF-8. {remedy}") from error
    except ValueError as error:  # no JSON, whole numbers of thousands of digits
        raise ValueError(f"{name} is no JSON that can be read: {error}. {remedy}") from error
