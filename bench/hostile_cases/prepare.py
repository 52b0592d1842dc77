"""Sound files, written by the pack itself, that hostile ones are made of; and a depth model, which nobody ships."""

from __future__ import annotations

import random
from typing import Any

from shared_server import Graph
from tiny_dpt import save_tiny_dpt

from . import files, settings_files
from .feeds import Feeder
from .server import HostileServer


def hostile_files(server: HostileServer, seed: int) -> dict[str, dict[str, Any]]:
    """Hostile files by loader. Leaves in the input folder what sound prompts load.

    Raises:
        LookupError: the pack could not write the sound files.
    """
    save_tiny_dpt(server.base / "models" / "lathe" / "tiny-depth")
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
