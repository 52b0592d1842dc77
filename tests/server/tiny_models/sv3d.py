"""What core's loader of SV3D hands on, in small: MODEL, CLIP_VISION and a VAE whose pictures show something."""

import json
import tempfile
from pathlib import Path

import comfy.clip_vision
import torch
from comfy_api.latest import io

from .core import TOKEN, filled, small_model, small_vae

EYES = {
    "model_type": "clip_vision_model", "hidden_act": "quick_gelu", "hidden_size": 64, "intermediate_size": 128, "image_size": 56,
    "patch_size": 14, "num_channels": 3, "num_attention_heads": 4, "num_hidden_layers": 2, "projection_dim": TOKEN,
}  # fmt: skip


def small_eyes():
    """A CLIP_VISION that embeds pictures as wide as the small SV3D's tokens."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "eyes.json"
        path.write_text(json.dumps(EYES))
        eyes = comfy.clip_vision.ClipVisionModel(str(path))
    filled(eyes.model, seed=3)
    return eyes


def disc_vae():
    """The small VAE draws noise; it is laid on a disc before white, so that there is an object to find."""
    vae = small_vae()
    decode = vae.decode

    def on_a_disc(samples, *arguments, **options):
        pictures = decode(samples, *arguments, **options)
        height, width = pictures.shape[-3:-1]
        y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        disc = ((x**2 + y**2) < 0.5).to(pictures)[..., None]
        return pictures * 0.7 * disc + (1 - disc)

    vae.decode = on_a_disc
    return vae


class SmallSV3D(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        outputs = [io.Model.Output("model"), io.ClipVision.Output("clip_vision"), io.Vae.Output("vae")]
        return io.Schema(node_id="LatheTestSV3D", category="testing", inputs=[], outputs=outputs)

    @classmethod
    def execute(cls):
        return io.NodeOutput(small_model("sv3d_p"), small_eyes(), disc_vae())


NODES = [SmallSV3D]
