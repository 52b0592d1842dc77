"""A network run on a private copy of its weights.

A host may move or evict a network's weights between a forward pass and its backward, and weights that were made in inference mode cannot
be differentiated through at all. On a copy, neither matters; the network itself is not changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class _Call(nn.Module):
    """Gives any function of a network the form of a module's call."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return function(*args, **options)


class FrozenCopy:
    """Copies of a network's parameters and buffers, which need no gradient themselves.

    Args:
        net: the network.
        device: where the copies live.
        dtype: of the floating-point ones; None keeps each one's own.
        skip: beginnings of the names of weights that are not needed.
    """

    def __init__(self, net: nn.Module, device: torch.device | str, dtype: torch.dtype | None = None, skip: tuple[str, ...] = ()) -> None:
        def copied(tensor: Tensor) -> Tensor:
            return tensor.detach().to(device, dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype, copy=True)

        with torch.inference_mode(False), torch.no_grad():
            named = [*net.named_parameters(), *net.named_buffers()]
            self._weights = {f"net.{name}": copied(tensor) for name, tensor in named if not name.startswith(skip)}
            self._call = _Call(net)

    def __call__(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """`function(*args, **options)`, in which the network computes with the copies. Call it outside inference mode."""
        return torch.func.functional_call(self._call, self._weights, (function, *args), options, strict=False)
