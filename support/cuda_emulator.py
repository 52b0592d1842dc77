"""A card that is not there: runs the shipped `.cu` files on the processor, through the code that launches them on a GPU.

    emulated = EmulatedCard(seed=1)
    monkeypatch.setattr(card, "card", lambda device: emulated)  # of lathe.pipelines.ops.cuda

after which the CUDA forms draw with tensors of the CPU. A C++ compiler builds the very text behind `cuda_emulator.h`, which finds threads
that do not meet, indices outside of shared and local arrays, wild addresses, and shared memory that is read before it is written. Each
launch finds writes beyond a tensor and into a `const` one, and arguments of other types than the kernel's; what is read beyond a float
tensor is NaN. Another seed is another order of threads and blocks. What a card's memory and timing do is not found.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock

import lathe_root  # noqa: F401
import torch
from cuda_margins import Guarded
from lathe.pipelines.ops.cuda.driver import Program
from torch import Tensor

HEADER = Path(__file__).with_name("cuda_emulator.h")
FLAGS = """-std=c++17 -O2 -g0 -fPIC -ffp-contract=off -fno-strict-aliasing -fvisibility=hidden -U_FORTIFY_SOURCE
    -Wno-unknown-pragmas -Wno-attributes""".split()
WISHES = """-fsanitize=bounds -fsanitize=bounds-strict -fsanitize=alignment -fsanitize=object-size -ftrivial-auto-var-init=pattern
    -fno-gnu-unique""".split()
"""Flags that not every compiler knows; it gets those that it knows. By one of them local variables that nobody wrote hold -1.7e38."""
THREADS_MAX = 1024
SHARED_MAX = 48 << 10
"""Bytes of shared memory that a kernel may declare, on every card."""
BOUNDS = r"(?:__launch_bounds__\s*\(((?:[^()]|\([^()]*\))*)\)\s*)?"
KERNEL = re.compile(rf'extern\s+"C"\s+__global__\s+(?:void\s+)?{BOUNDS}(?:void\s+)?(\w+)\s*\(')
NUMBERS = {
    torch.float32: "f4", torch.float64: "f8", torch.int64: "i8", torch.int32: "i4", torch.uint8: "u1", torch.bool: "u1"
}  # fmt: skip


class EmulatorError(RuntimeError):
    """A text or a launch is wrong, or there is nothing here to build with; the message says what."""


class EmulatedCard:
    """Stands in for `pipelines.ops.cuda.card.Card`.

    Args:
        seed: of the order in which threads and blocks run. Random numbers go on from launch to launch.
        free: what `free_bytes` says; may be set later.
        stream: gives the handle of the stream to launch on.

    Attributes:
        words: what `Card` says of its compiler.
        faults: the messages of all errors of launches, for tests of code that goes on after one.
    """

    def __init__(self, seed: int = 1, free: int = 8 << 30, stream: Callable[[], int] = lambda: 0) -> None:
        self.seed, self.free, self.stream = seed, free, stream
        self.words = "the processor's compiler"
        self.faults: list[str] = []
        self._programs: dict[tuple[str, tuple[str, ...]], EmulatedProgram] = {}
        self._lock = Lock()

    def program(self, file: Path, options: tuple[str, ...] = ()) -> Program:
        """The kernels of a `.cu` file. Of the compiler's options only -D and -U mean something here.

        Raises:
            EmulatorError: the text does not compile, or a kernel has more shared memory than a card gives.
        """
        text = file.read_text(encoding="utf-8")
        with self._lock:
            if (text, options) not in self._programs:
                built = build(text, file.name, options)
                self._programs[text, options] = EmulatedProgram(built, self.seed, lambda: self.stream(), self.faults)
            return self._programs[text, options]

    def free_bytes(self) -> int:
        """Memory that is free."""
        return self.free


class EmulatedProgram(Program):
    """A program whose kernels run here and now, on copies of their tensors with margins.

    Raises:
        DriverError: what a driver refuses, and kernels that fail.
    """

    def __init__(self, library: ctypes.CDLL, seed: int, stream: Callable[[], int], faults: list[str]) -> None:
        super().__init__(library, b"emulated %d" % seed, 0, stream)
        self._emulator, self._faults = library, faults

    def launch(self, kernel: str, blocks: int, threads: int, arguments: Sequence[Tensor | int | float]) -> None:
        """See `Program.launch`.

        Raises:
            EmulatorError: arguments that are not the kernel's, a context left pushed.
            MarginError: a kernel wrote beyond a tensor or into a constant one.
        """
        before = self._emulator.emulator_contexts()
        try:
            self._launch_guarded(kernel, blocks, threads, arguments)
            if self._emulator.emulator_contexts() != before:
                raise EmulatorError(f"{kernel}: a context was pushed and not popped.")
        except Exception as error:
            self._faults.append(str(error))
            raise

    def _launch_guarded(self, kernel: str, blocks: int, threads: int, arguments: Sequence[Tensor | int | float]) -> None:
        described = self._emulator.emulator_parameters(kernel.encode())
        if described is None or not blocks or not all(a.is_contiguous() for a in arguments if isinstance(a, Tensor)):
            return super().launch(kernel, blocks, threads, arguments)  # which refuses, or does nothing
        parameters = described.decode().split()
        _check_types(kernel, parameters, arguments)
        guarded = Guarded(kernel, arguments, [parameter.startswith("*c") for parameter in parameters])
        super().launch(kernel, blocks, threads, guarded.arguments)
        return guarded.take_back()


def _check_types(kernel: str, parameters: list[str], arguments: Sequence[Tensor | int | float]) -> None:
    if len(parameters) != len(arguments):
        raise EmulatorError(f"{kernel} takes {len(parameters)} arguments, not {len(arguments)}.")
    for number, (parameter, argument) in enumerate(zip(parameters, arguments, strict=True)):
        if isinstance(argument, Tensor) and argument.device.type != "cpu":
            raise EmulatorError(f"{kernel}, argument {number}: the emulator takes tensors of the CPU, not of {argument.device}.")
        wanted, given = parameter.replace("c", ""), _type_of(argument)
        # PyTorch has hardly any unsigned numbers: signed ones of as many bytes stand for them.
        if wanted.replace("u", "i") != given.replace("u", "i"):
            words = [f"{'a tensor' if '*' in code else 'a number'} of type {code.strip('*')}" for code in (wanted, given)]
            raise EmulatorError(f"{kernel}, argument {number}: the kernel takes {words[0]}, not {words[1]} (kind and bytes).")


def _type_of(argument: Tensor | int | float) -> str:
    if isinstance(argument, Tensor):
        return "*" + NUMBERS.get(argument.dtype, str(argument.dtype))
    return "f4" if isinstance(argument, float) else "i4"


@contextmanager
def fresh_memory_is_nan() -> Iterator[None]:
    """Meanwhile what `torch.empty` makes holds NaN, or the largest integer: a kernel that leaves a part of it unwritten shows."""
    before, filled = torch.get_deterministic_debug_mode(), torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.set_deterministic_debug_mode("warn")
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


# ---- building --------------------------------------------------------------------------------------------------------


def unavailable() -> str:
    """Why nothing can be emulated here; empty where it can."""
    try:
        compiler()
    except EmulatorError as error:
        return str(error)
    return ""


@dataclass(frozen=True)
class HostCompiler:
    """A C++ compiler: its command, what it says of itself, and which of `WISHES` it knows."""

    command: str
    version: str
    wishes: tuple[str, ...]


@lru_cache
def compiler() -> HostCompiler:
    """$CXX, else g++, else clang++.

    Raises:
        EmulatorError: none of them is here, or this is not Linux.
    """
    if sys.platform != "linux":
        raise EmulatorError("CUDA kernels are emulated on Linux only.")
    named = os.environ.get("CXX", "")
    command = next((found for name in (named, "g++", "clang++") if name and (found := shutil.which(name))), None)
    if command is None:
        raise EmulatorError("Emulating CUDA kernels needs a C++ compiler: install g++ (Debian, Ubuntu: apt-get install g++).")
    version = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    return HostCompiler(command, version, tuple(flag for flag in WISHES if _knows(command, flag)))


def _knows(command: str, flag: str) -> bool:
    checked = [command, "-Werror", flag, "-x", "c++", "-fsyntax-only", os.devnull]
    return subprocess.run(checked, capture_output=True).returncode == 0


def build(text: str, name: str, options: tuple[str, ...] = ()) -> ctypes.CDLL:
    """The text and the emulator as a library, built once and kept in the temporary folder.

    Raises:
        EmulatorError: it does not compile, or a kernel has too much shared memory.
    """
    defined = [option for option in options if option.startswith(("-D", "-U"))]
    runtime = _kept("runtime.o", [], _compile_runtime)
    library = _kept(f"{Path(name).stem}.so", [text, name, *defined], lambda made: _compile(text, name, defined, runtime, made))
    loaded = ctypes.CDLL(str(library))
    loaded.emulator_parameters.restype = ctypes.c_char_p
    loaded.emulator_last_stream.restype = ctypes.c_void_p
    return loaded


def _kept(name: str, depends_on: list[str], make: Callable[[Path], None]) -> Path:
    """A file of this user's temporary folder for the emulator; it is made where it is not there yet."""
    ours = [file.read_text(encoding="utf-8") for file in (HEADER, Path(__file__))]
    key = hashlib.sha256("\0".join([*depends_on, *ours, repr(compiler())]).encode()).hexdigest()[:20]
    folder = Path(tempfile.gettempdir()) / f"lathe_cuda_emulator_{os.getuid()}"
    kept = folder / f"{key}-{name}"
    if not kept.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            make(Path(scratch) / name)
            (Path(scratch) / name).replace(kept)
    return kept


