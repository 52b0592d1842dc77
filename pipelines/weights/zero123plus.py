"""Loads the published Zero123++ folder (diffusers layout) into a `ViewModel`, from disk alone.

    unet/ vae/              config.json, diffusion_pytorch_model[.fp16].safetensors | .bin
    vision_encoder/ text_encoder/   config.json, model[.fp16].safetensors | pytorch_model.bin
    scheduler/              scheduler_config.json
    feature_extractor_vae/  preprocessor_config.json (side of the reference picture)

InstantMesh's white-background U-Net is one flat state dict (`diffusion_pytorch_model.bin`) that takes the place of unet/'s weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data.progress import Tick, no_tick, part_of
from ..disk.json_files import UNUSABLE, read_json
from ..disk.state_dicts import read_state_dict
from ..nets.zero123plus import ClipConditioner, VaeCodec
from ..view_generation.model import NoiseSchedule, ViewModel

GREY = (127 / 255, 127 / 255, 127 / 255)
WHITE = (1.0, 1.0, 1.0)
PARTS = 4
DOWNLOAD_AGAIN = "Download the folder again."


def load_zero123plus(
    folder: str | Path,
    *,
    white_unet: str | Path | None = None,
    camera_preset: str = "zero123plus_v1.2",
    dtype: torch.dtype = torch.float32,
    tick: Tick = no_tick,
) -> ViewModel:
    """The published networks on the CPU.

    Args:
        folder: the model folder.
        white_unet: InstantMesh's U-Net, which paints on white; unet/ then needs only its config. Without it the model works on grey.
        camera_preset: "zero123plus_v1.2", or "zero123plus_v1.1" for the older networks.
        dtype: precision of the weights. The empty prompt is encoded in float32 in any case.

        tick: called for each tensor.

    Raises:
        ValueError: a part is missing or its weights belong to another network.
    """
    folder = Path(folder)
    index, extractor, scheduler = (
        folder / name for name in ("model_index.json", "feature_extractor_vae/preprocessor_config.json", "scheduler/scheduler_config.json")
    )
    with _settings_of(index):
        ramp = torch.tensor(_optional_json(index).get("ramping_coefficients") or ramping_coefficients())
    with _settings_of(extractor):
        reference_size = _optional_json(extractor).get("crop_size", 512)
        reference_size = int(reference_size["height"] if isinstance(reference_size, dict) else reference_size)
    with _settings_of(scheduler):
        schedule = _schedule(_optional_json(scheduler))
    prompt = empty_prompt(_load(folder / "text_encoder", text_encoder, torch.float32, tick=part_of(tick, 0, PARTS)))
    vision = _load(folder / "vision_encoder", vision_encoder, dtype, tick=part_of(tick, 1, PARTS))
    vae = _load(folder / "vae", autoencoder, dtype, tick=part_of(tick, 2, PARTS))
    unet_file = None if white_unet is None else Path(white_unet)
    return ViewModel(
        unet=_load(folder / "unet", denoiser, dtype, unet_file, tick=part_of(tick, 3, PARTS)),
        codec=VaeCodec(vae, reference_size),
        conditioner=ClipConditioner(vision, prompt, ramp),
        camera_preset=camera_preset,
        schedule=schedule,
        background=GREY if white_unet is None else WHITE,
        steps=28 if white_unet is None else 75,
    )


def ramping_coefficients() -> list[float]:
    """The 77 published weights of the picture's CLIP embedding, one a prompt token."""
    return json.loads((Path(__file__).parent / "zero123plus.json").read_text(encoding="utf-8"))["ramping_coefficients"]


# ---- architectures, from their published configs ---------------------------------------------------------------------


def denoiser(config: dict[str, Any]) -> nn.Module:
    """The U-Net of a unet/config.json."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel.from_config(config)


def autoencoder(config: dict[str, Any]) -> nn.Module:
    """The autoencoder of a vae/config.json."""
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_config(config)


def vision_encoder(config: dict[str, Any]) -> nn.Module:
    """The CLIP picture encoder of a vision_encoder/config.json."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    return CLIPVisionModelWithProjection(CLIPVisionConfig(**config))


