"""What the checks run on, the compiler, the cold start, and the proofs that stand before every use."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import torch

from ... import pipelines
from ...pipelines.ops import choose_backend
from ...pipelines.ops.cuda import nvrtc
from ...pipelines.ops.prove_worker import prove_in_child
from ...pipelines.ops.splat_raster import cuda_form
from ..speed_cases import splats
from .findings import Finding, judged, not_measured, note
from .pictures import drawn
from .place import Place

PROOF_SECONDS = 20.0
"""What the proof in a child process may take, from its start to the verdict."""


def machine(place: Place) -> Iterator[Finding]:
    """The GPU, the driver, PyTorch, and which NVRTC it is."""
    if place.emulated:
        yield not_measured("machine", f"no GPU is asked for; the emulator runs the kernels, PyTorch {torch.__version__}")
        return
    torch.zeros(1, device=place.device)
    major, minor = torch.cuda.get_device_capability(place.device)
    gib = torch.cuda.mem_get_info(place.device)[1] / 2**30
    yield note("machine", f"{torch.cuda.get_device_name(place.device)}, compute capability {major}.{minor}, {gib:.0f} GiB; {_driver()}")
    yield note("machine", f"PyTorch {torch.__version__}, CUDA {torch.version.cuda}, allocator {torch.cuda.get_allocator_backend()}")
    yield judged(place.card.target == f"sm_{major}{minor}", "the compiler knows this card", place.card.words)


def _driver() -> str:
    """The driver's version, on Windows with its model: the watchdog is WDDM's alone."""
    said = Path("/proc/driver/nvidia/version")
    if said.exists():
        return said.read_text(errors="replace").partition("\n")[0]
    program = shutil.which("nvidia-smi")
    if program is None:
        return "driver not said"
    command = [program, "--query-gpu=name,driver_version,driver_model.current", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"driver not said: {type(error).__name__}"
    return f"nvidia-smi: {' | '.join(done.stdout.splitlines())}"


def compiling(place: Place) -> Iterator[Finding]:
    """The texts compile for the oldest and the newest architecture and for compute capability 9.0, by whatever NVRTC is here."""
    try:
        compiler = nvrtc.compiler()
    except nvrtc.CompilerError as error:
        yield not_measured("compiling", str(error)[:200])
        return
    known = compiler.architectures
    targets = sorted({known[0], 90, known[-1]} & set(known))
    start = time.perf_counter()
    sizes = [
        len(compiler.compile(file.read_text("utf-8"), file.name, f"sm_{arch}", how))
        for arch in targets
        for file, how in cuda_form.FOR_COLOURS
    ]
    seconds = time.perf_counter() - start
    words = f"{len(sizes)} programs for sm {targets} by NVRTC {compiler.version} in {seconds:.1f} s"
    yield judged(min(sizes) > 0, "compiling", words, seconds=seconds)


def cold_start(place: Place) -> Iterator[Finding]:
    """What the first user of a process waits for. To be the first check that draws."""
    start = time.perf_counter()
    cuda_form.prepare(place.device)
    compiled = time.perf_counter()
    n, size = place.either((1000, 64), (40, 24))
    pictures = drawn(*splats.scene(n, size, 1, str(place.device)))
    place.wait()
    end = time.perf_counter()
    good = all(bool(torch.isfinite(part).all()) for part in pictures)
    words = f"{compiled - start:.2f} s to compile and load, {end - compiled:.2f} s for the first picture and its gradients"
    if place.emulated:
        words = "finite numbers; seconds not measured: it is an emulator"
    yield judged(good, "cold start", words, compile_seconds=compiled - start, first_picture_seconds=end - compiled)


def proof_in_child(place: Place) -> Iterator[Finding]:
    """The chooser's proof in a process of its own, timed from its start to the verdict."""
    form = place.either("cuda", "numba")
    start = time.perf_counter()
    wrong = prove_in_child(Path(pipelines.__path__[0]), "ops.splat_raster", form, str(place.device), 60.0)
    seconds = time.perf_counter() - start
    name = f"proof of {form} in a child process"
    if wrong or place.emulated:
        yield judged(wrong is None, name, wrong or f"proven; the {seconds:.1f} s are not judged without a GPU", seconds=seconds)
    else:
        yield judged(seconds < PROOF_SECONDS, name, f"proven in {seconds:.1f} s, at most {PROOF_SECONDS:g} allowed", seconds=seconds)


def proof_in_process(place: Place) -> Iterator[Finding]:
    """The same proof where our kernels draw in this process."""
    proof = importlib.import_module(f"{choose_backend.SPLAT.package}.proof")
    start = time.perf_counter()
    try:
        proof.prove(cuda_form, place.device)
    except choose_backend.Disproved as wrong:
        yield judged(False, "proof in this process", str(wrong))
        return
    place.wait()
    seconds = time.perf_counter() - start
    words = "proven" if place.emulated else f"proven in {seconds:.2f} s"
    yield judged(True, "proof in this process", words, seconds=seconds)


def choice(place: Place) -> Iterator[Finding]:
    """Without a toolkit the chooser takes our kernels for splats; what it takes for the other operations."""
    said: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    choose_backend.log.addHandler(listener)
    choose_backend.log.setLevel(logging.INFO)
    for operation in choose_backend.OPERATIONS.values():
        said.clear()
        form = choose_backend.choose(operation, place.device).__name__.rpartition(".")[2].removesuffix("_form")
        words = " | ".join(said) or form
        if operation is choose_backend.SPLAT and not os.environ.get("LATHE_BACKEND"):
            yield judged(form == "cuda", "choice for splat", words)
        else:
            yield note(f"choice for {operation.name}", words)


def other_forms(place: Place) -> Iterator[Finding]:
    """Every form of the other operations that is here against the oracle on the processor, on a GPU the PyTorch form, too."""
    for operation in choose_backend.OPERATIONS.values():
        if operation is choose_backend.SPLAT:
            continue
        proof = importlib.import_module(f"{operation.package}.proof")
        for form in operation.on(place.device):
            is_oracle = form == choose_backend.ORACLE
            if is_oracle and (place.emulated or operation is choose_backend.SILHOUETTES):
                continue  # it would be compared with itself
            name = f"{operation.name}: {form} on {place.device}"
            if reason := choose_backend.missing(form):
                yield not_measured(name, reason)
                continue
            try:
                # PyTorch's own sums on a GPU are atomic
                module = SimpleNamespace(**vars(operation.module(form)), ATOMICS=True) if is_oracle else operation.module(form)
                proof.prove(module, place.device)
            except choose_backend.Disproved as wrong:
                # where rounding decides, the same form may decide otherwise on another device
                yield note(name, f"differs from the processor's: {wrong}") if is_oracle else judged(False, name, str(wrong))
            except Exception as error:  # a library may raise anything, and the next form is of interest all the same
                yield judged(False, name, f"{type(error).__name__}: {error}"[:300])
            else:
                yield judged(True, name, "as the oracle on the processor")
