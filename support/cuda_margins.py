"""Copies of a kernel's tensors with margins around them, which show what it reads and writes beyond. `cuda_emulator` launches on them."""

from __future__ import annotations

import ctypes
import mmap
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

MARGIN = 256
"""Bytes before and behind a tensor at least; up to whole pages of memory."""
FORBIDDEN = 1 << 33
"""Bytes before and behind those, which nobody can read or write: a kernel that goes there fails, and the process is not harmed."""
ALIGNED = 64
UNWRITTEN = {torch.float32: 0xFFBFFFFFFFBFFFFF, torch.float64: 0xFFF7FFFFFFFFFFFF}
"""What the margins hold, in words of 64 bits: signalling NaN. Arithmetic turns it into other bits, so that a `+=` beyond a tensor shows.
With other types it is -1: as the end of a loop harmless, as a result wrong."""
MINUS_ONE = 2**64 - 1


class MarginError(RuntimeError):
    """A kernel wrote where it must not; the message says where."""


@dataclass
class Piece:
    """Memory that one tensor takes up, or several that overlap.

    Attributes:
        begin, end: its addresses.
        constant: no argument in it may be written.
        numbers: of the arguments.
        dtype: of its first argument.
    """

    begin: int
    end: int
    constant: bool
    numbers: list[int]
    dtype: torch.dtype


class Guarded:
    """The arguments of one launch, each tensor replaced by a view of a copy with margins.

    Args:
        kernel: its name, for messages.
        arguments: tensors of the CPU, contiguous, and numbers.
        constant: of each argument whether the kernel declares that it does not write there.

    Attributes:
        arguments: what to launch with, as long as this object lives.
    """

    def __init__(self, kernel: str, arguments: Sequence[Tensor | int | float], constant: Sequence[bool]) -> None:
        self._kernel, self._copies = kernel, [Copy(piece) for piece in pieces_of(arguments, constant)]
        copies = {number: copy for copy in self._copies for number in copy.piece.numbers}
        self.arguments = [copies[number].view(a) if isinstance(a, Tensor) else a for number, a in enumerate(arguments)]

    def take_back(self) -> None:
        """Gives the tensors what the kernel wrote.

        Raises:
            MarginError: it wrote beyond a tensor or into a constant one; no tensor is changed then.
        """
        for copy in self._copies:
            if fault := copy.fault():
                numbers = " and ".join(map(str, sorted(copy.piece.numbers)))
                raise MarginError(f"{self._kernel}, argument {numbers}: the kernel {fault}.")
        for copy in self._copies:
            copy.take_back()


def pieces_of(arguments: Sequence[Tensor | int | float], constant: Sequence[bool]) -> list[Piece]:
    """The memory of the tensors; views of one tensor are apart unless they overlap."""
    tensors = [(argument.data_ptr(), number, argument) for number, argument in enumerate(arguments) if isinstance(argument, Tensor)]
    pieces: list[Piece] = []
    for begin, number, tensor in sorted(tensors, key=lambda entry: entry[:2]):
        end = begin + tensor.numel() * tensor.element_size()
        if pieces and begin < end and begin < pieces[-1].end:
            piece = pieces[-1]
            piece.end, piece.constant = max(piece.end, end), piece.constant and constant[number]
            piece.numbers.append(number)
        else:
            pieces.append(Piece(begin, end, constant[number], [number], tensor.dtype))
    return pieces


class Copy:
    """A piece of memory, copied into pages of its own with margins."""

    def __init__(self, piece: Piece) -> None:
        self.piece, size = piece, piece.end - piece.begin
        # Aligned as the original, and no better: who loads four numbers at once must not be lucky.
        begin = MARGIN + piece.begin % ALIGNED
        self._bytes = _pages(self, begin + size + MARGIN)
        self._bytes.view(np.uint64)[:] = UNWRITTEN.get(piece.dtype, MINUS_ONE)
        self._untouched = self._bytes.copy()
        self._given = np.frombuffer(ctypes.string_at(piece.begin, size), np.uint8)
        self._inside = slice(begin, begin + size)
        self._bytes[self._inside] = self._given
        self._storage = torch.from_numpy(self._bytes).untyped_storage()

    def view(self, tensor: Tensor) -> Tensor:
        """A tensor of the piece, in the copy."""
        offset = self._inside.start + tensor.data_ptr() - self.piece.begin
        typed = torch.empty(0, dtype=tensor.dtype)
        return typed.set_(self._storage, offset // tensor.element_size(), tensor.shape, tensor.stride())

    def fault(self) -> str:
        """What the kernel did wrong here; empty where it did nothing wrong."""
        size, number = len(self._given), self.piece.dtype.itemsize
        written = self._bytes != self._untouched
        written[self._inside] = False
        if written.any():
            at = (int(written.argmax()) - self._inside.start) // number * number
            return f"wrote beyond the tensor of {size} bytes, {f'{-at} before its begin' if at < 0 else f'{at - size} after its end'}"
        changed = self._bytes[self._inside] != self._given
        if self.piece.constant and changed.any():
            return f"wrote into what it declares const, at byte {int(changed.argmax()) // number * number} of {size}"
        return ""

    def take_back(self) -> None:
        """Copies what was written to where it came from."""
        if not self.piece.constant:
            ctypes.memmove(self.piece.begin, self._bytes[self._inside].ctypes.data, len(self._given))


@lru_cache
def _libc() -> ctypes.CDLL:
    """The C library's calls for memory pages; asked only where the emulator runs, which is not on Windows."""
    library = ctypes.CDLL(None)
    library.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_ssize_t]
    library.mmap.restype = ctypes.c_void_p
    library.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return library


def _pages(owner: object, size: int) -> np.ndarray:
    """Fresh pages of at least this many bytes amid forbidden ones; they are freed with their owner."""
    size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    whole = FORBIDDEN + size + FORBIDDEN
    libc = _libc()
    begin = libc.mmap(None, whole, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    if begin in (None, ctypes.c_void_p(-1).value) or libc.mprotect(begin + FORBIDDEN, size, mmap.PROT_READ | mmap.PROT_WRITE):
        raise MemoryError(f"No {size:,} bytes for the copy of a tensor.")
    weakref.finalize(owner, libc.munmap, begin, whole)
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(begin + FORBIDDEN))
