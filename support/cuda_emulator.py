"""A card that is not there: runs the shipped `.cu` files on the processor, through the code that launches them on a GPU.

    card = EmulatedCard(seed=1)
    monkeypatch.setattr(card_module, "card", lambda device: card)

after which the CUDA forms draw with tensors of the CPU. A C++ compiler builds the very text behind `cuda_emulator.h`, which says what is
found there: threads that do not meet, indices outside of shared and local arrays, shared memory that nobody wrote, wild addresses. Found here,
at each launch: reading or writing beyond a tensor, writing what a kernel declares `const`, arguments that are not of the kernel's types.
Another seed is another order of threads and blocks. Not found: what only a card's memory and timing do.
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
from lathe.pipelines.ops.cuda.driver import Program
from torch import Tensor

HEADER = Path(__file__).with_name("cuda_emulator.h")
FLAGS = (
    "-std=c++17", "-O2", "-g0", "-fPIC", "-ffp-contract=off", "-fno-strict-aliasing", "-fvisibility=hidden", "-U_FORTIFY_SOURCE",
    "-Wno-unknown-pragmas", "-Wno-attributes",
)  # fmt: skip
OPTIONAL_FLAGS = ("-fsanitize=bounds", "-fsanitize=bounds-strict", "-ftrivial-auto-var-init=pattern", "-fno-gnu-unique", "-fcf-protection=none")
"""Taken where the compiler has them; of two that do the same, the later is the stronger."""
SHARED_MAX = 48 << 10
"""Bytes of shared memory that a kernel may declare, on every card."""
MARGIN = 256
"""Bytes before and behind a tensor at least; a row of it, where that is more."""
UNREAD = {torch.float32: (torch.int32, -0x400001), torch.float64: (torch.int64, -0x8000000000001)}
"""Signalling NaN of each type, as an integer: any arithmetic with it gives other bits, so that `+=` on a margin shows. Else all bits 1."""
KERNEL = re.compile(r"\b__global__\b\s*(?:(?:void|__launch_bounds__\s*\([^()]*(?:\([^()]*\)[^()]*)*\))\s*)+(\w+)\s*\(")
NUMBERS = {
    torch.float32: "f4", torch.float64: "f8", torch.int64: "i8", torch.int32: "i4", torch.int16: "i2", torch.int8: "i1", torch.uint8: "u1",
    torch.bool: "u1",
}  # fmt: skip


class EmulatorError(RuntimeError):
    """A kernel or its launch is wrong, or there is nothing here to build it with; the message says what."""


class EmulatedCard:
    """Stands in for `pipelines.ops.cuda.card.Card`.

    Args:
        seed: of the order in which threads and blocks run. It goes on from launch to launch.
        free: what `free_bytes` says; may be set later.
        stream: gives the handle of the stream to launch on.

    Attributes:
        faults: the messages of all errors, for tests of code that goes on after one.
    """

    def __init__(self, seed: int = 1, free: int = 8 << 30, stream: Callable[[], int] = lambda: 0) -> None:
        self.seed, self.free, self.stream = seed, free, stream
        self.faults: list[str] = []
        self._programs: dict[tuple[str, tuple[str, ...]], EmulatedProgram] = {}
        self._lock = Lock()

    def program(self, file: Path, options: tuple[str, ...] = ()) -> Program:
        """The kernels of a `.cu` file. Of the compiler's options only -D and -U mean something here.

        Raises:
            EmulatorError: the text does not compile, or its kernels have more shared memory than a card gives.
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
    """A program whose launches get copies of their tensors with margins around them.

    Raises:
        EmulatorError: see `launch`; the driver's errors stay what they are.
    """

    def __init__(self, library: ctypes.CDLL, seed: int, stream: Callable[[], int], faults: list[str]) -> None:
        super().__init__(library, b"emulated %d" % seed, 0, stream)
        self._emulator, self._faults = library, faults

    def launch(self, kernel: str, blocks: int, threads: int, arguments: Sequence[Tensor | int | float]) -> None:
        """As `Program.launch`, and waits for the kernel.

        Raises:
            EmulatorError: arguments that are not the kernel's, a write beyond a tensor or into a `const` one, a context left pushed.
        """
        before = self._emulator.emulator_contexts()
        try:
            self._launch(kernel, blocks, threads, arguments)
            if self._emulator.emulator_contexts() != before:
                raise EmulatorError(f"{kernel}: a context was pushed and not popped, or popped and not pushed.")
        except Exception as error:
            self._faults.append(str(error))
            raise

    def _launch(self, kernel: str, blocks: int, threads: int, arguments: Sequence[Tensor | int | float]) -> None:
        described = self._emulator.emulator_parameters(kernel.encode())
        tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
        if described is None or not blocks or not all(tensor.is_contiguous() for tensor in tensors):
            return super().launch(kernel, blocks, threads, arguments)  # which refuses
        parameters = described.decode().split()
        _check_types(kernel, parameters, arguments)
        guarded = _Guarded(kernel, parameters, arguments)
        super().launch(kernel, blocks, threads, guarded.arguments)
        guarded.take_back()
        return None


