"""Nodes that watch: a slow one with a preview, and one that fingerprints whatever passes through it."""

import dataclasses
import hashlib
import importlib
import sys
import time
from pathlib import Path

import numpy
import torch
from comfy_api.latest import io


def lathe(module: str):
    """A module of the pack under test, e.g. lathe("pipelines.reconstruction.lrm"); ComfyUI knows packs by the path of their folder."""
    packs = (name for name in sys.modules if Path(name).name == "lathe" and Path(name).parent.name == "custom_nodes")
    home = next(packs, "lathe")
    return importlib.import_module(f"{home}.{module}")


def fingerprint(value, into=None) -> str:
    """A hash over the tensors, numbers and texts a payload holds, however deep."""
    into = into or hashlib.sha256()
    if isinstance(value, torch.Tensor):
        into.update(str((value.dtype, tuple(value.shape))).encode())
        into.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    elif isinstance(value, numpy.ndarray):
        into.update(value.tobytes())
    elif isinstance(value, torch.nn.Module):
        fingerprint(dict(value.state_dict()), into)
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            into.update(str(key).encode())
            fingerprint(value[key], into)
    elif isinstance(value, list | tuple):
        for item in value:
            fingerprint(item, into)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fingerprint({f.name: getattr(value, f.name) for f in dataclasses.fields(value)}, into)
    elif isinstance(value, str | bytes | int | float | bool | None):
        into.update(repr(value).encode())
    elif type(value).__name__ in ("MESH", "VOXEL", "SPLAT", "OwnSplat"):
        fingerprint(vars(value), into)
    elif isinstance(getattr(value, "model", None), torch.nn.Module):  # core's patcher of a MODEL, a CLIP_VISION
        fingerprint(value.model, into)
    elif hasattr(value, "nets"):  # several networks: a view model
        fingerprint(value.nets, into)
    elif hasattr(value, "patcher"):  # a network: its weights are read through the patcher's module
        fingerprint(value.patcher.model, into)
    else:
        # What an object keeps for itself, such as what a prior has worked out once, is not what it hands on.
        fingerprint({k: v for k, v in vars(value).items() if not k.startswith("_")}, into) if hasattr(value, "__dict__") else None
    return into.hexdigest()


class Fingerprint(io.ComfyNode):
    """Hands on what it gets, and tells the page its hash."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LatheTestFingerprint",
            category="testing",
            inputs=[io.AnyType.Input("value"), io.String.Input("salt", default="")],
            outputs=[io.AnyType.Output("same")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, value, salt):
        return io.NodeOutput(value, ui={"fingerprint": [fingerprint(value)]})


class Slow(io.ComfyNode):
    """Ticks as long stages do: `steps` of 50 ms, each with a picture."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LatheTestSlow",
            category="testing",
            inputs=[io.Int.Input("steps", default=40, min=1, max=4000), io.Int.Input("seed", default=0)],
            outputs=[io.Image.Output("image")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, steps, seed):
        tick = lathe("nodes.core.progress").tick_for(cls)
        picture = torch.zeros(96, 96, 3)
        for step in range(1, steps + 1):
            time.sleep(0.05)
            picture[:, : 96 * step // steps, step % 3] = 1
            tick(step, steps, picture)
        return io.NodeOutput(picture[None])


class Picture(io.ComfyNode):
    """Pictures good and bad: `count` of a dark box on white, an empty sheet, or pixels that are no numbers."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LatheTestPicture",
            category="testing",
            inputs=[
                io.Combo.Input("kind", options=["box", "white", "nan"], default="box"),
                io.Int.Input("width", default=64, min=1, max=16384),
                io.Int.Input("height", default=64, min=1, max=16384),
                io.Int.Input("count", default=1, min=1, max=64),
            ],
            outputs=[io.Image.Output("image"), io.Mask.Output("mask")],
        )

    @classmethod
    def execute(cls, kind, width, height, count):
        picture = torch.ones(count, height, width, 3)
        mask = torch.zeros(count, height, width)
        if kind != "white":
            box = (slice(None), slice(height // 4, height - height // 4), slice(width // 4, width - width // 4))
            picture[box] = torch.tensor([0.6, 0.2, 0.1])
            mask[box] = 1
        if kind == "nan":
            picture[-1, height // 2, width // 2] = float("nan")
        return io.NodeOutput(picture, mask)


class Tetrahedra(io.ComfyNode):
    """A batch of small meshes, one size after the other."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LatheTestTetrahedra",
            category="testing",
            inputs=[io.Int.Input("count", default=1, min=1, max=8)],
            outputs=[io.Mesh.Output("mesh")],
        )

    @classmethod
    def execute(cls, count):
        corners = torch.tensor([[1.0, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]]) * 0.5
        faces = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
        mesh = lathe("pipelines.data.mesh").Mesh
        meshes = [mesh(corners / (i + 1), faces, vertex_colors=(corners + 0.5).clamp(0, 1)) for i in range(count)]
        return io.NodeOutput(lathe("nodes.core.mesh").to_core_mesh(meshes))


class Ball(io.ComfyNode):
    """Splats: some Gaussians on a sphere, as faint as asked."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LatheTestBall",
            category="testing",
            inputs=[io.Float.Input("opacity", default=0.9, min=0.0, max=1.0), io.Int.Input("count", default=1, min=1, max=8)],
            outputs=[(getattr(io, "Splat", None) or io.Custom("SPLAT")).Output("splat")],
        )

    @classmethod
    def execute(cls, opacity, count):
        generator = torch.Generator().manual_seed(0)
        places = torch.nn.functional.normalize(torch.randn(200, 3, generator=generator), dim=1)
        turns = torch.tensor([[1.0, 0, 0, 0]]).repeat(200, 1)
        splats = lathe("pipelines.data.splats").Splats
        balls = [
            splats(places * 0.6 / (i + 1), torch.full((200, 3), 0.05), turns, torch.full((200,), opacity), places[:, None] * 0.5)
            for i in range(count)
        ]
        return io.NodeOutput(lathe("nodes.core.splat").to_core_splat(balls))


NODES = [Fingerprint, Slow, Picture, Tetrahedra, Ball]
