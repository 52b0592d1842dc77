"""What comes into a socket is of the socket's kind: core checks the kinds of wires, not what a node hands on through them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized
from typing import Any

import torch
from comfy_api.latest import io

from ...pipelines.data.cameras import Cameras

FARTHEST = 1e6  # of a camera from the origin
SHORTEST, LONGEST = 1e-4, 1e5  # focal lengths as shares of the picture


def check_sockets(schema: io.Schema, given: Mapping[str, Any]) -> None:
    """Checks the kind of each payload a node was given, and that pictures, masks and cameras are sound: nodes hand those on, too.

    Raises:
        ValueError: a payload of another kind, none where one is needed, pixels that are not finite, or cameras that are not sound. It names
            node and socket.
    """
    for socket in schema.inputs:
        if socket.id not in given or isinstance(socket, io.WidgetInput):
            continue
        where, value = f"{schema.display_name or schema.node_id}: {socket.display_name or socket.id}", given[socket.id]
        kinds = [kind.strip() for kind in str(socket.get_io_type()).split(",")]
        for one in value if schema.is_input_list else [value]:
            if one is None:
                if not socket.optional:
                    raise ValueError(f"{where} got nothing: the node wired to it gave no value.")
            elif not any(_is(one, kind) for kind in kinds):
                raise ValueError(f"{where} takes {' or '.join(map(_name, kinds))}, not {_shown(one)}; check the node wired to it.")
            elif isinstance(one, Cameras):
                _check_cameras(where, one)
            elif kinds == ["LATHE_DISTILLATION"]:
                _check_run(where, one)
            elif kinds == ["CONDITIONING"]:
                _check_conditioning(where, one)
            elif kinds == ["IMAGE"] and (one.ndim != 4 or one.shape[-1] not in (1, 3, 4) or 0 in one.shape):
                raise ValueError(f"{where} takes pictures of shape (count, height, width, 1, 3 or 4 channels), not {tuple(one.shape)}.")
            elif kinds == ["MASK"] and 0 in one.shape:
                raise ValueError(f"{where} takes masks of shape (count, height, width), not {tuple(one.shape)}.")
            elif isinstance(one, torch.Tensor) and not bool(torch.isfinite(one.detach()).all()):
                raise ValueError(f"{where} holds NaN or infinite numbers; the node before made them (often a VAE in half precision).")


def _has(*names: str) -> Callable[[Any], bool]:
    return lambda value: all(hasattr(value, name) for name in names)


def _all(values: Any, test: Callable[[Any], bool]) -> bool:
    return isinstance(values, list | tuple) and len(values) > 0 and all(map(test, values))


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and not value.is_complex()


def _is_text(pair: Any) -> bool:
    """An entry of CONDITIONING."""
    return isinstance(pair, list | tuple) and len(pair) >= 2 and _is_tensor(pair[0]) and isinstance(pair[1], dict)


SPLAT_PARTS = ("positions", "scales", "rotations", "opacities", "sh")
_FILE = _has("save_to", "get_source")
_KINDS: dict[str, Callable[[Any], bool]] = {
    "IMAGE": _is_tensor,
    "MASK": _is_tensor,
    "MESH": _has("vertices", "faces"),
    "SPLAT": lambda value: all(isinstance(getattr(value, name, None), torch.Tensor) for name in SPLAT_PARTS),
    "VOXEL": lambda value: hasattr(value, "data") and not isinstance(value, torch.Tensor),
    "CONDITIONING": lambda value: _all(value, _is_text),
    "MODEL": _has("model", "model_options"),
    "VAE": _has("encode", "decode"),
    "CLIP": _has("tokenize", "cond_stage_model"),
    "CLIP_VISION": _has("encode_image"),
    "LATHE_CAMERAS": lambda value: isinstance(value, Cameras),
    "LATHE_FIELD": lambda value: _all(value, _has("geometry", "color", "kind", "bound")),
    "LATHE_PRIOR": _has("guide"),
    "LATHE_DISTILLATION": _has("tensors", "about"),
    "LATHE_LRM": _has("reconstruct", "lrm"),
    "LATHE_GEOLRM": _has("propose", "reconstruct"),
    "LATHE_VIEW_MODEL": _has("generate", "renoise"),
}


def _is(value: Any, kind: str) -> bool:
    if kind.startswith("FILE_3D"):
        return _FILE(value)
    test = _KINDS.get(kind)
    return test is None or test(value)


def _name(kind: str) -> str:
    return {"LATHE_FIELD": "fields (LATHE_FIELD)", "LATHE_CAMERAS": "cameras (LATHE_CAMERAS)"}.get(kind, kind)


def _shown(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')} and shape {tuple(value.shape)}"
    if isinstance(value, Sized) and not isinstance(value, str):
        return f"a {type(value).__name__} of {len(value)} entries"
    return f"an object of type {type(value).__name__}"


def _check_run(where: str, run: Any) -> None:
    from ...pipelines.distillation.run_file import what_is_wrong

    wrong = what_is_wrong(run)
    if wrong:
        raise ValueError(f"{where} is no whole run: {wrong}. Wire the output of a Distil node, or Load Distillation.")


def _check_conditioning(where: str, pairs: Any) -> None:
    for tokens, *_ in pairs:
        if tokens.ndim != 3 or 0 in tokens.shape or not bool(torch.isfinite(tokens).all()):
            raise ValueError(
                f"{where} must hold finite numbers of shape (count, tokens, width), not {_shown(tokens)}"
                f"{'' if tokens.ndim != 3 or 0 in tokens.shape else ' with NaN or infinity in it'}; check the node that encoded the text."
            )


def _check_cameras(where: str, cameras: Cameras) -> None:
    """Cameras check themselves when they are made; another node may have changed them since, or made none at all."""
    for name in ("c2w", "K"):
        tensor = getattr(cameras, name)
        if not isinstance(tensor, torch.Tensor) or tensor.dtype != torch.float32:
            raise ValueError(f"{where}: {name} must be a tensor of float32, not {_shown(tensor)}.")
    try:
        Cameras(cameras.c2w, cameras.K, tuple(cameras.names))
    except ValueError as error:
        raise ValueError(f"{where}: {error} The node before made them so.") from error
    if 0 in cameras.c2w.shape:
        raise ValueError(f"{where} hold no views: their poses have shape {tuple(cameras.c2w.shape)}.")
    farthest, lenses = float(cameras.c2w.abs().max()), cameras.K
    if farthest > FARTHEST or bool((lenses[..., :2] < SHORTEST).any()) or bool((lenses.abs() > LONGEST).any()):
        raise ValueError(
            f"{where} are none that can be computed with: the farthest is {farthest:.3g} from the origin (at most {FARTHEST:g}), "
            f"focal lengths go from {float(lenses[..., :2].min()):.3g} to {float(lenses[..., :2].max()):.3g} picture widths "
            f"({SHORTEST:g} to {LONGEST:g})."
        )
