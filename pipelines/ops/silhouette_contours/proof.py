"""Whether a form measures the misses of rim rays as the PyTorch form does: the proof that `choose_backend` asks for."""

from __future__ import annotations

from types import ModuleType

import torch

from ...data.cameras import Cameras
from .. import camera_math
from ..choose_backend import must_be_close
from . import torch_form


def prove(form: ModuleType, device: torch.device) -> None:
    """Three silhouettes, one of them cut by its picture; once with rays that reach behind cameras. On the CPU, where cameras lie.

    Raises:
        Disproved: misses off by more than 1e-6 of their norm.
    """
    masks = torch.zeros(3, 1, 13, 18)
    masks[0, 0, 3:9, 2:12] = 1
    masks[1, 0, 2:7, 6:16] = 1
    masks[2, 0, 5:, 4:13] = 1
    c2w = camera_math.orbit(torch.tensor([0.0, 70.0, 200.0]), torch.tensor([10.0, 10.0, 35.0]), 4.0)
    cameras = Cameras(c2w, camera_math.intrinsics(30.0, 3), ("a", "b", "c"))
    rim = torch_form.find_rim(masks, 24)
    for reach, worst in ((1.0, 3.0), (4.5, 50.0)):
        expected = torch_form.rim_misses(rim, cameras, reach, 9, worst)
        must_be_close("misses", form.rim_misses(rim, cameras, reach, 9, worst), expected, 1e-6)
