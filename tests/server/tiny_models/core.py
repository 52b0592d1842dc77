"""Core's own MODEL, CONDITIONING and VAE without checkpoints: its classes around networks of some hundred thousand seeded weights."""

import comfy.ldm.models.autoencoder
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import torch
from comfy_api.latest import io

WIDTH, TOKEN = 32, 64  # channels of the first level, width of a token
FLOW, V = comfy.model_base.ModelType.FLOW, comfy.model_base.ModelType.V_PREDICTION
FILMS = ("sv3d_p", "svd")
POOLED = 96  # numbers of SDXL's second text encoder, in its tokens and pooled

# Core's class of the family, what its U-Net has beyond the smallest, and the kind of prediction where it is not the class's own.
FAMILIES = {
    "sd15": ("SD15", {}, None),
    "v": ("SD15", {}, V),
    "flow": ("SD15", {}, FLOW),
    "zero123": ("Stable_Zero123", {"in_channels": 8, "context_dim": 768}, None),
    "sdxl": ("SDXL", {"context_dim": TOKEN + POOLED, "adm_in_channels": POOLED + 6 * 256, "num_classes": "sequential"}, None),
    "sv3d_p": ("SV3D_p", {"in_channels": 8, "adm_in_channels": 256 + 2 * 512}, None),
    "svd": ("SVD_img2vid", {"in_channels": 8, "adm_in_channels": 3 * 256}, None),
}


def filled(module, seed):
    """Core leaves weights as memory happens to be: matrices become small random numbers, scales 1, shifts 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in module.named_parameters():
        if weight.ndim > 1:
            value = torch.randn(weight.shape, generator=generator) * min(0.1, weight[0].numel() ** -0.5)
        else:
            value = torch.ones(weight.shape) if name.endswith("weight") else torch.zeros(weight.shape)
        weight.data.copy_(value)
    return module.requires_grad_(False).eval()


def unet_settings(extra, film):
    """Two levels with a transformer each; films get the layers across frames as well."""
    settings = {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": WIDTH, "channel_mult": [1, 2], "num_res_blocks": [1, 1],
        "transformer_depth": [1, 1], "transformer_depth_output": [1] * 4, "transformer_depth_middle": 1, "context_dim": TOKEN,
        "use_spatial_transformer": True, "use_linear_in_transformer": False, "legacy": False, "num_heads": 4, "num_head_channels": -1,
        "adm_in_channels": None, "use_temporal_attention": False, "use_temporal_resblock": False, "dtype": torch.float32, **extra,
    }  # fmt: skip
    if film:
        settings |= {
            "num_classes": "sequential", "use_linear_in_transformer": True, "use_temporal_attention": True, "use_temporal_resblock": True,
            "extra_ff_mix_layer": True, "use_spatial_context": True, "merge_strategy": "learned_with_images", "merge_factor": 0.0,
            "video_kernel_size": [3, 1, 1], "disable_temporal_crossattention": False,
        }  # fmt: skip
    return settings


def small_model(family):
    """A MODEL of this family."""
    kind, extra, prediction = FAMILIES[family]
    settings = unet_settings(extra, family in FILMS)
    config = getattr(comfy.supported_models, kind)(dict(settings))
    config.unet_config = settings
    config.set_inference_dtype(torch.float32, None)
    if prediction is None:
        draw = torch.Generator().manual_seed(5)
        pose = {"cc_projection.weight": torch.randn(768, 772, generator=draw) * 0.03, "cc_projection.bias": torch.zeros(768)}
        with torch.no_grad():  # core fills Zero123's projection in place
            model = config.get_model(pose if family == "zero123" else {}, "", device="cpu")
    else:
        model = comfy.model_base.BaseModel(config, model_type=prediction, device="cpu")
    filled(model.diffusion_model, seed=1)
    manager = comfy.model_management
    return comfy.model_patcher.ModelPatcher(model, load_device=manager.get_torch_device(), offload_device=manager.unet_offload_device())


def small_vae():
    """A VAE of SD's kind: 8 pixels a cell, 4 channels."""
    levels = {"double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": WIDTH, "ch_mult": [1, 1, 1, 1]}
    parts = {"ddconfig": {**levels, "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}, "embed_dim": 4}
    weights = filled(comfy.ldm.models.autoencoder.AutoencoderKL(**parts), seed=2).state_dict()
    return comfy.sd.VAE(sd=weights, config={"params": parts}, dtype=torch.float32)


def small_conditioning(family, frames=6):
    """Positive and negative CONDITIONING of this family."""
    generator = torch.Generator().manual_seed(4)
    if family in FILMS:
        tokens, picture = torch.randn(1, 1, TOKEN, generator=generator), torch.randn(1, 4, 8, 8, generator=generator)
        orbit = {"elevation": [10.0] * frames, "azimuth": [360.0 * i / frames for i in range(frames)]} if family == "sv3d_p" else {}
        positive, negative = ({"concat_latent_image": part, **orbit} for part in (picture, torch.zeros_like(picture)))
    elif family == "sdxl":
        tokens, pooled = (torch.randn(*shape, generator=generator) for shape in ((1, 7, TOKEN + POOLED), (1, POOLED)))
        positive, negative = ({"pooled_output": part} for part in (pooled, torch.zeros_like(pooled)))
    else:
        tokens, positive, negative = torch.randn(1, 7, TOKEN, generator=generator), {}, {}
    return [[tokens, positive]], [[torch.zeros_like(tokens), negative]]


class CoreModel(io.ComfyNode):
    """MODEL and VAE; `strength` of a patch on the weights, as a LoRA makes it."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LatheTestCoreModel",
            category="testing",
            inputs=[io.Combo.Input("family", options=list(FAMILIES)), io.Float.Input("strength", default=0.0)],
            outputs=[io.Model.Output("model"), io.Vae.Output("vae")],
        )

    @classmethod
    def execute(cls, family, strength):
        model = small_model(family)
        if strength:
            model = model.clone()
            key = "diffusion_model.out.2.weight"
            change = torch.randn(model.model.diffusion_model.out[2].weight.shape, generator=torch.Generator().manual_seed(3)) * 0.1
            assert model.add_patches({key: ("diff", (change,))}, strength) == [key]
        return io.NodeOutput(model, small_vae())


class CoreConditioning(io.ComfyNode):
    """Conditioning of so many frames, as core's nodes for these families write it."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LatheTestCoreConditioning",
            category="testing",
            inputs=[io.Combo.Input("family", options=list(FAMILIES)), io.Int.Input("frames", default=6, min=1, max=64)],
            outputs=[io.Conditioning.Output("positive"), io.Conditioning.Output("negative")],
        )

    @classmethod
    def execute(cls, family, frames):
        return io.NodeOutput(*small_conditioning(family, frames))


class Shapes(io.ComfyNode):
    """Tells the page the shape of a picture, mask or cloud of Gaussians, and whether its numbers are finite."""

    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="LatheTestShapes", category="testing", inputs=[io.AnyType.Input("value")], outputs=[], is_output_node=True)

    @classmethod
    def execute(cls, value):
        if isinstance(value, torch.Tensor):
            return io.NodeOutput(ui={"shapes": [{"shape": list(value.shape), "finite": bool(torch.isfinite(value).all())}]})
        tensors = {name: part for name, part in vars(value).items() if isinstance(part, torch.Tensor)}
        told = {"finite": all(bool(torch.isfinite(part).all()) for part in tensors.values())}
        return io.NodeOutput(ui={"shapes": [told | {name: list(part.shape) for name, part in tensors.items()}]})


NODES = [CoreModel, CoreConditioning, Shapes]
