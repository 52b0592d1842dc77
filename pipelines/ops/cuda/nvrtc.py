"""CUDA C++ text to machine code by NVRTC, the compiler library that every CUDA build of PyTorch carries.

No toolkit, no C++ compiler, no header, no temporary file. Nothing here needs a GPU or a driver. The functions called are those of NVIDIA's
NVRTC documentation; `docs/decisions/0011-kernels-by-nvrtc.md` says why they are called through ctypes.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

NAME = re.compile(r"nvrtc64_\d+_0\.dll" if sys.platform == "win32" else r"libnvrtc\.so(\.\d+)*")
BUILTINS = "nvrtc-builtins64_*.dll" if sys.platform == "win32" else "libnvrtc-builtins.so*"
TRIAL = 'extern "C" __global__ void trial(float* x) { x[threadIdx.x] = expf(x[threadIdx.x]); }'


class CompilerError(RuntimeError):
    """There is no NVRTC that works, or it refuses a text; the message holds its words."""


@dataclass(frozen=True)
class Compiler:
    """One NVRTC.

    Attributes:
        library: the loaded library.
        path: its file, or the name it was found by.
        version: such as (13, 0).
        architectures: what it can compile for, ascending: 75 for compute capability 7.5.
    """

    library: ctypes.CDLL
    path: str
    version: tuple[int, int]
    architectures: tuple[int, ...]

    def target(self, capability: tuple[int, int]) -> str:
        """What to compile for: machine code ("sm_86") where this compiler knows the card, else PTX ("compute_90") of the newest
        architecture it knows, which the card's driver translates.

        Raises:
            CompilerError: a card older than anything this compiler knows.
        """
        card = 10 * capability[0] + capability[1]
        if card in self.architectures:
            return f"sm_{card}"
        older = [architecture for architecture in self.architectures if architecture < card]
        if not older:
            raise CompilerError(
                f"NVRTC {self.version[0]}.{self.version[1]} compiles for compute capability {self.architectures[0] / 10} and newer, "
                f"this card has {capability[0]}.{capability[1]}."
            )
        return f"compute_{older[-1]}"

    def compile(self, text: str, name: str, target: str, options: Iterable[str] = ()) -> bytes:
        """Machine code (a cubin) for a target "sm_XX", PTX for "compute_XX".

        Args:
            text: CUDA C++ that includes nothing; kernels are `extern "C"`.
            name: of the text, for the compiler's messages.
            options: further options of NVRTC, such as "-DWIDTH=3".

        Raises:
            CompilerError: the text does not compile.
        """
        library, program = self.library, ctypes.c_void_p()
        _check(library, library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), name.encode(), 0, None, None))
        try:
            flags = [flag.encode() for flag in (f"--gpu-architecture={target}", "--std=c++17", *options)]
            if library.nvrtcCompileProgram(program, len(flags), (ctypes.c_char_p * len(flags))(*flags)):
                words = _bytes_of(library, "ProgramLog", program).rstrip(b"\0").decode(errors="replace").strip()
                raise CompilerError(f"NVRTC could not compile {name} for {target}: {words}")
            return _bytes_of(library, "CUBIN" if target.startswith("sm_") else "PTX", program)
        finally:
            library.nvrtcDestroyProgram(ctypes.byref(program))


@lru_cache
def compiler() -> Compiler:
    """The first NVRTC on this machine that compiles one line; PyTorch's own before any other.

    Raises:
        CompilerError: none does; the message says what was tried.
    """
    tried = []
    for candidate in candidates():
        try:
            return opened(candidate)
        except (CompilerError, OSError, AttributeError) as error:
            tried.append(f"{candidate}: {error}")
    raise CompilerError("No NVRTC compiles here. " + ("Tried: " + "; ".join(tried) if tried else "None was found."))


def opened(path: str) -> Compiler:
    """The NVRTC of this file, or of this name on the loader's paths, after it has compiled one line.

    Raises:
        OSError: it cannot be loaded.
        CompilerError: it does not compile.
        AttributeError: it is older than CUDA 11.2.
    """
    # NVRTC opens its builtins by bare name. Some wheels (13.0) do not say where they lie, and another NVRTC's may come first on the
    # loader's paths: those beside it are loaded before, and the loader then takes what it has.
    for builtins in sorted(Path(path).parent.glob(BUILTINS)) if Path(path).is_absolute() else ():
        ctypes.CDLL(str(builtins))
    library = ctypes.CDLL(path)
    library.nvrtcGetErrorString.restype = ctypes.c_char_p
    major, minor, count = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    _check(library, library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    _check(library, library.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
    known = (ctypes.c_int * count.value)()
    _check(library, library.nvrtcGetSupportedArchs(known))
    found = Compiler(library, path, (major.value, minor.value), tuple(sorted(known)))
    found.compile(TRIAL, "trial.cu", f"sm_{found.architectures[-1]}")
    return found


def candidates() -> list[str]:
    """Where an NVRTC may be, PyTorch's CUDA version first: loaded already, beside PyTorch, in NVIDIA's wheels, on the loader's paths."""
    wanted = (torch.version.cuda or "").split(".")[0]
    number = "112" if wanted == "11" else f"{wanted}0"  # of the last version that changed NVRTC's interface
    named = f"nvrtc64_{number}_0.dll" if sys.platform == "win32" else f"libnvrtc.so.{wanted}"
    files = list(dict.fromkeys(str(path) for path in (*_loaded(), *_beside_torch(), *_wheels()) if NAME.fullmatch(path.name)))
    files.sort(key=lambda file: _major(Path(file).name) != wanted)
    return [*files, *([named] if wanted else [])]


def _major(name: str) -> str:
    numbers = re.findall(r"\d+", name.replace("nvrtc64", ""))
    return numbers[0][:2] if numbers else ""


def _loaded() -> Iterator[Path]:
    """On Linux libtorch_cuda needs NVRTC, so it is in memory after `import torch`. (On Windows PyTorch loads what lies beside it.)"""
    maps = Path("/proc/self/maps")
    if sys.platform == "linux" and maps.exists():
        for line in maps.read_text(errors="replace").splitlines():
            if "/libnvrtc.so" in line:
                yield Path(line[line.index("/") :])


def _beside_torch() -> Iterator[Path]:
    yield from sorted((Path(torch.__file__).parent / "lib").glob("*nvrtc*"))


def _wheels() -> Iterator[Path]:
    try:
        spec = importlib.util.find_spec("nvidia")
    except ValueError:  # a module of that name that came by no finder
        return
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for inner in ("cu*/lib", "cu*/bin/x86_64", "cuda_nvrtc/lib", "cuda_nvrtc/bin"):
            for place in sorted(Path(folder).glob(inner)):
                yield from sorted(place.glob("*nvrtc*"))


def _bytes_of(library: ctypes.CDLL, what: str, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    _check(library, getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    made = ctypes.create_string_buffer(size.value)
    _check(library, getattr(library, f"nvrtcGet{what}")(program, made))
    return made.raw


def _check(library: ctypes.CDLL, code: int) -> None:
    if code:
        raise CompilerError(f"NVRTC: {library.nvrtcGetErrorString(code).decode()}")
