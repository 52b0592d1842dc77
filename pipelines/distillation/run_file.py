"""The state of a distillation on disk: an hour of optimisation survives a restart and goes on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.progress import Tick, no_tick
from ..disk.atomic import write_files
from ..disk.tensor_files import ENTRY, read_tensors
from .loop import Distillation

FORMAT, VERSION = "lathe.distillation", 1
MOMENTS = {"step", "exp_avg", "exp_avg_sq"}  # what Adam remembers of a parameter


@dataclass(frozen=True)
class RunState:
    """A distillation between two steps. What `Distillation.state` gave: tensors on the CPU, and what goes into JSON."""

    tensors: dict[str, Tensor]
    about: dict[str, Any]

    @property
    def stage(self) -> str:
        """Which loop it is of, for instance "Distil Field"."""
        return str(self.about.get("stage"))

    @property
    def steps(self) -> int:
        """Steps made so far."""
        return len(self.about.get("losses", []))


def state_of(run: Distillation) -> RunState:
    """The state of a run as it is now; the run may go on."""
    return RunState(*run.state())


def save_run(state: RunState, path: Path | str) -> None:
    """Writes a state as .safetensors, atomically.

    Raises:
        ValueError: no whole run, another suffix, or a folder that cannot be written.
    """
    from safetensors.torch import save

    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        raise ValueError(f"A run state is saved as .safetensors, not as {path.name!r}.")
    wrong = what_is_wrong(state)
    if wrong:
        raise ValueError(f"The run is not whole and is not saved: {wrong}. Make it again.")
    about = {"format": FORMAT, "version": VERSION, **state.about}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    write_files(path.parent, {path.name: save(tensors, metadata={ENTRY: json.dumps(about)})})


def load_run(path: Path | str, *, tick: Tick = no_tick) -> RunState:
    """Reads what `save_run` wrote.

    Raises:
        ValueError: no such file, a damaged one, or one that holds something else or no whole run; names the file.
    """
    path = Path(path)
    tensors, about = read_tensors(path, "a run state", tick=tick)
    if about.get("format") != FORMAT:
        raise ValueError(f"{path.name} holds no run state of a distillation; Save Distillation writes those.")
    if about.get("version") != VERSION:
        raise ValueError(f"{path.name} is a run state of version {about.get('version')!r}; this Lathe reads version {VERSION}.")
    state = RunState(tensors, {key: value for key, value in about.items() if key not in ("format", "version")})
    wrong = what_is_wrong(state)
    if wrong:
        raise ValueError(f"{path.name} holds no whole run state: {wrong}. Save the run again.")
    return state


def what_is_wrong(state: RunState) -> str | None:
    """Why no loop could go on from this, whatever its settings; None where one could."""
    losses = state.about.get("losses")
    if not isinstance(state.about.get("stage"), str):
        return "it does not say of which stage it is"
    if not isinstance(losses, list) or not all(
        isinstance(step, dict) and "total" in step and all(type(value) in (int, float) for value in step.values()) for step in losses
    ):
        return "its losses are not numbers by name, step by step"
    if any(type(state.about.get(name)) is not int or state.about[name] < 0 for name in ("skipped", "size")):
        return "the number of skipped steps or the size of the views is missing"
    try:
        torch.Generator().set_state(state.tensors["generator"])
    except (KeyError, RuntimeError, TypeError):
        return "the state of its random numbers is missing or damaged"
    leaves = {name.removeprefix("parameter."): leaf for name, leaf in state.tensors.items() if name.startswith("parameter.")}
    moments: dict[str, set[str]] = {}
    for name, tensor in state.tensors.items():
        if not name.startswith("adam."):
            continue
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            return f"{name} is not made of finite numbers"
        owner, kind = name.removeprefix("adam.").rpartition(".")[::2]
        moments.setdefault(owner, set()).add(kind)
        if owner not in leaves or tensor.shape != (() if kind == "step" else leaves[owner].shape):
            return f"{name} belongs to no parameter of its shape"
    for name, leaf in leaves.items():
        if not leaf.is_floating_point() or not bool(torch.isfinite(leaf).all()):
            return f"{name} is not made of finite numbers"
        if moments.get(name, MOMENTS) != MOMENTS:
            return f"the optimiser's memory of {name} is not whole"
    return None
