"""From weight files to GeoLRM's networks: the published `geolrm.ckpt` and relatives, and the mini models, by the same code.

Sizes are told from the shapes in the file. What shapes do not tell (heads, the grid, bounds of Gaussians, the views' size and background,
the form of self-attention) is in the header of Lathe's own files, and the published default for all others.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor, nn

from ..disk.atomic import write_files
from ..disk.state_dicts import read_metadata, read_state_dict
from ..nets.attention import Linear
from ..nets.geo_transformer import LEVELS, Form
from ..nets.geolrm import PROPOSAL, RECONSTRUCTION, GeoLRMConfig, ProposalNetwork, ReconstructionNetwork
from ..reconstruction.geolrm.stages import PATCH, GeoLRM, NetworkForm
from .instantmesh import SETTINGS, load_strictly
from .mini_models import FOLDER, read_config

MINI_FILE = FOLDER / "geolrm_mini.safetensors"
KIND = "geolrm"
PROPOSAL_PREFIX, RECONSTRUCTION_PREFIX = "serializer.", "lrm_generator."
# Names that newer versions of transformers give to parts of DINOv2, and the published ones.
BACKBONE_NAMES = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
}
VIT_HEAD = 64  # channels of a head in every published DINOv2
NOT_IN_SHAPES = ("heads", "grid", "offset_max", "scale_max")

_log = logging.getLogger(__name__)
Net = TypeVar("Net", ProposalNetwork, ReconstructionNetwork)


def load_geolrm(path: str | Path, *, dtype: torch.dtype = torch.float32, reconstruction_dtype: torch.dtype | None = None) -> GeoLRM:
    """The networks of a file, on the CPU, ready to run; a file may hold only one of them.

    Args:
        path: a torch file of the flat state dict (`serializer.*`, `lrm_generator.*`, with or without `module.` in front; `lpips.*` and the
            like are left out), or a safetensors file with the same names.
        dtype: to store the transformers in (`cast_trunk`).  reconstruction_dtype: of the reconstruction network where it differs.

    Returns:
        The networks. Where the file does not say how they are run, both forms are the paper's: see `reconstruction.geolrm.detect_attention`
        for deciding better.

    Raises:
        ValueError: a file that cannot be read, holds neither network, or lacks a part of one.
    """
    path = Path(path)
    settings = read_config(path, KIND, ["view_size"]) if SETTINGS in read_metadata(path) else {}
    state = published_names(read_state_dict(path))
    nets: dict[str, Any] = {}
    kinds: dict[str, tuple[str, Any]] = {
        "proposal": (PROPOSAL_PREFIX, ProposalNetwork),
        "reconstruction": (RECONSTRUCTION_PREFIX, ReconstructionNetwork),
    }
    for part, (prefix, kind) in kinds.items():
        own = {key[len(prefix) :]: value.float() for key, value in state.items() if key.startswith(prefix)}
        given = settings.get(part, {})
        if not isinstance(given, dict):
            raise ValueError(f"{path.name} is damaged: the settings of its {part} network are no JSON object.")
        nets[part] = _load(kind, own, given, f"{path.name} ({prefix}*)") if own else None
    if nets["proposal"] is None and nets["reconstruction"] is None:
        starts = ", ".join(sorted({key.split(".")[0] + ".*" for key in state})[:3])
        raise ValueError(
            f"{path.name} holds no GeoLRM network: {PROPOSAL_PREFIX}* or {RECONSTRUCTION_PREFIX}* are expected, found {starts}."
        )
    for net, own_dtype in ((nets["proposal"], dtype), (nets["reconstruction"], reconstruction_dtype or dtype)):
        if net is not None:
            cast_trunk(net, own_dtype)
    model = GeoLRM(nets["proposal"], nets["reconstruction"], name=path.stem)
    return _with_settings(model, settings, path)


def says_its_forms(path: str | Path) -> bool:
    """Whether the file itself says how its networks are run: Lathe's own do."""
    return SETTINGS in read_metadata(path)


def save_geolrm(model: GeoLRM, path: str | Path, *, dtype: torch.dtype = torch.float16) -> None:
    """Writes a model as one safetensors file with all its settings, so that `load_geolrm` gives it back. Atomic.

    Batch normalisation stays in float32, whose statistics may be small.
    """
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    settings: dict[str, Any] = {"kind": KIND, "name": model.name, "view_size": model.view_size, "background": list(model.background)}
    parts = (
        ("proposal", PROPOSAL_PREFIX, model.proposal, model.propose_as),
        ("reconstruction", RECONSTRUCTION_PREFIX, model.reconstruction, model.reconstruct_as),
    )
    for part, prefix, net, run_as in parts:
        if net is None:
            continue
        exact = {
            f"{name}.{key}" for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d) for key in module.state_dict()
        }
        for key, value in net.state_dict().items():
            kept = key in exact or not value.is_floating_point()
            tensors[prefix + key] = value.detach().cpu().to(value.dtype if kept else dtype).contiguous()
        settings[part] = {
            **{key: getattr(net.config, key) for key in NOT_IN_SHAPES},
            "vit_heads": net.config.vit[2],
            "run_as": asdict(run_as),
        }
    path = Path(path)
    write_files(path.parent, {path.name: save(tensors, metadata={SETTINGS: json.dumps(settings)})})


