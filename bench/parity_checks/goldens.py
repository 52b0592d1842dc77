"""Golden files, the deterministic weights they were made with, and how an output is compared with one.

A golden is an `.npz` of inputs and outputs of a published module run with deterministic weights (`tests/data/seeded_weights.py`). Small
ones lie in `tests/data/goldens`; all of them, the full-size ones too, where the environment variable LATHE_REFERENCE points.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

DATA = Path(__file__).resolve().parents[2] / "tests" / "data"
Outputs = Iterator[tuple[str, Any]]


@lru_cache(maxsize=1)
def seeded() -> ModuleType:
    """The module that makes the deterministic weights and inputs."""
    spec = importlib.util.spec_from_file_location("seeded_weights", DATA / "seeded_weights.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def reference_folder() -> Path | None:
    """Where LATHE_REFERENCE points, or None."""
    folder = os.environ.get("LATHE_REFERENCE")
    return Path(folder) if folder else None


def find_golden(name: str) -> Path | None:
    """The file of golden `name`: the reference's whole one, else the bundled one; None where neither is there."""
    folders = [DATA / "goldens"]
    reference = reference_folder()
    if reference is not None:
        folders.insert(0, reference / "goldens")
    for folder in folders:
        if (path := folder / f"{name}.npz").is_file():
            return path
    return None


def find_manifest(name: str) -> dict[str, Any]:
    """Names, shapes and configs of a published state dict."""
    return json.loads((DATA / "manifests" / f"{name}.json").read_text(encoding="utf-8"))


def load_golden(name: str) -> dict[str, np.ndarray] | None:
    """All arrays of a golden, or None where it is missing."""
    path = find_golden(name)
    if path is None:
        return None
    with np.load(path, allow_pickle=False) as data:
        return {key: data[key] for key in data.files}


def seed_module(module: nn.Module, rename: Callable[[str], str] = str) -> nn.Module:
    """Fills a module with the deterministic weights, an entry at a time; `rename` gives each its published name."""
    for name, tensor in module.state_dict(keep_vars=True).items():
        if torch.is_floating_point(tensor):
            with torch.no_grad():
                tensor.copy_(torch.from_numpy(seeded().seeded_array(rename(name), tensor.shape)))
    return module.eval().requires_grad_(False)


@dataclass(frozen=True)
class Rule:
    """How close is close enough; from a section's Tolerance line.

    Attributes:
        how: "close" (|d| <= atol + rtol |golden|, error is max |d|), "equal" (error is the share that differs), "levels" (whole
            numbers, error is the largest difference, at most `atol`), "triangles" (equal as a set; at most a share of `atol` may
            differ), "points" (near each golden point lies one of ours; another library may put more).
        atol, rtol: the tolerance.
    """

    how: str = "close"
    atol: float = 0.0
    rtol: float = 0.0


@dataclass(frozen=True)
class Result:
    """One golden's comparison. `error` is None where there was nothing to compare; `why` then says what is missing.

    `used` is the share of the tolerance that the worst number uses up: above 1 it failed.
    """

    name: str
    passed: bool
    error: float | None
    rule: Rule
    why: str = ""
    used: float = 0.0


def compare(name: str, got: Any, golden: np.ndarray, rule: Rule) -> Result:
    """Compares one output with its golden."""
    ours = got.detach().cpu().numpy() if isinstance(got, Tensor) else np.asarray(got)
    if rule.how == "triangles" and ours.ndim == 2 and ours.shape[1] == 3:
        ours, golden = _sorted_triangles(ours), _sorted_triangles(golden)
    if rule.how == "points":
        from scipy.spatial import cKDTree

        error = float(cKDTree(ours).query(golden)[0].max())
        return Result(name, error <= rule.atol, error, rule, used=error / rule.atol)
    if ours.shape != golden.shape:
        return Result(name, False, None, rule, f"shape {ours.shape}, expected {golden.shape}")
    if ours.size == 0:
        return Result(name, True, 0.0, rule)
    if rule.how in ("equal", "triangles"):
        share = float((ours != golden).mean())
        return Result(name, share <= rule.atol, share, rule, used=float(share > rule.atol))
    ours, golden = ours.astype(np.float64), golden.astype(np.float64)
    difference = np.abs(ours - golden)
    used = float((difference / (rule.atol + rule.rtol * np.abs(golden))).max())
    return Result(name, used <= 1, float(difference.max()), rule, used=used)


def _sorted_triangles(faces: np.ndarray) -> np.ndarray:
    """Each triangle from its smallest index on (winding kept), in ascending order."""
    rows = np.arange(len(faces))[:, None]
    faces = faces[rows, (faces.argmin(1)[:, None] + np.arange(3)) % 3]
    return faces[np.lexsort(faces.T[::-1])]


def check_group(group: Mapping[str, Any], outputs: Callable[[str, dict[str, np.ndarray]], Outputs]) -> list[Result]:
    """Runs one golden of the list.

    Args:
        group: an entry of parity_list.json: `golden`, and `names` with the rule of each.
        outputs: gives our outputs under the golden's names; those it does not reach count as failed.
    """
    rules = {name: Rule(**rule) for name, rule in group["names"].items()}
    golden = load_golden(group["golden"])
    results: dict[str, Result] = {}
    why = ""
    if golden is None:
        why = f"golden {group['golden']}.npz is missing: set LATHE_REFERENCE to the folder of the references"
    else:
        try:
            for name, got in outputs(group["golden"], golden):
                if name in rules and name in golden:
                    results[name] = compare(f"{group['golden']}/{name}", got, golden[name], rules[name])
        except Exception as error:  # one system that breaks must not hide the others' figures
            why = f"{type(error).__name__}: {error}"
    for name, rule in rules.items():
        if name not in results:
            reason = why or ("not in the golden file" if golden is not None and name not in golden else "our code gave no such output")
            results[name] = Result(f"{group['golden']}/{name}", False, None, rule, reason)
    return [results[name] for name in rules]
