"""What is wrong with an output: NaN, infinity, or nothing in it."""

from typing import Any

import torch

OPAQUE = {"LATHE_PRIOR", "LATHE_VIEW_MODEL", "LATHE_LRM", "LATHE_GEOLRM", "CLIP", "MODEL"}  # they hold networks, not results


def faults(socket, value):
    """Faults of one output, each in a few words; an empty list where it is sound."""
    if value is None:
        return [f"{socket} is nothing"]
    if socket in OPAQUE:
        return []
    if socket == "MESH":
        return _counted(socket, value, "face_counts", value.faces) + _bad(socket, vars(value))
    if socket == "SPLAT":
        return _counted(socket, value, "counts", value.positions) + _bad(socket, vars(value))
    return _bad(socket, value)


def _counted(socket, value, name, rows):
    counts = getattr(value, name, None)
    counts = [rows.shape[1]] * len(rows) if counts is None else [int(n) for n in counts]
    return [] if counts and min(counts) > 0 else [f"{socket} has {counts} {name.removesuffix('_counts')}"]


def _bad(path, value, depth=4):
    if isinstance(value, torch.Tensor):
        if value.numel() == 0:
            return [f"{path} is empty, {tuple(value.shape)}"]
        if (value.is_floating_point() or value.is_complex()) and not bool(torch.isfinite(value).all()):
            return [f"{path} holds NaN or infinity"]
        return []
    if isinstance(value, float):
        return [] if value == value and abs(value) != float("inf") else [f"{path} is {value}"]
    if isinstance(value, str | list | tuple | dict) and len(value) == 0 and path.count(".") == 0:
        return [f"{path} is empty"]
    if not depth or isinstance(value, torch.nn.Module | type | torch.Generator):
        return []
    if isinstance(value, dict):
        parts: Any = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    elif hasattr(value, "__dict__"):
        parts = vars(value).items()
    else:
        return []
    return [fault for name, part in parts for fault in _bad(f"{path}.{name}", part, depth - 1)]
