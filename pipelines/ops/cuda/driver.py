"""Kernels loaded and launched through the CUDA driver, by ctypes, in the context that PyTorch uses and on its stream."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor

INT_MAX = 2**31 - 1


class DriverError(RuntimeError):
    """The driver refuses or a kernel failed; the message holds the driver's words."""


@lru_cache
def driver() -> ctypes.CDLL:
    """The CUDA driver, which PyTorch has loaded already.

    Raises:
        OSError: there is none.
    """
    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")


class Program:
    """The kernels of one compiled text on one card. It stays loaded as long as the process lives.

    Args:
        library: the driver, or a library that offers the same functions.
        image: a cubin or PTX.
        index: of the card, as PyTorch counts them.
        stream: gives the handle of the stream to launch on, asked anew at each launch.

    Raises:
        DriverError: the driver cannot load the image.
    """

    def __init__(self, library: ctypes.CDLL, image: bytes, index: int, stream: Callable[[], int]) -> None:
        self._library, self._stream = library, stream
        self._functions: dict[str, ctypes.c_void_p] = {}
        self._context, self._module, card = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_int()
        self._check(library.cuDeviceGet(ctypes.byref(card), index))
        self._check(library.cuDevicePrimaryCtxRetain(ctypes.byref(self._context), card))
        with self._current():
            self._check(library.cuModuleLoadData(ctypes.byref(self._module), image))

    def launch(self, kernel: str, blocks: int, threads: int, arguments: Sequence[Tensor | int | float]) -> None:
        """Starts a kernel of one-dimensional blocks; does not wait for it. Nothing is launched for 0 blocks.

        Args:
            arguments: in the kernel's order: contiguous tensors (passed as the address of their first number), int (as a 32-bit int)
                and float (as a 32-bit float). ctypes checks nothing: types must be the kernel's.

        Raises:
            ValueError: a tensor that is not contiguous or lies on another device, an int beyond 32 bits.
            DriverError: the driver refuses the launch, or an earlier kernel failed.
        """
        if not blocks:
            return
        if len({argument.device for argument in arguments if isinstance(argument, Tensor)}) > 1:
            raise ValueError(f"The tensors of the kernel {kernel} lie on several devices.")
        values = [_value(argument) for argument in arguments]
        places = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        with self._current():
            if kernel not in self._functions:
                found = ctypes.c_void_p()
                self._check(self._library.cuModuleGetFunction(ctypes.byref(found), self._module, kernel.encode()))
                self._functions[kernel] = found
            stream = ctypes.c_void_p(self._stream())
            self._check(self._library.cuLaunchKernel(self._functions[kernel], blocks, 1, 1, threads, 1, 1, 0, stream, places, None))

    @contextmanager
    def _current(self) -> Iterator[None]:
        """Makes the card's primary context, PyTorch's, this thread's meanwhile: the threads of autograd may have none yet."""
        self._check(self._library.cuCtxPushCurrent_v2(self._context))
        try:
            yield
        finally:
            self._library.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))

    def _check(self, code: int) -> None:
        if code:
            words = ctypes.c_char_p()
            self._library.cuGetErrorString(code, ctypes.byref(words))
            raise DriverError(f"CUDA driver: {(words.value or b'unknown error').decode()} ({code}).")


def _value(argument: Tensor | int | float) -> ctypes.c_void_p | ctypes.c_int | ctypes.c_float:
    if isinstance(argument, torch.Tensor):
        if not argument.is_contiguous():
            raise ValueError(f"A kernel takes contiguous tensors, not {tuple(argument.shape)} with strides {argument.stride()}.")
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, float):
        return ctypes.c_float(argument)
    if not -INT_MAX <= argument <= INT_MAX:
        raise ValueError(f"A kernel takes numbers of 32 bits, not {argument:,}.")
    return ctypes.c_int(argument)
