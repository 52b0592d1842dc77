"""Core's transformers of pictures and films without checkpoints: its classes around networks of some hundred thousand seeded weights."""

import comfy.latent_formats
import comfy.ldm.wan.vae
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import torch

from .core import TOKEN, filled

POOLED = 48
FLUX = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": POOLED, "context_in_dim": TOKEN, "hidden_size": 64,
    "mlp_ratio": 2.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "axes_dim": [8, 12, 12], "theta": 10000, "patch_size": 2,
    "qkv_bias": True,
}  # fmt: skip
COSMOS = {
    "image_model": "cosmos_predict2", "max_img_h": 240, "max_img_w": 240, "max_frames": 128, "in_channels": 16, "out_channels": 16,
    "patch_spatial": 2, "patch_temporal": 1, "model_channels": 64, "num_blocks": 1, "num_heads": 2, "crossattn_emb_channels": TOKEN,
    "pos_emb_cls": "rope3d", "pos_emb_learnable": True, "use_adaln_lora": True, "adaln_lora_dim": 16,
}  # fmt: skip
# Core's class of the family, and its network's settings.
FAMILIES = {
    "flux": ("Flux", {**FLUX, "guidance_embed": True}),
    "schnell": ("FluxSchnell", {**FLUX, "guidance_embed": False}),
    "qwen": (
        "QwenImage",
        {
            "image_model": "qwen_image", "in_channels": 64, "num_layers": 1, "attention_head_dim": 32, "num_attention_heads": 2,
            "joint_attention_dim": TOKEN, "pooled_projection_dim": POOLED, "axes_dims_rope": (8, 12, 12),
        },
    ),
    "cosmos": ("CosmosT2IPredict2", COSMOS),
    "cosmos_film": ("CosmosI2VPredict2", {**COSMOS, "in_channels": 17}),
    "wan": (
        "WAN21_T2V",
        {
            "image_model": "wan2.1", "model_type": "t2v", "dim": 64, "ffn_dim": 64, "freq_dim": 32, "text_dim": TOKEN, "num_heads": 2,
            "num_layers": 1,
        },
    ),
}  # fmt: skip


def small_transformer(family):
    """A MODEL of this family."""
    kind, settings = FAMILIES[family]
    config = getattr(comfy.supported_models, kind)(dict(settings))
    config.unet_config = {**settings, "dtype": torch.float32}
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device="cpu")
    filled(model.diffusion_model, seed=1)
    manager = comfy.model_management
    return comfy.model_patcher.ModelPatcher(model, load_device=manager.get_torch_device(), offload_device=manager.unet_offload_device())


def small_wan_vae():
    """The VAE of Wan and Qwen-Image: 8 pixels a cell, 16 channels, an axis for frames."""
    net = comfy.ldm.wan.vae.WanVAE(dim=8, z_dim=16, dim_mult=[1, 2, 4, 4], temperal_downsample=[False, True, True])
    return comfy.sd.VAE(sd=filled(net, seed=2).state_dict(), dtype=torch.float32)


def small_flux_vae():
    """A VAE of Flux's kind: 8 pixels a cell, 16 channels."""
    import comfy.ldm.models.autoencoder

    levels = {"double_z": True, "z_channels": 16, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 1, 1, 1]}
    parts = {"ddconfig": {**levels, "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}, "embed_dim": 16}
    weights = filled(comfy.ldm.models.autoencoder.AutoencoderKL(**parts), seed=2).state_dict()
    return comfy.sd.VAE(sd=weights, config={"params": parts}, dtype=torch.float32)


NODES: list = []
