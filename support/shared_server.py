"""One ComfyUI for all server and browser tests of a run, and the shipped workflows as prompts it can run."""

from __future__ import annotations

import atexit
import json
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from comfy_server import Server, link_pack
from comfy_source import comfyui_dir
from lathe_root import ROOT

ARTIFACTS = ROOT / "artifacts"
WORKFLOWS = ROOT / "example_workflows"
SERVER_TESTS = ROOT / "tests" / "server"
TEST_PACK = "lathe_tiny_models"

# Fit Splats as it comes, but quick.
FIT_SPLATS = {
    "preset": "fast", "seed": 0, "steps": 4, "resolution": 512, "points": 500, "sh_degree": 0, "background": "#ffffff",
    "voxel_threshold": 0.6, **{f"{term}_weight": -1.0 for term in ("perceptual", "ms_ssim", "mask", "l1", "l2")},
}  # fmt: skip

# The page opens quietly: no gallery over the canvas, no restored tabs, English texts.
PAGE_SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.InstalledVersion": "1.32.9",
    "Comfy.Minimap.Visible": False,
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.Workflow.Persist": False,
    "Comfy.Locale": "en",
}

started: list[Server] = []  # by this process


@cache
def shared_server(threads: int = 0) -> Server:
    """The running server, started at the first call and ended with the process.

    With `threads` it is another one, which computes on so many of the CPU: on one, the same prompt gives the same bits.
    """
    tree = comfyui_dir()
    if tree is None:
        raise LookupError("no ComfyUI: run `python dev.py test`, or set COMFYUI_DIR")
    import torch

    base = Path(tempfile.mkdtemp(prefix="lathe-server-"))
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    link_pack(ROOT, base / "custom_nodes", "lathe")
    link_pack(SERVER_TESTS / "tiny_models", base / "custom_nodes", TEST_PACK)
    settings = base / "user" / "default" / "comfy.settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps(PAGE_SETTINGS))
    (base / "input").mkdir()
    for picture in (WORKFLOWS / "inputs").glob("*.*"):
        shutil.copy(picture, base / "input")
    flags = ["--disable-api-nodes"] + (["--cpu"] if threads or not torch.cuda.is_available() else [])
    log = ARTIFACTS / (f"server_{threads}_threads.log" if threads else "server.log")
    server = Server(sys.executable, tree, base, log, flags, environment={"OMP_NUM_THREADS": str(threads)} if threads else None)
    atexit.register(server.stop)
    started.append(server)
    server.wait_until_up()
    return server


def workflow_names() -> list[str]:
    """The shipped workflows, sorted."""
    return sorted(p.stem for p in WORKFLOWS.glob("*.json"))


def load_workflow(name: str) -> dict[str, Any]:
    """A shipped workflow as the page saves it."""
    return dict(json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8")))


def prompt_path(name: str) -> Path:
    """Where the API prompt exported from this workflow is kept."""
    return SERVER_TESTS / "prompts" / f"{name}.json"


def load_prompt(name: str) -> dict[str, Any]:
    """The API prompt of a shipped workflow as tests run it: loaders of weights nobody ships are swapped, long nodes do less.

    tests/server/swaps.json: {workflow: {node class: {"class_type": small node, "inputs": {...}}}}.
    tests/server/quick.json: {workflow: {node class: {input: smaller value}}}; all nodes of that class take it.
    All other nodes, widgets and links stay.

    Raises:
        LookupError: one of the two names what the workflow does not have, or a value it has already.
    """
    prompt: dict[str, Any] = json.loads(prompt_path(name).read_text(encoding="utf-8"))
    swaps, quick = (json.loads((SERVER_TESTS / file).read_text(encoding="utf-8")).get(name, {}) for file in ("swaps.json", "quick.json"))
    unused = {*swaps, *quick} - {node["class_type"] for node in prompt.values()}
    if unused:
        raise LookupError(f"swaps.json or quick.json names nodes that {name} does not have: {sorted(unused)}")
    for node in prompt.values():
        for key, value in quick.get(node["class_type"], {}).items():
            if node["inputs"].get(key, value) == value:
                raise LookupError(f"quick.json: {key} of {node['class_type']} in {name} is missing, or {value!r} already")
            node["inputs"][key] = value
    return {id: {**node, **swaps.get(node["class_type"], {})} for id, node in prompt.items()}


class Graph:
    """An API prompt written in a few lines: `image = g.add("LoadImage", image="a.png"); g.add("SaveImage", images=image[0])`."""

    def __init__(self) -> None:
        self.prompt: dict[str, Any] = {}

    def add(self, class_type: str, **inputs: Any) -> list[list[Any]]:
        """Adds a node; what comes back are its outputs as links, to be indexed. Its id is in each of them."""
        id = str(len(self.prompt) + 1)
        self.prompt[id] = {"class_type": class_type, "inputs": inputs}
        return [[id, slot] for slot in range(16)]