def _check_types(kernel: str, parameters: list[str], arguments: Sequence[Tensor | int | float]) -> None:
    if len(parameters) != len(arguments):
        raise EmulatorError(f"{kernel} takes {len(parameters)} arguments, not {len(arguments)}.")
    for number, (parameter, argument) in enumerate(zip(parameters, arguments, strict=True)):
        if isinstance(argument, Tensor):
            given = "*" + NUMBERS.get(argument.dtype, str(argument.dtype))
            if argument.device.type != "cpu":
                raise EmulatorError(f"{kernel}, argument {number}: the emulator takes tensors of the CPU, not of {argument.device}.")
        else:
            given = "f4" if isinstance(argument, float) else "i4"
        wanted = parameter.replace("c", "")
        if given.replace("i", "u") != wanted.replace("i", "u"):  # PyTorch has no unsigned numbers: signed ones of the same bytes stand for them
            raise EmulatorError(f"{kernel}, argument {number}: the kernel's type is {wanted}, given is {given} (f, i, u: the kind, then bytes).")


@dataclass
class _Copy:
    """A range of memory, in a buffer with margins: begin .. end are the addresses of the original."""

    begin: int
    end: int
    constant: bool
    numbers: list[int]
    margin: int
    dtype: torch.dtype
    buffer: Tensor
    offset: int = 0


