"""Small stand-ins for loaders of weights nobody ships: the same classes as the published networks, with deterministic weights."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import torch
from comfy_api.latest import io

from .probes import lathe

DATA = Path(__file__).resolve().parents[2] / "data"


def seeded_weights():
    """tests/data/seeded_weights.py, which is not on the server's path."""
    spec = importlib.util.spec_from_file_location("lathe_seeded_weights", DATA / "seeded_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tiny_lrm():
    """The mesh variant of InstantMesh at a width of 64, its surface lifted into the cube: random weights need not have one."""
    nets = lathe("pipelines.nets.triplane_lrm")
    config = nets.LRMConfig(
        encoder_dim=32, encoder_layers=2, encoder_heads=2, encoder_mlp_dim=64, transformer_dim=64, transformer_layers=2,
        transformer_heads=4, triplane_low_res=8, triplane_dim=8, samples_per_ray=16, grid_res=16,
    )  # fmt: skip
    net = seeded_weights().seed_module_(nets.TriplaneLRM(config)).eval().requires_grad_(False)
    return lathe("pipelines.reconstruction.lrm").LRM(net, "tiny")


def tiny_views():
    """Zero123++ with networks of a few thousand weights. Its pictures are noise, so they are laid on discs before white."""
    manifest = json.loads((DATA / "manifests" / "zero123plus_tiny.json").read_text())
    seeds, make = seeded_weights(), lathe("pipelines.weights.zero123plus")
    parts, stage = lathe("pipelines.nets.zero123plus"), lathe("pipelines.view_generation.model")

    class DiscCodec(parts.VaeCodec):
        def decode_grid(self, latents):
            grid = super().decode_grid(latents)
            if grid.shape[2:] != (3 * 64, 2 * 64):  # the few cells from which a preview's colours are learned
                return grid
            rows, columns = grid.shape[2] // 3, grid.shape[3] // 2
            y, x = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij")
            disc = ((x**2 + y**2) < 0.6).float().tile(3, 2).to(grid)
            return grid * 0.7 * disc + (1 - disc)

    def seeded(part, build):
        return seeds.seed_module_(build(manifest["configs"][part]), prefix=f"{part}.").eval().requires_grad_(False)

    prompt = make.empty_prompt(seeded("text_encoder", make.text_encoder))
    conditioner = parts.ClipConditioner(seeded("vision_encoder", make.vision_encoder), prompt, torch.tensor(make.ramping_coefficients()))
    codec = DiscCodec(seeded("vae", make.autoencoder), reference_size=64)
    model = stage.ViewModel(seeded("unet", make.denoiser), codec, conditioner, "zero123plus_v1.2", view_size=64, steps=4)
    return replace(model, guidance=4.0)


class TinyLRM(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="LatheTestLRM", category="testing", inputs=[], outputs=[io.Custom("LATHE_LRM").Output("lrm")])

    @classmethod
    def execute(cls):
        return io.NodeOutput(lathe("nodes.lrm").LoadedLRM(tiny_lrm))


class TinyViewModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        outputs = [io.Custom("LATHE_VIEW_MODEL").Output("view_model")]
        return io.Schema(node_id="LatheTestViewModel", category="testing", inputs=[], outputs=outputs)

    @classmethod
    def execute(cls):
        return io.NodeOutput(lathe("nodes.view_generation").LoadedViewModel(tiny_views))


class TinyUpscaler(io.ComfyNode):
    """A real upscale model whose convolutions are zero: what is left of it repeats each pixel twice along both axes."""

    @classmethod
    def define_schema(cls):
        outputs = [io.UpscaleModel.Output("upscale_model")]
        return io.Schema(node_id="LatheTestUpscaler", category="testing", inputs=[], outputs=outputs)

    @classmethod
    def execute(cls):
        from spandrel import ModelLoader

        shapes = {"0": (8, 3, 3, 3), "2": (8, 8, 3, 3), "4": (12, 8, 3, 3)}
        weights = {f"body.{n}.weight": torch.zeros(shape) for n, shape in shapes.items()}
        weights |= {f"body.{n}.bias": torch.zeros(shape[0]) for n, shape in shapes.items()}
        weights |= {f"body.{n}.weight": torch.zeros(8) for n in ("1", "3")}
        return io.NodeOutput(ModelLoader().load_from_state_dict(weights).eval())


NODES = [TinyLRM, TinyViewModel, TinyUpscaler]
