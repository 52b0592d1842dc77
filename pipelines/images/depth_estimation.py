"""Depth of one picture by DPT (Ranftl et al. 2021, arXiv 2103.13413), as Magic123 takes it, where the network's files are on disk.

Nothing is downloaded. A depth picture of any other node serves as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..disk.json_files import read_json

KINDS = ("dpt", "depth_anything")  # both give inverse depth: near is large
HOW_TO_GET = (
    "Estimating depth needs a DPT model as Hugging Face's transformers saves it (config.json, preprocessor_config.json, "
    "model.safetensors), for instance Intel/dpt-hybrid-midas or Intel/dpt-large, in a folder of its own within one of these: {folders}. "
    "Or wire a depth picture of another node."
)


def available(folders: Iterable[str | Path]) -> list[Path]:
    """Folders within these that hold such a model, by name."""
    found = [path.parent for folder in folders for path in Path(folder).glob("*/config.json") if _kind(path) in KINDS]
    return sorted(found, key=lambda path: path.name)


def _kind(config: Path) -> str | None:
    try:
        settings = read_json(config, "")
    except ValueError:
        return None
    return settings.get("model_type") if isinstance(settings, dict) else None


class DepthEstimator:
    """A network from its folder.

    Raises:
        ValueError: the folder's files do not make such a network.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import AutoImageProcessor, AutoModelForDepthEstimation

        try:
            self._prepare: Any = AutoImageProcessor.from_pretrained(str(folder), local_files_only=True, use_fast=False)
            self.net: Any = AutoModelForDepthEstimation.from_pretrained(str(folder), local_files_only=True, use_safetensors=True)
        except Exception as error:  # transformers raises many kinds, which share no base class
            raise ValueError(f"{folder.name} cannot be used to estimate depth: {error}") from error
        self.net.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, image: Tensor, mask: Tensor | None = None) -> Tensor:
        """(3, H, W) in [0, 1] and a mask (1, H, W) -> (1, H, W) in [0, 1]: the nearest point of the object is 1, the farthest 0.

        What the mask leaves out, and what it does not reach, is 0.
        """
        pixels = (image.float().clamp(0, 1).movedim(0, -1) * 255).round().to(torch.uint8).cpu().numpy()
        given = self._prepare(images=pixels, return_tensors="pt")
        device = next(self.net.parameters()).device
        inverse = self.net(pixel_values=given["pixel_values"].to(device)).predicted_depth.float().cpu()
        near = F.interpolate(inverse[:, None], size=tuple(image.shape[-2:]), mode="bicubic", align_corners=False)[0]
        inside = torch.ones_like(near, dtype=torch.bool) if mask is None else mask.cpu() > 0.5
        if not bool(inside.any()):
            raise ValueError("Estimating depth: the mask is empty. It must show the object in white; invert it if it is black.")
        low, high = near[inside].min(), near[inside].max()
        return torch.where(inside, ((near - low) / (high - low).clamp(min=1e-30)).clamp(0, 1), torch.zeros_like(near))