class _Guarded:
    """The arguments of a launch, tensors replaced by copies with margins. What overlaps in memory shares one copy."""

    def __init__(self, kernel: str, parameters: list[str], arguments: Sequence[Tensor | int | float]) -> None:
        self.kernel, self.copies = kernel, []
        of_argument: dict[int, _Copy] = {}
        numbers = [number for number, argument in enumerate(arguments) if isinstance(argument, Tensor)]
        for number in sorted(numbers, key=lambda number: arguments[number].data_ptr()):  # type: ignore[union-attr]
            tensor = arguments[number]
            assert isinstance(tensor, Tensor)
            begin, constant = tensor.data_ptr(), parameters[number].startswith("*c")
            end = begin + tensor.numel() * tensor.element_size()
            row = tensor.stride(0) * tensor.element_size() if tensor.ndim and tensor.numel() else 0
            if not self.copies or begin >= self.copies[-1].end or begin == end:
                self.copies.append(_Copy(begin, end, constant, [], 0, tensor.dtype, tensor))
            copy = self.copies[-1]
            copy.end, copy.constant = max(copy.end, end), copy.constant and constant
            copy.margin = max(copy.margin, -(-max(row, MARGIN) // MARGIN) * MARGIN)
            copy.numbers.append(number)
            of_argument[number] = copy
        for copy in self.copies:
            self._fill(copy)
        self.arguments = [
            argument if not isinstance(argument, Tensor) else _view(of_argument[number], argument) for number, argument in enumerate(arguments)
        ]

    def _fill(self, copy: _Copy) -> None:
        size = copy.end - copy.begin
        # A copy is aligned as the original, but to more bytes by none: a kernel that loads four numbers at once must not be lucky.
        shift = copy.begin % 64
        total = copy.margin + shift + size + copy.margin
        room = torch.empty(total // 8 + 17, dtype=torch.int64)
        dtype, unread = UNREAD.get(copy.dtype, (torch.int64, -1))
        room.view(dtype).fill_(unread)
        copy.buffer = room.view(torch.uint8)
        copy.offset = -room.data_ptr() % 64 + copy.margin + shift
        ctypes.memmove(copy.buffer.data_ptr() + copy.offset, copy.begin, size)

    def take_back(self) -> None:
        """Copies what the kernel wrote to the tensors.

        Raises:
            EmulatorError: it wrote where it must not; no tensor is changed then.
        """
        for copy in self.copies:
            size = copy.end - copy.begin
            written = copy.buffer.clone()
            dtype, unread = UNREAD.get(copy.dtype, (torch.int64, -1))
            inside = written[copy.offset : copy.offset + size].clone()
            untouched = torch.full((len(written) // dtype.itemsize,), unread, dtype=dtype).view(torch.uint8)
            written[copy.offset : copy.offset + size] = untouched[copy.offset : copy.offset + size]
            wrong = (written != untouched).nonzero().flatten()
            where = f"{self.kernel}, argument {' and '.join(map(str, sorted(copy.numbers)))}"
            if len(wrong):
                at = int(wrong[0]) - copy.offset
                beyond = f"{-at} bytes before its begin" if at < 0 else f"{at - size} bytes after its end"
                raise EmulatorError(f"{where}: the kernel wrote beyond the tensor of {size} bytes, {beyond}.")
            if copy.constant and ctypes.string_at(copy.begin, size) != bytes(inside.numpy()):
                changed = inside.numpy() != torch.frombuffer(bytearray(ctypes.string_at(copy.begin, size)), dtype=torch.uint8).numpy()
                raise EmulatorError(f"{where}: the kernel wrote into what it declares const, at byte {int(changed.argmax())}.")
        for copy in self.copies:
            if not copy.constant:
                ctypes.memmove(copy.begin, copy.buffer.data_ptr() + copy.offset, copy.end - copy.begin)


def _view(copy: _Copy, tensor: Tensor) -> Tensor:
    """The tensor in the copy."""
    offset = copy.offset + tensor.data_ptr() - copy.begin
    size = tensor.element_size()
    typed = torch.empty(0, dtype=tensor.dtype)
    return typed.set_(copy.buffer.untyped_storage(), offset // size, tensor.shape, tensor.stride())


@contextmanager
def fresh_memory_is_nan() -> Iterator[None]:
    """Meanwhile what `torch.empty` makes holds NaN, or the largest integer: a kernel that leaves a part of it unwritten shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
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
    """A C++ compiler: its command, the flags it is called with, and what it says of itself."""

    command: str
    flags: tuple[str, ...]
    version: str


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
    flags = (*FLAGS, *(flag for flag in OPTIONAL_FLAGS if _takes(command, flag)))
    return HostCompiler(command, flags, version)


def _takes(command: str, flag: str) -> bool:
    checked = [command, "-Werror", flag, "-x", "c++", "-fsyntax-only", os.devnull]
    return subprocess.run(checked, capture_output=True).returncode == 0


def build(text: str, name: str, options: tuple[str, ...] = ()) -> ctypes.CDLL:
    """The text and the emulator as a library, built once and kept in the temporary folder.

    Raises:
        EmulatorError: it does not compile, or a kernel has too much shared memory.
    """
    host = compiler()
    defined = [option for option in options if option.startswith(("-D", "-U"))]
    key = hashlib.sha256("\0".join([text, *defined, HEADER.read_text(encoding="utf-8"), repr(host)]).encode()).hexdigest()[:20]
    folder = Path(tempfile.gettempdir()) / f"lathe_cuda_emulator_{os.getuid()}"
    library = folder / f"{Path(name).stem}-{key}.so"
    if not library.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = _compiled(host, text, name, defined, Path(scratch))
            made.replace(library)
    loaded = ctypes.CDLL(str(library))
    loaded.emulator_parameters.restype = ctypes.c_char_p
    loaded.emulator_last_stream.restype = ctypes.c_void_p
    return loaded


def _compiled(host: HostCompiler, text: str, name: str, defined: list[str], folder: Path) -> Path:
    kernels = kernel_names(text)
    source, thing, library = folder / "text.cpp", folder / "text.o", folder / "text.so"
    lines = ['#include "cuda_emulator.h"', "namespace {", f'#line 1 "{name}"', text, "}", *(f"EMULATOR_KERNEL({kernel})" for kernel in kernels)]
    source.write_text("\n".join(lines) + "\n", encoding="utf-8")
    # Linked apart from compiling, and without the flags: the checks that -fsanitize adds call the emulator, not the sanitizer's library.
    _run([host.command, *host.flags, *defined, f"-I{HEADER.parent}", "-c", str(source), "-o", str(thing)], name)
    _run([host.command, "-shared", str(thing), "-o", str(library)], name)
    _check_shared_memory(library, kernels, name)
    return library


def kernel_names(text: str) -> list[str]:
    """The kernels of a text, in its order."""
    code = re.sub(r"//[^\n]*|/\*.*?\*/", " ", text, flags=re.DOTALL)
    return list(dict.fromkeys(KERNEL.findall(code)))


def _run(command: list[str], name: str) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise EmulatorError(f"{name} does not compile for the emulator:\n{done.stderr.strip()[:4000]}")
    return done.stdout


def _check_shared_memory(library: Path, kernels: list[str], name: str) -> None:
    """Adds the variables of each kernel, which their symbols name; those of other functions count for every kernel."""
    sizes = dict.fromkeys(kernels, 0)
    for line in _run(["objdump", "-t", str(library)], name).splitlines():
        found = re.search(r" O cuda_shared\s+([0-9a-f]+)\s.*?(_ZZ(\d+)\S+)", line)
        if found:
            length, start = int(found[3]), len("_ZZ") + len(found[3])
            owner = found[2][start : start + length]
            for kernel in [owner] if owner in sizes else kernels:
                sizes[kernel] += int(found[1], 16)
    for kernel, size in sizes.items():
        if size > SHARED_MAX:
            raise EmulatorError(f"{name}: kernel {kernel} has {size:,} bytes of shared memory; a card gives {SHARED_MAX:,}.")
