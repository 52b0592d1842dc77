"""What a loop does when a step does not fit the memory: it halves its resolution once, and then says so clearly."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

Answer = TypeVar("Answer")

log = logging.getLogger(__name__)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on an accelerator or the CPU."""
    kinds = (torch.cuda.OutOfMemoryError, MemoryError)
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, kinds) or (isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words))


class FittingSize:
    """The side of a loop's renders, which shrinks to its half once where memory asks for it.

    Args:
        size: pixels.
        smallest: no halving below it.

    Attributes:
        size: the side in force.
    """

    def __init__(self, size: int, smallest: int = 16) -> None:
        self.first, self.size, self.smallest = size, size, smallest

    def run(self, step: Callable[[int], Answer]) -> Answer:
        """`step(size)`; once more at half the size where it runs out of memory, and all later steps with it.

        `step` must not have changed its state when memory runs out, or be fit to begin anew: clear gradients at its beginning.

        Raises:
            ValueError: memory runs out at half the size as well, or the size is the smallest already.
        """
        try:
            return step(self.size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if self.size < self.first or self.size // 2 < self.smallest:
                raise ValueError(self._says()) from error
        # Outside the handler: the exception holds on to the tensors of the step that failed.
        self.size //= 2
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        log.warning("Out of memory at %d pixels: this run goes on at %d.", self.first, self.size)
        return self.run(step)

    def _says(self) -> str:
        tried = f"{self.first} pixels" if self.size == self.first else f"{self.first} and {self.size} pixels"
        return (
            f"Out of memory, at {tried}. Set a smaller resolution or fewer views a step, take a smaller model as prior, or close other "
            "programs that use the device."
        )
