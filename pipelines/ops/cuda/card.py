"""An NVIDIA card as the operations see it: it makes programs of `.cu` files and says how much memory is free."""

from __future__ import annotations

import logging
import time
from functools import lru_cache
from pathlib import Path
from threading import Lock

import torch

from .driver import Program, driver
from .nvrtc import compiler

log = logging.getLogger(__name__)


class Card:
    """One card; `card` makes it.

    Attributes:
        words: which compiler, and for which architecture it compiles.

    Raises:
        RuntimeError: a device that is not NVIDIA's.
        nvrtc.CompilerError: no compiler works, or not for this card.
    """

    def __init__(self, device: torch.device) -> None:
        if device.type != "cuda" or torch.version.hip is not None:
            raise RuntimeError("CUDA kernels need an NVIDIA card and a CUDA build of PyTorch.")
        self.device = device
        self.compiler = compiler()
        self.target = self.compiler.target(torch.cuda.get_device_capability(device))
        self.words = f"NVRTC {'.'.join(map(str, self.compiler.version))} ({self.compiler.path}) for {self.target}"
        self._programs: dict[tuple[Path, tuple[str, ...]], Program] = {}
        self._lock = Lock()

    def program(self, file: Path, options: tuple[str, ...] = ()) -> Program:
        """The kernels of a `.cu` file, compiled at the first call with these options of the compiler.

        Raises:
            nvrtc.CompilerError, driver.DriverError: it does not compile, or the driver does not load it.
        """
        with self._lock:
            if (file, options) not in self._programs:
                self._programs[file, options] = self._compiled(file, options)
            return self._programs[file, options]

    def _compiled(self, file: Path, options: tuple[str, ...]) -> Program:
        start = time.perf_counter()
        image = self.compiler.compile(file.read_text(encoding="utf-8"), file.name, self.target, options)
        torch.cuda.init()
        program = Program(driver(), image, self.device.index, lambda: torch.cuda.current_stream(self.device).cuda_stream)
        log.debug("%s on %s: %s %s in %.1f s", self.words, self.device, file.name, " ".join(options), time.perf_counter() - start)
        return program

    def free_bytes(self) -> int:
        """Memory that PyTorch can still hand out: the card's free memory and what PyTorch holds without using it."""
        held = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return torch.cuda.mem_get_info(self.device)[0] + held


@lru_cache
def card(device: torch.device) -> Card:
    """The card of a device with an index; see `Card` for errors."""
    return Card(device)
