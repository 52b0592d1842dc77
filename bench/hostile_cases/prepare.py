"""Sound files, written by the pack itself, that hostile ones are made of; and a depth model, which nobody ships."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from shared_server import Graph

from . import files, settings_files
from .feeds import Feeder
from .server import HostileServer


def depth_model(folder: Path) -> None:
    """A DPT of a few thousand random weights, as transformers saves it."""
    import torch
    from transformers import DPTConfig, DPTForDepthEstimation, DPTImageProcessor

    torch.manual_seed(0)
    config = DPTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8, is_hybrid=False,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8, reassemble_factors=[4, 2, 1, 0.5],
    )  # fmt: skip
    DPTForDepthEstimation(config).save_pretrained(folder, safe_serialization=True)
    DPTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


def hostile_files(server: HostileServer, seed: int) -> dict[str, dict[str, Any]]:
    """Hostile files by loader. Leaves in the input folder what sound prompts load.

    Raises:
        LookupError: the pack could not write the sound files.
    """
    depth_model(server.base / "models" / "lathe" / "tiny-depth")
    graph = Graph()
    feed = Feeder(graph)
    mesh, splat = feed.source("", "mesh", "MESH"), feed.source("", "splat", "SPLAT")
    for ending in ("glb", "obj"):
        graph.add("LatheSaveMesh", mesh=mesh, filename_prefix="sound", format=ending)
    for ending in ("ply", "splat", "spz"):
        graph.add("LatheSaveSplat", splat=splat, filename_prefix="sound", format=ending)
    graph.add("LatheSaveDistillation", run=feed.run(), filename_prefix="sound_run")
    graph.add("LatheSaveField", field=feed.source("", "field", "LATHE_FIELD"), filename_prefix="sound_field")
    graph.add("LatheSaveCameras", cameras=feed.cameras(), filename_prefix="sound_cameras")
    outcome = server.run(graph.prompt, limit=120)
    if outcome.status != "success":
        raise LookupError(f"The sound files cannot be written: {outcome.message or outcome.status}")
    out = server.base / "output"
    sound = {path.suffix: path.read_bytes() for path in out.glob("sound_0*")}
    for what in ("run", "field", "cameras"):
        sound[what] = next(out.glob(f"sound_{what}_*")).read_bytes()
    (server.base / "input" / "sound_run.safetensors").write_bytes(sound["run"])
    draws = random.Random(seed)
    weights = settings_files.weight_files(sound, draws)
    return {
        "LatheLoadMesh": files.mesh_files(sound, draws),
        "LatheLoadSplat": files.splat_files(sound, draws),
        "LatheLoadCameras": settings_files.camera_files(sound, draws),
        "LatheLoadField": settings_files.tensor_files(sound["field"], draws),
        "LatheLoadDistillation": settings_files.tensor_files(sound["run"], draws),
        "LatheLoadLRM": weights,
        "LatheLoadGeoLRM": weights,
    }
