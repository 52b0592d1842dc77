"""Device, free memory, precision and attention, as ComfyUI lends them. Pipelines get these as plain arguments."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import comfy.model_management as mm
import torch
from torch import Tensor

from ...pipelines.nets.attention import Attention


def device() -> torch.device:
    """Where ComfyUI computes."""
    return mm.get_torch_device()


def compute_dtype(*allowed: torch.dtype) -> torch.dtype:
    """The precision ComfyUI would use here (its flags included) among `allowed`, in order of preference; else float32."""
    choice = mm.unet_dtype(device=device(), supported_dtypes=[*allowed, torch.float32])
    return choice if choice in allowed else torch.float32


def attention() -> Attention | None:
    """ComfyUI's chosen attention as a function of (B, heads, L, D) tensors; None where PyTorch's own serves as well.

    On the CPU core falls back to a sub-quadratic loop that is slower than PyTorch's kernel at our lengths.
    """
    if mm.is_device_cpu(device()) or mm.pytorch_attention_enabled():
        return None
    from comfy.ldm.modules.attention import optimized_attention

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return optimized_attention(q, k, v, heads=q.shape[1], skip_reshape=True, skip_output_reshape=True)

    return attend


MAIN_MEMORY = torch.device("cpu")


def free_memory(need: int, where: torch.device | None = None) -> None:
    """Asks ComfyUI to unload models until `need` bytes are free where it computes, or on another device."""
    mm.free_memory(need, where or device())


def memory_left(where: torch.device | None = None) -> int:
    """Bytes that are free where ComfyUI computes, or on another device."""
    return int(mm.get_free_memory(where or device()))


class NotEnoughMemory(ValueError):
    """Something takes more memory than there is."""


@contextmanager
def in_words(node: str) -> Iterator[None]:
    """Names the node and the remedy where the processor's memory runs out within the block. A GPU's is core's matter.

    Raises:
        NotEnoughMemory: instead of the allocator's own error.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
            raise NotEnoughMemory(
                f"{node} ran out of memory: make its sizes smaller (resolution, texture, views, points), or close other programs."
            ) from error
        raise


def make_room(need: int, what: str, remedy: str, where: torch.device | None = None) -> None:
    """Asks ComfyUI for the memory that `what` will take, before it starts.

    Args:
        where: the device whose memory it is; None is where ComfyUI computes, `MAIN_MEMORY` for what always runs on the CPU.

    Raises:
        NotEnoughMemory: there is not so much; the message ends with the remedy.
    """
    free_memory(need, where)
    free = memory_left(where)
    if need > free:
        raise NotEnoughMemory(f"{what} takes about {need / 2**30:.1f} GiB; {free / 2**30:.1f} GiB are free. {remedy}")


def precision(choice: str) -> torch.dtype:
    """The dtype of a loader's precision widget; auto asks ComfyUI."""
    named = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return named[choice] if choice in named else compute_dtype(torch.bfloat16, torch.float16)
