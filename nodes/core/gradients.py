"""Gradients inside a node: out of the inference mode that ComfyUI runs nodes under."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def differentiable() -> Iterator[None]:
    """Leaves the inference mode nodes run under and turns gradients on.

    Tensors from sockets stay inference tensors: clone each one that enters the graph, and `heal` networks that are differentiated.
    """
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _poisoned(tensor: Tensor) -> bool:
    if tensor.is_inference():
        return True
    try:
        return tensor._version < 0
    except RuntimeError:  # moved outside inference mode after it was made inside
        return True


def heal(module: nn.Module) -> None:
    """Replaces parameters and buffers that core's loading turned into inference tensors. Call it inside `differentiable`."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and _poisoned(parameter):
                part._parameters[name] = nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None and _poisoned(buffer):
                part._buffers[name] = buffer.detach().clone()
