"""Networks under ComfyUI's memory management."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import comfy.model_management as mm
import comfy.model_patcher
import comfy.utils
import torch
from torch import nn

from .memory import device

Net = TypeVar("Net")


def _same_device(a: torch.device, b: torch.device) -> bool:
    return a.type == b.type and (a.index or 0) == (b.index or 0)


class _Holder(nn.Module):
    """Stands between core's patcher, which writes attributes into its module, and networks that forbid some of them."""

    def __init__(self, parts: list[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)


class LoadedNet(Generic[Net]):
    """A loaded network under ComfyUI's memory management; what a loader node hands on.

    Args:
        build: makes the network in the precision it shall run in, on the CPU. Called once, outside inference mode.
        parts: the modules of a network that is not a module itself; by default the network is the module.
    """

    def __init__(self, build: Callable[[], Net], parts: Callable[[Net], list[nn.Module]] | None = None) -> None:
        with torch.inference_mode(False):
            self._net = build()
            modules = parts(self._net) if parts is not None else [self._net]
            self._module = _Holder(modules).eval().requires_grad_(False)  # type: ignore[arg-type]
        # Core keeps only a weak reference to the patcher: both live here, as long as each other.
        self.patcher = comfy.model_patcher.ModelPatcher(self._module, load_device=device(), offload_device=mm.unet_offload_device())

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        return next(self._module.parameters()).dtype

    @contextmanager
    def use(self, memory_required: int = 0) -> Iterator[Net]:
        """The network on its device, with `memory_required` bytes kept free for its activations.

        Core leaves a module behind without a word under --novram; plain layers cannot run split, so it is moved whole then, and back
        again afterwards.
        """
        mm.load_models_gpu([self.patcher], memory_required=memory_required, force_full_load=True)
        target = self.patcher.load_device
        tensors = [*self._module.parameters(), *self._module.buffers()]
        left_behind = not all(_same_device(t.device, target) for t in tensors)
        try:
            if left_behind:
                self._module.to(target)
            yield self._net
        finally:
            if left_behind:
                self._module.to(self.patcher.offload_device)
                mm.soft_empty_cache()
