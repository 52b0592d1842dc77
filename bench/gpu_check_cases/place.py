"""Where the checks draw: on the GPU, or on the emulator of `support/cuda_emulator.py`, by the same form."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from types import ModuleType
from typing import Any

import torch

from ...pipelines.ops import choose_backend
from ...pipelines.ops.cuda import card as cards
from ...pipelines.ops.splat_raster import cuda_form, dispatch


class Place:
    """A device on which `render_gaussians` draws by Lathe's own kernels. There is one in a process.

    Attributes:
        emulated: the kernels run on the processor.
        device: of the tensors.
        deadline: of the check that runs, in seconds of `time.monotonic`.
    """

    def __init__(self, emulated: bool) -> None:
        self.emulated = emulated
        self.device = torch.device("cpu" if emulated else "cuda:0")
        self.deadline = time.monotonic() + 600
        if emulated:
            from cuda_emulator import EmulatedCard

            emulator = EmulatedCard()
            cards.card = lambda device: emulator  # type: ignore[assignment, misc]
        dispatch.backend_for = self._form

    def _form(self, device: torch.device) -> ModuleType:
        """Ours; for tensors of the processor beside a GPU what the chooser takes there."""
        return cuda_form if device.type == self.device.type else choose_backend.choose(choose_backend.SPLAT, device)

    @cached_property
    def card(self) -> Any:
        """The card, or the emulator's."""
        return cards.card(self.device)

    def either(self, gpu: Any, emulator: Any) -> Any:
        """The emulator runs the same at small sizes."""
        return emulator if self.emulated else gpu

    def wait(self) -> None:
        """Until the device has done what it was told; raises what went wrong there."""
        if not self.emulated:
            torch.cuda.synchronize(self.device)

    def healthy(self) -> bool:
        """False where a kernel's fault has made the CUDA context useless."""
        try:
            self.wait()
        except RuntimeError:
            return False
        return True


@contextmanager
def patched(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Another value for an attribute meanwhile."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
