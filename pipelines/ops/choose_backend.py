"""Which form of an operation runs on a device: one choice for all operations, and a proof before use.

An operation with several forms is a package: `torch_form` is its oracle and works anywhere, `<name>_form` are faster forms that offer the
same functions, and `proof.prove(form, device)` compares a form with the oracle. `choose` takes the first form, in the order of the
operation's table below, that is on this machine and passes its proof. It decides once per operation, device and process.

- A form that runs on the GPU is proven in a short child process (`prove_worker`): a kernel that fails leaves a CUDA context unusable, and
  that must not be the user's. Where no child can be had (it cannot be started, or the GPU takes no second context) the proof is made in
  this process. Forms that run on the CPU are always proven here.
- The choice is one line of the log, with the reason why each form before it was passed over.
- On a CUDA device, a form that is installed but fails is a warning with the remedy; so is a GPU without any form that runs on it,
  where the operation has advice for that. A library that is not installed is no warning.

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
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from .prove_worker import NoVerdict, in_words, prove_in_child

log = logging.getLogger(__name__)

ORACLE = "torch"
ON_THE_CPU = ("numba", ORACLE)
"""Forms that are no GPU kernels; the oracle runs on the device, but needs no proof."""
LIBRARIES = {"gsplat": "gsplat", "nvdiffrast": "nvdiffrast", "tcnn": "tinycudann", "numba": "numba"}
"""The module that a form needs; those not named here need nothing but PyTorch."""
PROOF_SECONDS = {"cuda": 60.0}
BUILD_SECONDS = 900.0
"""What a proof in a child process may take, for forms not in `PROOF_SECONDS`: they may build their kernels with nvcc at first use."""


class Disproved(Exception):
    """A form computed something wrongly; the text says what."""


@dataclass(frozen=True, eq=False)
class Operation:
    """An operation and its forms.

    Attributes:
        name: its word in the log and in `LATHE_BACKEND`.
        package: the full name of its package, inside a package inside the root: a child process loads that root alone.
        forms: by type of device ("cuda", "cpu", ..., or "other"), names of forms in order of preference, the oracle left out.
        advice: what to say to who has a GPU on which no form of GPU kernels can be used; empty where nothing needs to be said.
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

_chosen: dict[tuple[Operation, torch.device], ModuleType] = {}
_deciding = threading.Lock()


def choose(operation: Operation, device: torch.device) -> ModuleType:
    """The module of the form that computes `operation` on `device`, after the policy above.

    Raises:
        ValueError: `LATHE_BACKEND` names an operation or a form that does not exist.
    """
    found = _chosen.get((operation, device))
    if found is not None:
        return found
    if device.type == "cuda" and device.index is None and torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())
    with _deciding:
        if (operation, device) not in _chosen:
            _chosen[operation, device] = _decide(operation, device)
        return _chosen[operation, device]


def forget() -> None:
    """Decides anew at the next use: for tests, and after `LATHE_BACKEND` changed."""
    with _deciding:
        _chosen.clear()


def _decide(operation: Operation, device: torch.device) -> ModuleType:
    only, without = _wishes(operation, os.environ.get("LATHE_BACKEND", ""))
    order = operation.on(device)
    if only is not None and only not in order:
        log.warning(
            "LATHE_BACKEND asks for %s:%s, which is not meant for %s. There the usual order counts: %s.",
            operation.name, only, device.type, ", ".join(order),
        )  # fmt: skip
        only = None
    passed_over: dict[str, str] = {}
    failed: list[str] = []
    chosen, remark = ORACLE, ""
    for form in order if only is None else (only,):
        if form == ORACLE:
            break
        reason: str | None = "left out by LATHE_BACKEND" if only is None and form in without else _missing(form)
        if reason is None:
            reason, remark = _verdict(operation, form, device)
            if reason is None:
                chosen = form
                break
            failed.append(form)
        passed_over[form] = reason + remark
        remark = ""
    asked = "" if only is None else " (LATHE_BACKEND)"
    log.info("%s on %s: %s%s%s", operation.name, device, chosen, asked, "".join((remark, *_listed(passed_over))))
    if (failed and device.type == "cuda") or (only is not None and passed_over):
        _warn(operation, device, chosen, passed_over, [_remedy(form) for form in failed])
    elif only is None and device.type == "cuda" and chosen in ON_THE_CPU and operation.advice:
        _warn(operation, device, chosen, passed_over, [])
    return operation.module(chosen)


def _listed(passed_over: Mapping[str, str]) -> list[str]:
    return [f"; {form}: {reason}" for form, reason in passed_over.items()]


def _warn(operation: Operation, device: torch.device, chosen: str, passed_over: Mapping[str, str], remedies: list[str]) -> None:
    kernels_left = chosen not in ON_THE_CPU or device.type != "cuda"
    used = {"numba": "numba on the CPU", ORACLE: "plain PyTorch"}.get(chosen, chosen)
    reasons = "".join(_listed(passed_over)).removeprefix("; ")
    words = [f"{operation.name} on {device}: {used} is used ({reasons}).", *remedies]
    if operation.advice and not kernels_left:
        words.append(operation.advice)
    log.warning("%s", " ".join(words))


def _remedy(form: str) -> str:
    if form in LIBRARIES:
        return f"{LIBRARIES[form]} is installed but does not work here: update it, or leave it out with LATHE_BACKEND=-{form}."
    return f"Lathe's own kernels do not work here: update the driver and PyTorch, or leave them out with LATHE_BACKEND=-{form}."


def _missing(form: str) -> str | None:
    """Why a form cannot be on this machine, found without importing anything."""
    if form == "cuda" and torch.version.hip is not None:
        return "for NVIDIA cards only"
    library = LIBRARIES.get(form)
    try:
        found = library is None or importlib.util.find_spec(library) is not None
    except ValueError:  # imported already, by other means than a file
        found = True
    return None if found else f"{library} is not installed"


def _verdict(operation: Operation, form: str, device: torch.device) -> tuple[str | None, str]:
    """What is wrong with a form, None where nothing is, and a remark for the log."""
    remark = ""
    try:
        if device.type == "cuda" and form not in ON_THE_CPU:
            root, room, name = operation.package.rsplit(".", 2)
            folder = Path(importlib.import_module(root).__path__[0])
            try:
                wrong = prove_in_child(folder, f"{room}.{name}", form, str(device), PROOF_SECONDS.get(form, BUILD_SECONDS))
                if wrong is None:
                    operation.module(form)
                return wrong, ""
            except NoVerdict as reason:
                remark = f" (tested in this process: {reason})"
        proof = importlib.import_module(f"{operation.package}.proof")
        with torch.inference_mode(False), torch.enable_grad():
            proof.prove(operation.module(form), device)
    except Exception as error:  # a broken installation may raise anything, and the oracle always works
        return in_words(error), remark
    return None, remark


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
