"""Core's own CLIP and CLIP_VISION without checkpoints."""

import json
import tempfile
from pathlib import Path
from types import SimpleNamespace

import comfy.clip_vision
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import folder_paths
import torch
from comfy_api.latest import io

from .core import TOKEN, filled

L = {"hidden_size": TOKEN, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 3, "projection_dim": TOKEN}
G = {"hidden_size": 96, "intermediate_size": 192, "num_attention_heads": 4, "num_hidden_layers": 3, "projection_dim": 96}
KINDS = {
    "sd15": (comfy.sd1_clip.SD1ClipModel, comfy.sd1_clip.SD1Tokenizer),
    "sdxl": (comfy.sdxl_clip.SDXLClipModel, comfy.sdxl_clip.SDXLTokenizer),
}
EYE = {
    "model_type": "clip_vision_model", "hidden_act": "quick_gelu", "hidden_size": 64, "image_size": 56, "intermediate_size": 128,
    "num_attention_heads": 4, "num_channels": 3, "num_hidden_layers": 2, "patch_size": 14, "projection_dim": 768,
}  # fmt: skip


def small_clip(kind="sd15", folder=None):
    """A CLIP that reads embeddings from this folder, or from where core keeps them."""
    net, tokenizer = KINDS[kind]
    folder = folder or folder_paths.get_folder_paths("embeddings")
    settings = {"clip_l_model_config": L, "clip_g_model_config": G, "dtype": torch.float32}
    clip = comfy.sd.CLIP(SimpleNamespace(clip=net, tokenizer=tokenizer, params={}), embedding_directory=folder, model_options=settings)
    filled(clip.cond_stage_model, seed=6)
    return clip


def small_clip_vision():
    """A CLIP_VISION that gives 768 numbers."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(EYE))
        eye = comfy.clip_vision.ClipVisionModel(str(path))
    filled(eye.model, seed=7)
    return eye


class CoreEncoders(io.ComfyNode):
    """CLIP and CLIP_VISION."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LatheTestCoreEncoders", category="testing", inputs=[io.Combo.Input("kind", options=list(KINDS))],
            outputs=[io.Clip.Output("clip"), io.ClipVision.Output("clip_vision")],
        )  # fmt: skip

    @classmethod
    def execute(cls, kind):
        return io.NodeOutput(small_clip(kind), small_clip_vision())


NODES = [CoreEncoders]
