"""Fields in files: .safetensors, the kind of field and its settings in the metadata."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.field import Field
from ..data.progress import Tick, no_tick
from ..disk.atomic import write_files
from ..disk.json_files import UNUSABLE
from ..disk.tensor_files import ENTRY, read_tensors


def save_field(field: Field, path: Path | str) -> None:
    """Writes a field as .safetensors, its settings in the metadata.

    Raises:
        ValueError: a kind of field that has no file format, numbers that are not finite, another suffix, or a folder that cannot be
            written.
    """
    from safetensors.torch import save

    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        raise ValueError(f"A field is saved as .safetensors, not as {path.name!r}.")
    if not hasattr(field, "state"):
        raise ValueError(f"A {type(field).__name__} cannot be saved; mesh it, or save the mesh instead.")
    tensors, settings = field.state()
    broken = _not_finite(tensors)
    if broken:
        raise ValueError(f"The field holds numbers that are NaN or infinite ({broken}) and is not saved: make it again.")
    copies = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    write_files(path.parent, {path.name: save(copies, metadata={ENTRY: json.dumps(settings)})})


def _not_finite(tensors: Mapping[str, Tensor]) -> str:
    """Names of the first tensors that are not all finite; empty where all are."""
    found = [name for name, tensor in tensors.items() if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())]
    return ", ".join(found[:3])


def load_field(path: Path | str, *, tick: Tick = no_tick) -> Field:
    """Reads what `save_field` wrote.

    Raises:
        ValueError: no such file, a damaged one, or one that holds something else; names the file.
    """
    from ..nets import distil_net, projected_field, triplane_field
    from ..splats.field import FORMAT, SplatField

    path = Path(path)
    tensors, settings = read_tensors(path, "a field", tick=tick)
    kinds: dict[str, Any] = {
        triplane_field.FORMAT: triplane_field.TriplaneField,
        projected_field.FORMAT: projected_field.ProjectedField,
        FORMAT: SplatField,
        distil_net.FORMAT: distil_net.DistilledField,
    }
    name = settings.get("format")
    if not isinstance(name, str) or name not in kinds:
        raise ValueError(f"{path.name} holds no field: its format is {reprlib.repr(name)}, expected one of {', '.join(kinds)}.")
    whole = [name for name, tensor in tensors.items() if not tensor.is_floating_point() and tensor.dtype != torch.uint8]
    if whole:
        raise ValueError(f"{path.name} holds no whole field: {', '.join(whole[:3])} must be floating-point numbers. Save it again.")
    broken = _not_finite(tensors)
    if broken:
        raise ValueError(f"{path.name} holds a field with numbers that are NaN or infinite ({broken}): make and save it again.")
    try:
        return kinds[name].from_state(tensors, settings)
    except UNUSABLE as error:
        raise ValueError(f"{path.name} holds no whole field: {str(error).rstrip('.')}. Save it again.") from error
