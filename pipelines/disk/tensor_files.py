"""Lathe's own .safetensors: tensors, and what they mean as JSON in the metadata entry "lathe"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from ..data.progress import Tick, no_tick
from .json_files import parse_json

ENTRY = "lathe"


def read_tensors(path: Path, what: str, *, tick: Tick = no_tick) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors by name, and the JSON object beside them; an empty one where the file has none.

    Args:
        what: what the caller expects in the file, for errors: "a field".
        tick: called for each tensor.

    Raises:
        ValueError: no such file, a folder, no permission, a damaged file, an entry that is no JSON object; names the file and the remedy.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ValueError(f"{path} is a folder, not {what}." if path.is_dir() else f"There is no file {path}.")
    remedy = "Save it again."
    try:
        with safe_open(path, framework="pt") as file:
            about = (file.metadata() or {}).get(ENTRY, "{}")
            names = list(file.keys())
            tensors = {}
            for done, name in enumerate(names):
                tick(done, len(names))
                tensors[name] = file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path.name} cannot be read as {what}, it may be cut short or damaged: {error}. {remedy}") from error
    settings = parse_json(about, f"What {path.name} says of itself", remedy)
    if not isinstance(settings, dict):
        raise ValueError(f"{path.name} holds nothing that can be read as {what}: its settings are no JSON object. {remedy}")
    return tensors, settings
