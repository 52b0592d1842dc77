"""From weight files to reconstruction networks: the published InstantMesh checkpoints, and the mini models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..disk.state_dicts import read_metadata, read_state_dict
from ..nets.triplane_lrm import PUBLISHED, TriplaneLRM
from ..reconstruction.lrm import LRM
from . import mini_models

PREFIX = "lrm_generator."
SETTINGS = "lathe_config"


def load_lrm(path: str | Path, *, variant: str | None = None, dtype: torch.dtype = torch.float32) -> LRM:
    """A reconstruction network from a released `instant_*.ckpt` or from a mini model's file, on the CPU, ready to run.

    Args:
        path: the file; which network is in it is told from its content.
        variant: the published variant the caller expects, to be told when another one is in the file; None takes any.
        dtype: to store the transformers in (`TriplaneLRM.cast_trunk`).

    Raises:
        ValueError: a file that cannot be read, holds no such network or another variant, or lacks a part of it.
    """
    path = Path(path)
    if SETTINGS in read_metadata(path):
        if variant is not None:
            raise ValueError(f"{path.name} is a mini model, but the published {variant} was asked for.")
        lrm = mini_models.load_lrm(path)
    else:
        state, name = published_state(read_state_dict(path), path.name)
        if variant is not None and variant != name:
            raise ValueError(f"{path.name} holds {name}, but {variant} was asked for: choose the other file, or the other variant.")
        with torch.device("meta"):
            net = TriplaneLRM(PUBLISHED[name])
        load_strictly(net, state, path.name)
        lrm = LRM(net.eval().requires_grad_(False), name)
    lrm.net.float().cast_trunk(dtype)
    return lrm


def published_state(state: Mapping[str, Tensor], name: str) -> tuple[dict[str, Tensor], str]:
    """The reconstruction network's own entries of a released checkpoint, and which of the four variants they are.

    Lightning's `lrm_generator.` is taken off; entries beside it (`lpips.*`) served training and are left out.

    Raises:
        ValueError: no reconstruction network in there, or none of the four.
    """
    prefixed = any(key.startswith(PREFIX) for key in state)
    own = {key[len(PREFIX) :]: value for key, value in state.items() if key.startswith(PREFIX)} if prefixed else dict(state)
    return own, identify_lrm(own, name)


def identify_lrm(state: Mapping[str, Tensor], name: str = "The file") -> str:
    """Which published variant a state dict (without prefix) is, by its kind, depth and channels.

    Raises:
        ValueError: it is none of them, in words.
    """
    if "transformer.deconv.weight" not in state or not any(key.startswith("synthesizer.decoder.") for key in state):
        starts = Counter(key.split(".")[0] for key in state).most_common(3)
        found = ", ".join(f"{start}.*" for start, _ in starts)
        raise ValueError(f"{name} holds no InstantMesh reconstruction network: its entries are {found}.")
    kind = "mesh" if any(key.startswith("synthesizer.decoder.net_sdf.") for key in state) else "nerf"
    layers = len({key.split(".")[2] for key in state if key.startswith("transformer.layers.")})
    width, channels = state["transformer.deconv.weight"].shape[:2]
    for variant, config in PUBLISHED.items():
        if (kind, layers, width, channels) == (config.kind, config.transformer_layers, config.transformer_dim, config.triplane_dim):
            return variant
    raise ValueError(
        f"{name} holds a {kind} network with {layers} layers of width {width} and {channels} triplane channels, "
        f"which is none of {', '.join(PUBLISHED)}."
    )


def load_strictly(net: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Gives a network its entries, every one and no other, without a copy.

    Raises:
        ValueError: entries missing, left over or of another shape, the first few by name.
    """
    expected = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    problems = {
        "lacks": [key for key in expected if key not in found],
        "has unknown": [key for key in found if key not in expected],
        "has other shapes for": [key for key in expected if key in found and found[key] != expected[key]],
    }
    words = [
        f"{what} {len(keys)} entries ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})" for what, keys in problems.items() if keys
    ]
    if words:
        raise ValueError(f"{name} does not fit its network: it {'; it '.join(words)}.")
    net.load_state_dict(dict(state), strict=True, assign=True)
