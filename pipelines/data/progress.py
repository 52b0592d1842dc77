"""How a long stage reports progress and learns that the user cancelled."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Tick(Protocol):
    """Called by loops at every step. The host shows progress and a preview; it raises to cancel: never catch that."""

    def __call__(self, step: int, total: int, preview: Tensor | None = None) -> None:
        """`step` of `total` steps are done; `preview` is an (H, W, 3) picture in [0, 1] or None."""
        ...


def no_tick(step: int, total: int, preview: Tensor | None = None) -> None:
    """The tick of a caller that does not watch."""


def part_of(tick: Tick, index: int, count: int) -> Tick:
    """The tick of part `index` of `count` equal parts, for instance of one asset of a batch: steps go on where the part before ended."""

    def shifted(step: int, total: int, preview: Tensor | None = None) -> None:
        tick(index * total + step, count * total, preview)

    return shifted
