"""Which form of an operation runs on a device: one choice for all operations, and a proof before use.

An operation with several forms is a package: `torch_form` is its oracle and works anywhere, `<name>_form` are faster forms that offer the
same functions, and `proof.prove(form, device)` compares a form with the oracle. `choose` takes the first form, in the order of the
operation's table below, that is on this machine and passes its proof. It decides once per operation, device and process.

- A form that runs on the GPU is proven in a short child process (`prove_worker`): a kernel that fails leaves a CUDA context unusable, and
  that must not be the user's. Where no child can be had (it cannot be started, or the GPU takes no second context) the proof is made in
  this process. Forms that run on the CPU are always proven here. The log says when a child is started, for it may take minutes.
- A form module may offer `prepare(device)`, which makes it ready in this process: it compiles and loads its kernels, say. It is called
  after the proof in a child and before one in this process; what it raises is a failure of the form like any other.
- Too little memory for the proof or for `prepare` says nothing about a form: it is passed over, and tried again at the first use after a
  minute. The log tells the first time only.
- The choice is one line of the log, with the reason why each form before it was passed over. It is a warning, with the remedy, where on a
  CUDA device a form is installed but fails or finds no memory, and on a GPU without any form that runs on it, where the operation has
  advice for that. A library that is not installed is no warning.

The environment variable `LATHE_BACKEND` overrides the order. It is a list of words, separated by commas, and is read at each decision:

- `splat:torch`: this operation takes this form only. The form must pass its proof all the same; if it fails, that is a warning and the
  PyTorch form is taken. On a device for which the form is not meant (gsplat on a CPU) that is a warning too, and the usual order counts.
- `-cuda`: no operation takes this form, unless it is asked for by name as above.

Words that name no operation or no form of it raise ValueError.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import math
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from .prove_worker import in_words, out_of_memory, prove_in_child

log = logging.getLogger(__name__)

ORACLE = "torch"
ON_THE_CPU = ("numba", ORACLE)
"""Forms that are no GPU kernels; the oracle runs on the device, but needs no proof."""
LIBRARIES = {"gsplat": "gsplat", "nvdiffrast": "nvdiffrast", "tcnn": "tinycudann", "numba": "numba"}
"""The module that a form needs; those not named here need nothing but PyTorch."""
PROOF_SECONDS = {"cuda": 60.0}
BUILD_SECONDS = 900.0
"""What a proof in a child process may take, for forms not in `PROOF_SECONDS`: they may build their kernels with nvcc at first use."""
AGAIN_SECONDS = 60.0
"""How long a choice holds that was made without memory for all proofs."""


class Disproved(Exception):
    """A form computed something wrongly; the text says what."""


@dataclass(frozen=True, eq=False)
class Operation:
    """An operation and its forms.

    Attributes:
        name: its word in the log and in `LATHE_BACKEND`.
        package: the full name of its package, inside a package inside the root: a child process loads that root alone.
        forms: by type of device ("cuda", "cpu", ..., or "other"), names of forms in order of preference, the oracle left out.
        advice: what to say to who has an NVIDIA GPU on which no form of GPU kernels can be used; empty where nothing needs to be said.
    """

    name: str
    package: str
    forms: Mapping[str, tuple[str, ...]]
    advice: str = ""

    def on(self, device: torch.device) -> tuple[str, ...]:
        """Names of the forms that are meant for a device, best first, the oracle last."""
        return (*self.forms.get(device.type, self.forms["other"]), ORACLE)

    def module(self, form: str) -> ModuleType:
        """The module of a form."""
        return importlib.import_module(f"{self.package}.{form}_form")


def _package(name: str) -> str:
    return f"{__package__}.{name}"


SPLAT = Operation(
    "splat",
    _package("splat_raster"),
    {"cuda": ("gsplat", "cuda", "numba"), "other": ("numba",)},
    "This GPU does not draw splats as fast as it could. To mend it, update the NVIDIA driver and PyTorch, or install gsplat (pip install "
    "gsplat; it builds its kernels, for which it needs a CUDA toolkit that fits PyTorch), and start ComfyUI again.",
)
MESH = Operation("mesh", _package("mesh_raster"), {"cuda": ("nvdiffrast",), "other": ("numba",)})
HASH_GRID = Operation("hash_grid", _package("hash_grid"), {"cuda": ("tcnn",), "other": ("numba",)})
RAY_MARCH = Operation("ray_march", _package("ray_march"), {"cpu": ("numba",), "other": ()})
GAUSSIAN_DENSITY = Operation("gaussian_density", _package("gaussian_density"), {"other": ("numba",)})
SILHOUETTES = Operation("silhouettes", _package("silhouette_contours"), {"other": ("numba",)})
OPERATIONS = {one.name: one for one in (SPLAT, MESH, HASH_GRID, RAY_MARCH, GAUSSIAN_DENSITY, SILHOUETTES)}


class _Choice(NamedTuple):
    """A form, and the time of `time.monotonic` until which it is the choice."""

    form: ModuleType
    until: float


class _Verdict(NamedTuple):
    """What is wrong with a form, None where nothing is; a remark for the log; False if there was too little memory to find out."""

    wrong: str | None
    remark: str = ""
    final: bool = True


_chosen: dict[tuple[Operation, torch.device], _Choice] = {}
_verdicts: dict[tuple[Operation, torch.device, str], _Verdict] = {}
_deciding = threading.Lock()


def choose(operation: Operation, device: torch.device) -> ModuleType:
    """The module of the form that computes `operation` on `device`, after the policy above.

    Raises:
        ValueError: `LATHE_BACKEND` names an operation or a form that does not exist.
    """
    found = _chosen.get((operation, device))
    if found is not None and time.monotonic() < found.until:
        return found.form
    if device.type == "cuda" and device.index is None and torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())
    with _deciding:
        found = _chosen.get((operation, device))
        if found is None or time.monotonic() >= found.until:
            form, final = _decide(operation, device, found is not None)
            found = _chosen[operation, device] = _Choice(form, math.inf if final else time.monotonic() + AGAIN_SECONDS)
        return found.form


def forget() -> None:
    """Decides anew at the next use: for tests, and after `LATHE_BACKEND` changed."""
    with _deciding:
        _chosen.clear()
        _verdicts.clear()


def _decide(operation: Operation, device: torch.device, again: bool) -> tuple[ModuleType, bool]:
    """The form, and whether that is final; `again` after a choice that was not."""
    only, without = _wishes(operation, os.environ.get("LATHE_BACKEND", ""))
    order = operation.on(device)
    if only is not None and only not in order:
        log.log(
            logging.DEBUG if again else logging.WARNING,
            "LATHE_BACKEND asks for %s:%s, which is not meant for %s. There the usual order counts: %s.",
            operation.name, only, device.type, ", ".join(order),
        )  # fmt: skip
        only = None
    passed_over: dict[str, str] = {}
    remedies: list[str] = []
    chosen, remark, final = ORACLE, "", True
    for form in order if only is None else (only,):
        if form == ORACLE:
            break
        reason: str | None = "left out by LATHE_BACKEND" if only is None and form in without else missing(form)
        if reason is None:
            verdict = _verdicts.get((operation, device, form)) or _verdict(operation, form, device, again)
            if verdict.final:
                _verdicts[operation, device, form] = verdict
            if verdict.wrong is None:
                chosen, remark = form, verdict.remark
                break
            reason = verdict.wrong + verdict.remark
            if verdict.final:
                remedies.append(_remedy(form))
            else:
                final = False
        passed_over[form] = reason
    advice = operation.advice if device.type == "cuda" and chosen in ON_THE_CPU else ""
    if only is None:
        warns = device.type == "cuda" and bool(remedies or advice or not final)
    else:
        remark, warns = f" (LATHE_BACKEND){remark}", bool(passed_over)
    if final and torch.version.hip is None:
        remedies.append(advice)
    if final or not again:
        _tell(f"{operation.name} on {device}", chosen, remark, passed_over, remedies if warns else None)
    return operation.module(chosen), final


def _tell(where: str, chosen: str, remark: str, passed_over: Mapping[str, str], remedies: list[str] | None) -> None:
    """One line of the log; a warning where there are remedies, be it an empty list."""
    reasons = "; ".join(f"{form}: {reason}" for form, reason in passed_over.items())
    if remedies is None:
        log.info("%s: %s%s%s", where, chosen, remark, reasons and f"; {reasons}")
    else:
        used = {"numba": "numba on the CPU", ORACLE: "plain PyTorch"}.get(chosen, chosen)
        log.warning("%s", " ".join([f"{where}: {used} is used{remark} ({reasons}).", *filter(None, remedies)]))


def _remedy(form: str) -> str:
    if form in LIBRARIES:
        return f"{LIBRARIES[form]} is installed but does not work here: update it, or leave it out with LATHE_BACKEND=-{form}."
    return f"Lathe's own kernels do not work here: update the driver and PyTorch, or leave them out with LATHE_BACKEND=-{form}."


def missing(form: str) -> str | None:
    """Why a form cannot be on this machine, None where it may; found without importing anything."""
    if form == "cuda" and torch.version.hip is not None:
        return "for NVIDIA cards only"
    library = LIBRARIES.get(form)
    try:
        found = library is None or importlib.util.find_spec(library) is not None
    except ValueError:  # imported already, by other means than a file
        found = True
    return None if found else f"{library} is not installed"


def _verdict(operation: Operation, form: str, device: torch.device, again: bool) -> _Verdict:
    """Proves a form, in a child where the policy above says so, and makes it ready here."""
    remark = ""
    try:
        if device.type == "cuda" and form not in ON_THE_CPU:
            try:
                wrong = _tested_in_child(operation, form, device, again)
            except Exception as error:  # whatever it is, it says nothing about the form
                remark = f" (tested in this process: {in_words(error)})"
            else:
                if wrong is None:
                    _prepare(operation.module(form), device)
                return _Verdict(wrong)
        module, proof = operation.module(form), importlib.import_module(f"{operation.package}.proof")
        _prepare(module, device)
        with torch.inference_mode(False), torch.enable_grad():
            proof.prove(module, device)
    except Exception as error:  # a broken installation may raise anything, and the oracle always works
        if out_of_memory(error):
            return _Verdict(f"too little memory for its test, which is made again later: {in_words(error)}", remark, False)
        return _Verdict(in_words(error), remark)
    return _Verdict(None, remark)


def _tested_in_child(operation: Operation, form: str, device: torch.device, again: bool) -> str | None:
    building = "" if form in PROOF_SECONDS else " At its first use it may build its kernels, which takes minutes."
    level = logging.DEBUG if again else logging.INFO
    log.log(level, "%s on %s: testing %s in a process of its own.%s", operation.name, device, form, building)
    root, room, name = operation.package.rsplit(".", 2)
    folder = Path(importlib.import_module(root).__path__[0])
    return prove_in_child(folder, f"{room}.{name}", form, str(device), PROOF_SECONDS.get(form, BUILD_SECONDS))


def _prepare(form: ModuleType, device: torch.device) -> None:
    if hasattr(form, "prepare"):
        form.prepare(device)


def _wishes(operation: Operation, words: str) -> tuple[str | None, set[str]]:
    """What `LATHE_BACKEND` asks of an operation: one form only or None, and the forms to leave out."""
    forms = {one.name: _all_forms(one) for one in (*OPERATIONS.values(), operation)}
    only, without = None, set()
    for word in filter(None, (part.strip() for part in words.split(","))):
        name, colon, form = word.partition(":")
        if colon and form in forms.get(name, ()):
            only = form if name == operation.name else only
        elif word[0] == "-" and word[1:] != ORACLE and any(word[1:] in some for some in forms.values()):
            without.add(word[1:])
        else:
            valid = ", ".join(f"{name} ({', '.join(some)})" for name, some in forms.items())
            raise ValueError(
                f"LATHE_BACKEND: {word!r} is not understood. Expected words such as splat:torch (this form only) or -cuda (not this "
                f"form), separated by commas. Operations and their forms: {valid}."
            )
    return only, without


def _all_forms(operation: Operation) -> tuple[str, ...]:
    return (*dict.fromkeys(form for some in operation.forms.values() for form in some), ORACLE)


def must_be_close(what: str, made: Tensor, true: Tensor, tolerance: float = 1e-3) -> None:
    """For proofs: the norm of the difference is at most `tolerance` times that of the truth. NaN is never close.

    Raises:
        Disproved: it is not, or the shapes differ.
    """
    made, true = made.detach().cpu().double(), true.detach().cpu().double()
    if made.shape != true.shape:
        raise Disproved(f"{what}: shape {tuple(made.shape)}, expected {tuple(true.shape)}")
    error = float((made - true).norm() / true.norm().clamp(min=1e-30))
    if not error <= tolerance:
        raise Disproved(f"{what}: relative error {error:.1e}, at most {tolerance:.0e} expected")


def must_be_equal(what: str, made: Tensor, true: Tensor) -> None:
    """For proofs: the same numbers, bit by bit.

    Raises:
        Disproved: they are not.
    """
    made, true = made.detach().cpu(), true.detach().cpu()
    if not torch.equal(made, true):
        share = f"{int((made != true).sum())} of {made.numel()}" if made.shape == true.shape else "shapes"
        raise Disproved(f"{what}: {share} differ")