def published_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Entries under the published names: without `module.` in front, DINOv2's parts as transformers 4.34 calls them."""
    renamed = {}
    for key, value in state.items():
        key = re.sub(r"^(?:module\.)+", "", key)
        if ".encoder.model.encoder.layer." in key:
            for newer, published in BACKBONE_NAMES.items():
                key = key.replace(f".{newer}.", f".{published}.")
        renamed[key] = value
    return renamed


def cast_trunk(net: nn.Module, dtype: torch.dtype) -> None:
    """Stores the weights of the transformers' linear layers in `dtype`; norms, convolutions and heads stay in float32."""
    for name, module in net.named_modules():
        if isinstance(module, Linear) and name.startswith(("encoder.model.", "transformer.")):
            module.to(dtype)


def sizes(state: Mapping[str, Tensor], given: Mapping[str, Any], default: GeoLRMConfig, name: str = "The file") -> GeoLRMConfig:
    """The sizes of a network, from the shapes of its entries (without prefix), `given` settings and published defaults.

    Raises:
        ValueError: an entry that tells a size is missing or has an impossible shape, in words.
    """

    def shape(key: str, dims: int) -> tuple[int, ...]:
        if key not in state:
            raise ValueError(f"{name} is not whole: it lacks {key}.")
        if state[key].ndim != dims:
            raise ValueError(f"{name} is damaged: {key} has shape {tuple(state[key].shape)}.")
        return tuple(state[key].shape)

    def count(prefix: str) -> int:
        return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})

    attend = "transformer.layers.0.cross_attention.deformable_attention.attention_weights.weight"
    vit_dim = shape("encoder.model.embeddings.cls_token", 3)[2]
    dim = shape("transformer.query_token", 3)[2] + 3
    try:
        heads = int(given.get("heads", default.heads))
        vit_heads = int(given.get("vit_heads", max(1, vit_dim // VIT_HEAD)))
        known = {key: type(getattr(default, key))(given[key]) for key in NOT_IN_SHAPES if key in given}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is damaged: a setting in its header is no number ({error}).") from error
    if heads < 1 or vit_heads < 1:
        raise ValueError(f"{name} is damaged: its header says {heads} heads, and {vit_heads} of the image backbone.")
    config = replace(
        default,
        dim=dim,
        layers=count("transformer.layers."),
        vit=(vit_dim, count("encoder.model.encoder.layer."), vit_heads),
        feature_dim=shape("encoder.deconv.0.weight", 4)[1],
        samples=shape(attend, 2)[0] // (heads * LEVELS),
        **known,
    )
    if "upsample.weight" in state:
        config = replace(config, token_cells=round(shape("upsample.weight", 2)[0] ** (1 / 3)))
    if "renderer.latent_decoder.2.weight" in state:
        config = replace(config, gaussians=shape("renderer.latent_decoder.2.weight", 2)[0] // 14)
    in_steps = config.token_cells if "upsample.weight" in state else 1  # a reconstruction network has no tokens of many cells
    if dim % (6 * heads) or vit_dim % vit_heads or config.samples < 1 or config.grid < 2 or not in_steps or config.grid % in_steps:
        raise ValueError(
            f"{name} is no GeoLRM of a size that can be told: width {dim} with {heads} heads, image width {vit_dim} with {vit_heads}, "
            f"{config.samples} samples, a grid of {config.grid} in steps of {config.token_cells}."
        )
    return config


def _load(kind: type[Net], state: dict[str, Tensor], given: Mapping[str, Any], name: str) -> Net:
    config = sizes(state, given, PROPOSAL if kind is ProposalNetwork else RECONSTRUCTION, name)
    with torch.device("meta"):
        net = kind(config)
    expected = net.state_dict().keys()
    left = [key for key in state if key not in expected]
    if left:  # the published loader passes over them too
        _log.warning("%s: %d entries are not used: %s%s.", name, len(left), ", ".join(left[:3]), ", ..." if len(left) > 3 else "")
    for key in expected:
        if key.endswith("num_batches_tracked"):
            state[key] = torch.zeros((), dtype=torch.int64)
    load_strictly(net, {key: value for key, value in state.items() if key in expected}, name)
    return net.eval().requires_grad_(False)


def _with_settings(model: GeoLRM, settings: Mapping[str, Any], path: Path) -> GeoLRM:
    if not settings:
        return model
    try:
        forms = {part: NetworkForm(**settings[part]["run_as"]) for part in ("proposal", "reconstruction") if part in settings}
        changed = replace(
            model,
            name=str(settings.get("name", model.name)),
            view_size=int(settings["view_size"]),
            background=tuple(float(c) for c in settings.get("background", model.background)),  # type: ignore[arg-type]
            propose_as=forms.get("proposal", model.propose_as),
            reconstruct_as=forms.get("reconstruction", model.reconstruct_as),
        )
        if changed.view_size < PATCH or changed.view_size % PATCH or len(changed.background) != 3:
            raise ValueError(f"views of {changed.view_size} pixels, background {changed.background}")
        if any(run_as.form not in get_args(Form) or not run_as.scale > 0 for run_as in forms.values()):
            raise ValueError(f"forms {forms}")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path.name} is damaged: the settings in its header cannot be read ({error}).") from error
    return changed
