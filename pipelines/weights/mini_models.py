"""The bundled mini models: one safetensors file each, with the settings of the network in its header under `lathe_config`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..cameras.presets import preset_cameras
from ..disk.json_files import UNUSABLE, parse_json
from ..disk.state_dicts import read_metadata, read_state_dict
from ..nets.elevation_head import ElevationHead, ElevationNet, fingerprint
from ..nets.mini_lrm import MiniLRM
from ..nets.mini_relief import ReliefNet
from ..nets.mini_views import PatchCodec, QueryEncoder
from ..nets.relief_guide import ReliefGuide
from ..reconstruction.lrm import LRM
from ..view_generation.model import ViewModel

FOLDER = Path(__file__).resolve().parent / "mini"
VIEWS, LRM_FILE = FOLDER / "views_mini.safetensors", FOLDER / "lrm_mini.safetensors"
ELEVATION = FOLDER / "elevation_mini.safetensors"
FETCH_AGAIN = "Fetch it again."
VIEWS_KEYS = ("patch", "unet", "view_size", "camera_preset", "steps", "guidance", "guide_share")
ELEVATION_KEYS = ("features", "hidden", "view_size", "deviation", "span", "encoder")


class MiniCodec:
    """The patch codec as the sampler's `ViewCodec`."""

    def __init__(self, codec: PatchCodec, view_size: int) -> None:
        self.codec, self.view_size = codec, view_size
        self.channels, self.factor = codec.channels, codec.patch

    def modules(self) -> dict[str, nn.Module]:
        """Its one network."""
        return {"codec": self.codec}

    def encode_reference(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """(1, 3, H, W) in [0, 1] -> (1, channels, h, w). Draws nothing: the code is exact."""
        return self.codec.encode(resized(image, self.view_size))

    def encode_no_reference(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Zeros, as in training."""
        return torch.zeros_like(self.encode_reference(image, generator))

    def encode_grid(self, grid: Tensor) -> Tensor:
        """(1, 3, H, W) in [0, 1] -> (1, channels, h, w): the codec's principal components of each patch."""
        return self.codec.encode(grid)

    def decode_grid(self, latents: Tensor) -> Tensor:
        """(1, channels, h, w) -> (1, 3, H, W) in [0, 1]."""
        return self.codec.decode(latents)

    def preview(self, latents: Tensor) -> Tensor:
        """(1, channels, h, w) -> (H, W, 3) in [0, 1]."""
        # the sampler previews while only the denoiser is sure to be on the device: the few latents go where the codec is
        return self.codec.decode(latents.to(self.codec.mean.device))[0].permute(1, 2, 0)

    def activation_bytes(self, height: int, width: int) -> dict[str, int]:
        """A few copies of the picture."""
        return {"codec": 16 * height * width * 3}


class MiniConditioner:
    """The query encoder as the sampler's `ViewConditioner`."""

    def __init__(self, encoder: QueryEncoder) -> None:
        self.encoder = encoder

    def modules(self) -> dict[str, nn.Module]:
        """Its one network."""
        return {"query_encoder": self.encoder}

    def tokens(self, image: Tensor) -> Tensor:
        """(1, 3, H, W) in [0, 1] -> (1, L, D)."""
        return self.encoder(resized(image, self.encoder.view_size))

    def no_tokens(self, image: Tensor) -> Tensor:
        """The learned tokens of no picture."""
        return self.encoder.empty(1)

    def activation_bytes(self) -> dict[str, int]:
        """Of the first convolution's maps, the widest."""
        return {"query_encoder": 8 * 32 * self.encoder.view_size**2}


def resized(image: Tensor, size: int) -> Tensor:
    """Square pictures (B, 3, H, W) at the size the model was trained with."""
    if image.shape[-2:] == (size, size):
        return image
    return interpolate(image, (size, size), mode="bicubic", antialias=True).clamp(0, 1)


def read_config(path: Path, kind: str, keys: Sequence[str]) -> dict[str, Any]:
    """The settings in a mini model's header, all of `keys`. Raises ValueError where the file is not a mini model of that kind."""
    text = read_metadata(path).get("lathe_config")
    if text is None:
        raise ValueError(f"{path.name} is not one of Lathe's mini models: its header holds no lathe_config.")
    config = parse_json(text, f"The lathe_config in the header of {path.name}", FETCH_AGAIN)
    if not isinstance(config, dict):
        raise ValueError(f"{path.name} is damaged: the lathe_config in its header is no JSON object. {FETCH_AGAIN}")
    if config.get("kind") != kind:
        raise ValueError(f"{path.name} holds a {config.get('kind')} model; this loader expects a {kind} model.")
    missing = [key for key in keys if key not in config]
    if missing:
        raise ValueError(f"{path.name} is damaged: the settings in its header lack {', '.join(missing)}.")
    return config


def load_views(path: Path = VIEWS) -> ViewModel:
    """The mini view model. Raises ValueError for a file that is damaged or holds something else."""
    from diffusers import UNet2DConditionModel

    config = read_config(path, "views", VIEWS_KEYS)
    codec = PatchCodec(config["patch"], config["unet"]["out_channels"])
    encoder = QueryEncoder(config["unet"]["cross_attention_dim"], config["view_size"])
    relief = ReliefNet()
    unet: Any = UNet2DConditionModel(**config["unet"])
    parts: dict[str, nn.Module] = {"unet": unet, "query_encoder": encoder, "codec": codec, "relief": relief}
    _fill(parts, read_state_dict(path), path)
    return ViewModel(
        unet=parts["unet"],
        codec=MiniCodec(codec, config["view_size"]),
        conditioner=MiniConditioner(encoder),
        camera_preset=config["camera_preset"],
        view_size=config["view_size"],
        reference_is_noised=False,
        steps=config["steps"],
        guidance=config["guidance"],
        guide_share=config["guide_share"],
        mask_method="half_contrast",
        guide=ReliefGuide(relief, codec, preset_cameras(config["camera_preset"]), config["view_size"]),
    )


def load_lrm(path: Path = LRM_FILE) -> LRM:
    """The mini reconstruction model. Raises ValueError for a file that is damaged or holds something else."""
    config = read_config(path, "lrm", ["settings"])
    try:
        net = MiniLRM.from_settings(config["settings"])
    except UNUSABLE as error:
        raise ValueError(f"{path.name} is damaged: its header makes no network ({error}). {FETCH_AGAIN}") from error
    _fill({"net": net}, read_state_dict(path), path)
    return LRM(net=net, name="mini")


def load_elevation(path: Path = ELEVATION) -> ElevationNet:
    """The elevation estimator, on the bundled reconstruction model's encoder.

    Raises:
        ValueError: the file is damaged, holds something else, or its head was trained on another encoder.
    """
    config = read_config(path, "elevation", ELEVATION_KEYS)
    encoder = load_lrm().net.encoder
    if config["encoder"] != fingerprint(encoder):
        raise ValueError(
            f"The head in {path.name} was trained on the encoder of another reconstruction model than {LRM_FILE.name}: train it again "
            "(training/train_elevation.py)."
        )
    head = ElevationHead(config["features"], config["hidden"])
    net = ElevationNet(encoder, head, config["view_size"], config["deviation"], tuple(config["span"]))
    _fill({"head": net.head}, read_state_dict(path), path)
    return net.eval()


def _fill(parts: dict[str, nn.Module], tensors: dict[str, Tensor], path: Path) -> None:
    """Loads tensors named part.parameter into their parts, in float32, strictly; freezes them."""
    for name, part in parts.items():
        own = {key[len(name) + 1 :]: value.float() for key, value in tensors.items() if key.startswith(name + ".")}
        try:
            part.load_state_dict(own)
        except RuntimeError as error:
            raise ValueError(f"{path.name} does not fit its own settings: {error}") from error
        part.eval().requires_grad_(False)
