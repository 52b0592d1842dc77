"""Socket types, schemas and widgets, with what the running core knows of them.

Everything is detected by looking at the core (0.3.75 and up), never by comparing version numbers. A socket carries what the table in
docs/architecture.md says; conversions to and from Lathe's payloads stand in the modules beside this one.
"""

from __future__ import annotations

import dataclasses
import inspect
from functools import cache
from typing import Any

from comfy_api.latest import io

IMAGE, MASK, MESH, VOXEL = io.Image, io.Mask, io.Mesh, io.Voxel
LOAD3D_CAMERA = io.Load3DCamera
LOAD3D_MODEL_INFO = getattr(io, "Load3DModelInfo", None) or io.Custom("LOAD3D_MODEL_INFO")
# From the cores that report how the viewer moved a model on, the viewer leaves it in its own space until the user fits it.
NEWER_VIEWER = hasattr(io, "Load3DModelInfo")
SPLAT = getattr(io, "Splat", None) or io.Custom("SPLAT")
CAMERAS = io.Custom("LATHE_CAMERAS")
FIELD = io.Custom("LATHE_FIELD")
PRIOR = io.Custom("LATHE_PRIOR")
VIEW_MODEL = io.Custom("LATHE_VIEW_MODEL")
LRM = io.Custom("LATHE_LRM")
GEOLRM = io.Custom("LATHE_GEOLRM")


class Names(list[str]):
    """Options of a combo that are names of files: what is given is looked up by the node itself, which says where it is missing."""


def schema(**fields: Any) -> io.Schema:
    """An io.Schema from the fields this core knows; newer ones (search_aliases, ...) are left out on older cores.

    Asks for the node's unique id, which `progress.tick_for` needs to show progress on the right node.
    """
    known = {f.name for f in dataclasses.fields(io.Schema)}
    hidden = list(fields.pop("hidden", []))
    if io.Hidden.unique_id not in hidden:
        hidden.append(io.Hidden.unique_id)
    return io.Schema(hidden=hidden, **{k: v for k, v in fields.items() if k in known})


@cache
def parameters_of(kind: type) -> frozenset[str]:
    return frozenset(inspect.signature(kind).parameters)


def widget(kind: Any, id: str, **options: Any) -> Any:
    """`kind.Input(id, ...)` with the options this core knows, e.g. `widget(io.Int, "steps", default=28, advanced=True)`."""
    known = parameters_of(kind.Input)
    return kind.Input(id, **{k: v for k, v in options.items() if k in known})


def asset_input(id: str, *kinds: Any, **options: Any) -> Any:
    """An input that takes any of these socket types; one alone is an ordinary input."""
    if len(kinds) == 1:
        return widget(kinds[0], id, **options)
    known = parameters_of(io.MultiType.Input)
    return io.MultiType.Input(id, types=list(kinds), **{k: v for k, v in options.items() if k in known})


def precision_input() -> Any:
    """The precision widget of a loader."""
    return widget(
        io.Combo,
        "precision",
        options=["auto", "fp32", "bf16", "fp16"],
        default="auto",
        advanced=True,
        tooltip="Number format of the weights. auto takes what suits the device; half precision needs half the memory.",
    )


def download_input() -> Any:
    """The download widget of a loader."""
    return widget(
        io.Boolean,
        "download",
        default=False,
        tooltip="Fetch the chosen weights from Hugging Face if they are not on this machine. Nothing is fetched while this is off.",
    )


def color_in(text: str) -> tuple[float, float, float]:
    """A colour written as #rrggbb, #rgb or white, grey, black -> sRGB in [0, 1].

    Raises:
        ValueError: anything else.
    """
    digits = {"white": "ffffff", "grey": "7f7f7f", "gray": "7f7f7f", "black": "000000"}.get(text.strip().lower(), text.strip().lstrip("#"))
    digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
    try:
        red, green, blue = bytes.fromhex(digits) if len(digits) == 6 else b""
    except ValueError:
        raise ValueError(f"{text!r} is no colour: write #ffffff, or white, grey or black.") from None
    return red / 255, green / 255, blue / 255
