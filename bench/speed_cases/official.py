"""The published InstantMesh code, run from a checkout the user names, at the same inputs and deterministic weights.

Nothing of it is part of this project. What it imports but does not use on this path (the CUDA rasteriser, xatlas helpers) is replaced by
empty modules, and two helpers that newer versions of transformers dropped are put back for the run.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import time
import types
from pathlib import Path
from typing import Any

import torch

from ..parity_checks.goldens import seed_module, seeded
from .ours import Timed, flexicubes_inputs, mesh_numbers

UNUSED = ("nvdiffrast", "mcubes", "xatlas", "cv2", "imageio", "rembg", "plyfile")
SIZES = {
    "instant_mesh_base": {"transformer_layers": 12, "triplane_dim": 40, "rendering_samples_per_ray": 96},
    "instant_mesh_large": {"transformer_layers": 16, "triplane_dim": 80, "rendering_samples_per_ray": 128},
}


def open_checkout(folder: Path) -> None:
    """Makes the checkout's `src` package importable.

    Raises:
        ValueError: the folder is not a checkout of InstantMesh.
    """
    if not (folder / "src" / "models" / "lrm_mesh.py").is_file():
        raise ValueError(f"{folder} is no checkout of InstantMesh: it has no src/models/lrm_mesh.py.")
    missing = [name for name in UNUSED if importlib.util.find_spec(name) is None]
    for name in missing:
        sys.modules[name] = types.ModuleType(name)
    if "nvdiffrast" in missing:
        rasteriser: Any = types.ModuleType("nvdiffrast.torch")
        rasteriser.RasterizeCudaContext = lambda **_: None
        sys.modules["nvdiffrast.torch"] = rasteriser
    sys.path.insert(0, str(folder))


def flexicubes(folder: Path, resolution: int) -> Timed:
    """The published FlexiCubes at the inputs of our own case; building its grid is not timed."""
    open_checkout(folder)
    module = importlib.import_module("src.models.geometry.rep_3d.flexicubes")
    from ...pipelines.ops.flexicubes import grid_cubes

    corners, sdf, weights = flexicubes_inputs(resolution)
    cubes, extractor = grid_cubes(resolution), module.FlexiCubes("cpu", weight_scale=0.5)

    def run() -> dict[str, Any]:
        with torch.no_grad():
            beta, alpha, gamma = weights[:, :12], weights[:, 12:20], weights[:, 20]
            vertices, faces, _ = extractor(corners, sdf, cubes, resolution, beta_fx12=beta, alpha_fx8=alpha, gamma_f=gamma)
        return mesh_numbers(vertices, faces)

    return run


def lrm(folder: Path, variant: str) -> Timed:
    """The published network from six views to a mesh with vertex colours; building its grid is not timed, but its memory counts."""
    open_checkout(folder)
    _patch_transformers()
    model = importlib.import_module("src.models.lrm_mesh")
    encoder = importlib.import_module("src.models.encoder.dino")
    wrapper = importlib.import_module("src.models.encoder.dino_wrapper")
    from transformers import ViTConfig

    wrapper.DinoWrapper._build_dino = staticmethod(lambda *_, **__: (encoder.ViTModel(ViTConfig(), add_pooling_layer=False), _normalise))
    net = seed_module(model.InstantMesh(grid_res=128, grid_scale=2.1, **SIZES[variant]))
    start = time.perf_counter()
    net.init_flexicubes_geometry("cpu")  # type: ignore[operator]
    setup = time.perf_counter() - start
    images = seeded().seeded_input("images6", (1, 6, 3, 320, 320), "uniform")
    cameras = importlib.import_module("src.utils.camera_util").get_zero123plus_input_cameras(batch_size=1, radius=4.0)

    def run() -> dict[str, Any]:
        with torch.no_grad():
            start = time.perf_counter()
            planes = net.forward_planes(images, cameras)  # type: ignore[operator]
            between = time.perf_counter()
            vertices, faces, _ = net.extract_mesh(planes)  # type: ignore[operator]
            parts = {"planes": between - start, "mesh": time.perf_counter() - between, "grid, once": setup}
        return {**mesh_numbers(torch.from_numpy(vertices), torch.from_numpy(faces)), "parts": parts}

    return run


class _Pixels(dict[str, torch.Tensor]):
    """What the published wrapper expects of an image processor's result."""

    def to(self, target: Any) -> _Pixels:
        return _Pixels({name: value.to(target) for name, value in self.items()})


def _normalise(images: torch.Tensor, **_: Any) -> _Pixels:
    mean, std = (torch.tensor(c)[:, None, None] for c in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return _Pixels({"pixel_values": (images - mean) / std})


def _patch_transformers() -> None:
    from transformers import PreTrainedModel, pytorch_utils

    for name in ("find_pruneable_heads_and_indices", "prune_linear_layer"):
        if not hasattr(pytorch_utils, name):
            setattr(pytorch_utils, name, None)
    if not hasattr(PreTrainedModel, "get_head_mask"):
        PreTrainedModel.get_head_mask = lambda self, mask, layers, *_: [None] * layers  # type: ignore[attr-defined]
