"""Fields in files: .safetensors, the kind of field and its settings in the metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ..data.field import Field
from ..disk.atomic import write_files


def save_field(field: Field, path: Path | str) -> None:
    """Writes a field as .safetensors, its settings in the metadata entry "lathe".

    Raises:
        ValueError: a kind of field that has no file format, another suffix, or a folder that cannot be written.
    """
    from safetensors.torch import save

    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        raise ValueError(f"A field is saved as .safetensors, not as {path.name!r}.")
    if not hasattr(field, "state"):
        raise ValueError(f"A {type(field).__name__} cannot be saved; mesh it, or save the mesh instead.")
    tensors, settings = field.state()
    copies = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    write_files(path.parent, {path.name: save(copies, metadata={"lathe": json.dumps(settings)})})


def load_field(path: Path | str) -> Field:
    """Reads what `save_field` wrote.

    Raises:
        ValueError: no such file, a damaged one, or one that holds something else.
    """
    from safetensors import SafetensorError, safe_open

    from ..nets import distil_net, projected_field, triplane_field
    from ..splats.field import FORMAT, SplatField

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            settings = json.loads((file.metadata() or {}).get("lathe", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path.name} cannot be read as a field, it may be cut short or damaged: {error}") from error
    kinds: dict[str, Any] = {
        triplane_field.FORMAT: triplane_field.TriplaneField,
        projected_field.FORMAT: projected_field.ProjectedField,
        FORMAT: SplatField,
        distil_net.FORMAT: distil_net.DistilledField,
    }
    name = settings.get("format") if isinstance(settings, dict) else None
    if name not in kinds:
        raise ValueError(f"{path.name} holds no field: its format is {name!r}, expected one of {', '.join(kinds)}.")
    return kinds[name].from_state(tensors, settings)
