"""Progress bar, preview pictures and Cancel of a running node."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management as mm
import comfy.model_patcher
import comfy.utils
import torch
from torch import Tensor

from ...pipelines.data.progress import Tick

PREVIEW_SECONDS = 0.5
PREVIEW_PIXELS = 512


def _picture(image: Tensor) -> Any:
    """(H, W, 3) in [0, 1] -> a PIL image no larger than PREVIEW_PIXELS."""
    from PIL import Image

    pixels = (image.detach().to("cpu", torch.float32).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    picture = Image.fromarray(pixels)
    picture.thumbnail((PREVIEW_PIXELS, PREVIEW_PIXELS))
    return picture


def check_cancelled() -> None:
    """Raises ComfyUI's interrupt if the user pressed Cancel; never catch it."""
    mm.throw_exception_if_processing_interrupted()


@contextmanager
def keeps_result_on_cancel() -> Iterator[None]:
    """For the loop of a node that can return its last good state: Cancel leaves the loop, and still ends the prompt.

    The interrupt is set again, so ComfyUI stops before the next node; the state that this node then returns stays in its cache, and
    queueing once more goes on from there.
    """
    try:
        yield
    except mm.InterruptProcessingException:
        mm.interrupt_current_processing(True)


def tick_for(node: Any) -> Tick:
    """The tick of a running node (pass `cls`): a progress bar, a JPEG preview each half second, and cancel."""
    bar = comfy.utils.ProgressBar(1, node_id=node.hidden.unique_id)
    shown = 0.0

    def tick(step: int, total: int, preview: Tensor | None = None) -> None:
        nonlocal shown
        check_cancelled()
        now = time.monotonic()
        frame = None
        if preview is not None and (now - shown >= PREVIEW_SECONDS or step >= total):
            frame, shown = ("JPEG", _picture(preview), None), now
        bar.update_absolute(step, total, frame)

    return tick
