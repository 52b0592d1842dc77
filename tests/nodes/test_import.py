"""Registering the nodes brings in nothing heavy: libraries are imported when a node runs."""

import os
import subprocess
import sys

import comfy_source
from lathe_root import ROOT

HEAVY = ("diffusers", "numba", "plyfile", "skimage", "trimesh", "xatlas", "fast_simplification", "transformers", "accelerate")

SCRIPT = """
import sys, time
import lathe_root, comfy_source
comfy_source.add_to_path()
import comfy.model_management, comfy.model_patcher, comfy.utils, comfy_api.latest, folder_paths
before = set(sys.modules)
start = time.perf_counter()
import asyncio, lathe
nodes = asyncio.run((asyncio.run(lathe.comfy_entrypoint())).get_node_list())
seconds = time.perf_counter() - start
for node in nodes:
    node.GET_SCHEMA()
new = {m.split(".")[0] for m in set(sys.modules) - before}
print("RESULT", len(nodes), seconds, ",".join(sorted(new)))
"""


def test_nodes_register_without_heavy_libraries():
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "support"), "COMFYUI_DIR": str(comfy_source.comfyui_dir())}
    answer = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, cwd=ROOT.parent)
    assert answer.returncode == 0, answer.stderr[-2000:]
    _, count, seconds, new = next(line for line in answer.stdout.splitlines() if line.startswith("RESULT")).split(maxsplit=3)
    assert int(count) > 0
    assert not set(new.split(",")) & set(HEAVY)
    assert float(seconds) < 0.5
