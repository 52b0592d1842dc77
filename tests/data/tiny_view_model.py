"""A tiny Zero123++ with the weights of the published run kept in goldens/zero123plus_tiny.npz."""

import json
from pathlib import Path

import numpy as np
import torch
from data.seeded_weights import seeded_array
from lathe.pipelines.nets import zero123plus as parts
from lathe.pipelines.view_generation import model as vm
from lathe.pipelines.weights import zero123plus as weights

DATA = Path(__file__).resolve().parent
GOLDEN = {k: torch.from_numpy(np.asarray(v)) for k, v in np.load(DATA / "goldens/zero123plus_tiny.npz").items()}
TINY = json.loads((DATA / "manifests/zero123plus_tiny.json").read_text())
FULL = json.loads((DATA / "manifests/zero123plus_v1.2.json").read_text())
MAKE = {
    "unet": weights.denoiser,
    "vae": weights.autoencoder,
    "vision_encoder": weights.vision_encoder,
    "text_encoder": weights.text_encoder,
}


def published_name(part, name):
    """A parameter's name in the published files, whatever this version of transformers calls it."""
    return f"text_model.{name}" if part == "text_encoder" and not name.startswith("text_model.") else name


def seeded(part):
    """One network with the golden run's weights."""
    module = MAKE[part](TINY["configs"][part])
    state = {n: torch.from_numpy(seeded_array(f"{part}.{published_name(part, n)}", t.shape)) for n, t in module.state_dict().items()}
    module.load_state_dict(state)
    return module.eval().requires_grad_(False)


def view_model():
    """The whole tiny Zero123++."""
    prompt = weights.empty_prompt(seeded("text_encoder"))
    conditioner = parts.ClipConditioner(seeded("vision_encoder"), prompt, torch.tensor(weights.ramping_coefficients()))
    codec = parts.VaeCodec(seeded("vae"), reference_size=64)
    return vm.ViewModel(seeded("unet"), codec, conditioner, "zero123plus_v1.2", view_size=64, steps=4)


def picture():
    """The golden run's input, (3, 80, 80) in [0, 1]."""
    return GOLDEN["cond_rgb_composited"].permute(2, 0, 1).float() / 255


def error(got, key):
    """Largest difference from a golden."""
    assert tuple(got.shape) == tuple(GOLDEN[key].shape), key
    return float((got.double() - GOLDEN[key].double()).abs().max())