def text_encoder(config: dict[str, Any]) -> nn.Module:
    """The CLIP text encoder of a text_encoder/config.json."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig(**config))


def empty_prompt(encoder: Any) -> Tensor:
    """The text encoder's normalised last hidden states for the empty prompt, (1, L, D).

    CLIP's vocabulary ends with the start and the end token; this tokenizer pads with token 0, and nothing is masked. The ids in the
    published text_encoder/config.json are not the tokenizer's.
    """
    length, vocabulary = int(encoder.config.max_position_embeddings), int(encoder.config.vocab_size)
    tokens = torch.tensor([[vocabulary - 2, vocabulary - 1, *[0] * (length - 2)]])
    with torch.no_grad():
        return encoder(tokens).last_hidden_state.float()


# ---- reading ---------------------------------------------------------------------------------------------------------


def _optional_json(path: Path) -> dict[str, Any]:
    return _config(path) if path.is_file() else {}


def _config(path: Path) -> dict[str, Any]:
    config = read_json(path, DOWNLOAD_AGAIN)
    if not isinstance(config, dict):
        raise ValueError(f"Zero123++: {path} holds no JSON object. {DOWNLOAD_AGAIN}")
    return config


@contextmanager
def _settings_of(path: Path) -> Iterator[None]:
    """What a library says of settings that it cannot use names no file."""
    try:
        yield
    except UNUSABLE as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"Zero123++: the settings in {path} cannot be used ({reason}). {DOWNLOAD_AGAIN}") from error


def _schedule(config: dict[str, Any]) -> NoiseSchedule:
    names = {
        "beta_start": "beta_start", "beta_end": "beta_end", "beta_schedule": "beta_schedule",
        "prediction_type": "prediction_type", "num_train_timesteps": "train_steps",
    }  # fmt: skip
    return NoiseSchedule(**{ours: config[theirs] for theirs, ours in names.items() if theirs in config})


def _weights_file(folder: Path) -> Path:
    stems = ("diffusion_pytorch_model", "model", "pytorch_model")
    for kind in ("safetensors", "fp16.safetensors", "bin", "fp16.bin"):
        for stem in stems:
            if (path := folder / f"{stem}.{kind}").is_file():
                return path
    raise ValueError(f"Zero123++: {folder} holds no weights: no {stems[0]} or {stems[1]} (.safetensors, .bin). Download the folder again.")


def _load(
    folder: Path, make: Callable[[dict[str, Any]], nn.Module], dtype: torch.dtype, weights: Path | None = None, *, tick: Tick = no_tick
) -> nn.Module:
    config = folder / "config.json"
    if not config.is_file():
        raise ValueError(f"Zero123++: {config} is missing. The model folder must hold unet, vae, vision_encoder and text_encoder.")
    path = weights or _weights_file(folder)
    # Built without memory; each tensor of the file then becomes the parameter itself.
    settings = _config(config)
    with torch.device("meta"), _settings_of(config):
        module = make(settings)
    state = fit_names(read_state_dict(path), module)
    _check(state, module, path)
    for done, name in enumerate(list(state)):
        tick(done, len(state))
        state[name] = state[name].to(dtype)
    module.load_state_dict(state, strict=True, assign=True)
    _fill_position_ids(module)
    return module.eval().requires_grad_(False)


def fit_names(state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """The state dict under the names this version of the libraries gives the module.

    transformers 5 dropped `text_model.` from the text encoder; old files carry CLIP's constant `position_ids`, and old autoencoders name
    their attention layers differently.
    """
    expected = module.state_dict().keys()
    old_attention = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    out = {}
    for name, tensor in state.items():
        if name.rsplit(".", 1)[-1] == "position_ids":
            continue
        head, _, tail = name.rpartition(".")
        stem, _, layer = head.rpartition(".")
        renamed = f"{stem}.{old_attention.get(layer)}.{tail}"
        candidates = (name, name.partition(".")[2], f"text_model.{name}", f"vision_model.{name}", renamed)
        out[next((c for c in candidates if c in expected), name)] = tensor
    return out


def _check(state: dict[str, Tensor], module: nn.Module, path: Path) -> None:
    expected = {name: tuple(t.shape) for name, t in module.state_dict().items()}
    missing = [n for n in expected if n not in state]
    extra = [n for n in state if n not in expected]
    shapes = [f"{n} is {tuple(state[n].shape)}, expected {s}" for n, s in expected.items() if n in state and tuple(state[n].shape) != s]
    if missing or extra or shapes:
        raise ValueError(
            f"Zero123++: {path.name} is not a {type(module).__name__} of this config: {len(missing)} entries missing {missing[:3]}, "
            f"{len(extra)} unknown {extra[:3]}, {len(shapes)} of another shape {shapes[:3]}."
        )


def _fill_position_ids(module: nn.Module) -> None:
    """CLIP's position ids are in no file: counted here, since the module was built without memory."""
    for part in module.modules():
        for name, buffer in part.named_buffers(recurse=False):
            if name == "position_ids":
                part.register_buffer(name, torch.arange(buffer.shape[-1])[None], persistent=False)
    left = [name for name, t in [*module.named_parameters(), *module.named_buffers()] if t.is_meta]
    if left:
        raise ValueError(f"Zero123++: no file gives {left[:3]} of {type(module).__name__}; another version of its library is needed.")