def _compile_runtime(made: Path) -> None:
    _run([compiler().command, *FLAGS, "-DEMULATOR_RUNTIME", "-x", "c++", "-c", str(HEADER), "-o", str(made)], HEADER.name)


def _compile(text: str, name: str, defined: list[str], runtime: Path, made: Path) -> None:
    host, kernels = compiler(), kernels_of(text)
    source, thing = made.with_suffix(".cpp"), made.with_suffix(".o")
    exports = "".join(f"EMULATOR_KERNEL({kernel}, {bounds})\n" for kernel, bounds in kernels.items())
    source.write_text(f'#include "{HEADER.name}"\nnamespace {{\n#line 1 "{name}"\n{text}\n}}\n{exports}', encoding="utf-8")
    # Linked apart from compiling, and without the flags: the checks that -fsanitize adds call the emulator, not the sanitizer's library.
    _run([host.command, *FLAGS, *host.wishes, *defined, f"-I{HEADER.parent}", "-c", str(source), "-o", str(thing)], name)
    _run([host.command, "-shared", str(thing), str(runtime), "-o", str(made)], name)
    for kernel, size in shared_bytes(made, list(kernels)).items():
        if size > SHARED_MAX:
            raise EmulatorError(f"{name}: kernel {kernel} has {size:,} bytes of shared memory; a card gives {SHARED_MAX:,}.")


def kernels_of(text: str) -> dict[str, str]:
    """The kernels of a text with their launch bounds as written, without bounds the most threads that a block may have."""
    code = re.sub(r"//[^\n]*|/\*.*?\*/", " ", text, flags=re.DOTALL)
    return {kernel: bounds or str(THREADS_MAX) for bounds, kernel in KERNEL.findall(code)}


def shared_bytes(library: Path, kernels: list[str]) -> dict[str, int]:
    """Shared memory of each kernel: symbols of its variables begin with its name; those of other functions count for all kernels."""
    sizes = dict.fromkeys(kernels, 0)
    symbols = _run(["objdump", "-t", str(library)], library.name)
    for size, symbol in re.findall(r" O cuda_shared\s+([0-9a-f]+)\s.*?(\S+)$", symbols, re.MULTILINE):
        owners = [kernel for kernel in kernels if symbol.startswith(f"_ZZ{len(kernel)}{kernel}E")]
        for kernel in owners or kernels:
            sizes[kernel] += int(size, 16)
    return sizes


def _run(command: list[str], name: str) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise EmulatorError(f"{name} does not compile for the emulator:\n{done.stderr.strip()[:4000]}")
    return done.stdout
