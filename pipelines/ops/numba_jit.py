"""How this project compiles numba kernels: nogil, cached on disk where a folder is writable, else in memory."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import torch

# Cached code names the module it came from, and a host may load this package under another name (ComfyUI: by its folder's path).
# Under one fixed name the cache serves them all.
_MODULE = "lathe_numba_kernels"
sys.modules.setdefault(_MODULE, types.ModuleType(_MODULE))


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles `function` at its first call and keeps the machine code on disk (NUMBA_CACHE_DIR, else beside the source).

    Numba refuses to cache where it finds no writable folder; the kernel is then compiled once per process.
    No fastmath: the rasteriser relies on e(a, b) == -e(b, a) exactly, which fused multiply-adds would break.
    """
    return _compile(function)


def jit_fast(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `jit`, for loops that must become SIMD instructions: sums in any order, fused multiply-adds, division without a check for 0.

    LLVM vectorises a sum of floats only if it may reorder it. The order is chosen when compiling, so results still repeat bit by bit.
    NaN and infinity are not respected: the caller refuses them before.
    """
    return _compile(function, fastmath=True, error_model="numpy")


def _compile(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    function.__module__ = _MODULE
    try:
        return numba.njit(nogil=True, cache=True, **options)(function)
    except RuntimeError:
        return numba.njit(nogil=True, **options)(function)


def for_each(work: Callable[[int], None], count: int) -> None:
    """Calls work(0) ... work(count - 1), on as many threads as torch may use. Kernels inside release the GIL."""
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        for index in range(count):
            work(index)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(count)))
