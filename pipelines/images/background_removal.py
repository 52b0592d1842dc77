"""Background removal by ISNet (Dichotomous Image Segmentation, arXiv 2203.03041; MIT), where its ONNX file and onnxruntime are present.

Nothing is downloaded. A ComfyUI that brings its own background removal serves as well: its mask is wired like any other.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PATTERN = "isnet*.onnx"
HOW_TO_GET = (
    "Background removal needs the Python package onnxruntime (pip install onnxruntime) and an ISNet file such as isnet-general-use.onnx in "
    "one of these folders: {folders}. Or wire a mask, for example from ComfyUI's own background removal."
)


def available(folders: Iterable[str | Path]) -> Path | None:
    """The ISNet file that `load` would use, or None where it or onnxruntime is missing."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    return next((path for folder in folders for path in sorted(Path(folder).glob(PATTERN))), None)


def load(folders: Iterable[str | Path]) -> BackgroundRemover:
    """The remover on disk.

    Raises:
        ValueError: the file or onnxruntime is missing; says how to get them.
    """
    folders = list(folders)
    path = available(folders)
    if path is None:
        raise ValueError(HOW_TO_GET.format(folders=", ".join(map(str, folders))))
    return BackgroundRemover(path)


class BackgroundRemover:
    """ISNet on the CPU: picture in, soft mask out.

    Raises:
        ValueError: the file is not a network with one picture input.
    """

    def __init__(self, path: str | Path) -> None:
        import onnxruntime

        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            (entry,) = self._session.get_inputs()
        except Exception as error:  # onnxruntime raises its own kinds, which share no base class
            raise ValueError(f"{Path(path).name} cannot be used for background removal: {error}") from error
        self._name = entry.name
        self._half = entry.type == "tensor(float16)"
        self._size = tuple(n if isinstance(n, int) else 1024 for n in entry.shape[2:])

    def __call__(self, image: Tensor) -> Tensor:
        """(3, H, W) in [0, 1] -> (H, W) mask in [0, 1], 1 = object."""
        x = F.interpolate(image[None].float().cpu(), size=self._size, mode="bilinear", antialias=True) - 0.5
        (out, *_) = self._session.run(None, {self._name: (x.half() if self._half else x).numpy()})
        mask = torch.from_numpy(out).float().reshape(1, 1, *out.shape[-2:])
        return F.interpolate(mask, size=image.shape[-2:], mode="bilinear", antialias=True)[0, 0].clamp(0, 1)
