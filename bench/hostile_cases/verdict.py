"""Judges what became of a case: right, clear, raw, hang or silent."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .inputs import Case
from .server import Outcome

VERDICTS = ("right", "clear", "raw", "hang", "silent")
BAD = ("raw", "hang", "silent")
SOON = 3.0  # seconds of the processor in which a run ends after Cancel; a case that may take long is right when it does
PACK = re.compile(r"custom_nodes[/\\]lathe[./\\]")
WORDS_OF_LIBRARIES = re.compile(
    r"CUDA error|size mismatch|shape '.*' is invalid|Expected .* but got|expected scalar type|must match the size|can't allocate memory|"
    r"has no attribute|object is not|unsupported operand|index .* out of (range|bounds)|invalid literal|could not convert|"
    r"not enough values|codec can't|Traceback|enforce fail|mat1 and mat2|cannot be broadcast|must be real number|embedded null|"
    r"surrogates not allowed"
)
QUOTED = re.compile(r"\(\w+Error: .*\)", re.DOTALL)  # what a sentence of the pack quotes; it may do so after a colon, too


@dataclass(frozen=True)
class Verdict:
    """`what` is one of VERDICTS, `why` a line for people."""

    what: str
    why: str


def clear(outcome: Outcome) -> str:
    """Why an error is not clear; empty where it is.

    Clear is a ValueError or RuntimeError (or a class of the pack derived from one) that the pack itself raised, with a sentence of its own.
    """
    kind = outcome.kind.rpartition(".")[2]
    of_pack = PACK.search(outcome.kind)
    if kind not in ("ValueError", "RuntimeError") and not of_pack:
        return f"a {outcome.kind}"
    frames = [line for line in outcome.trace if line.lstrip().startswith("File")]
    if frames and not PACK.search(frames[-1]):
        return f"a {kind} that {frames[-1].strip().splitlines()[0]} raised"
    message = outcome.message.strip()
    own, _, quoted = QUOTED.sub("", message).partition(": ")
    found = WORDS_OF_LIBRARIES.search(own if len(own.split()) >= 4 else f"{own}: {quoted}")
    if found:
        return f"words of a library: {found.group()!r}"
    if len(message.split()) < 4 or not re.search(r"[.?!)]$", message):
        return "no sentence"
    return ""


def core_refused(outcome: Outcome) -> str:
    """Why a refusal by core's own check of a prompt is none; empty where it is one."""
    return "core failed while it checked the prompt" if "exception_during" in outcome.message else ""


def bad_files(files: list[Path], base: Path) -> list[str]:
    """What is wrong with the files a run wrote."""
    faults = []
    for path in files:
        if not path.resolve().is_relative_to((base / "output").resolve()):
            faults.append(f"{path} lies outside the output folder")
        elif not path.is_file() or not path.stat().st_size:
            faults.append(f"{path.name} is empty")
        elif path.suffix in (".glb", ".obj"):
            faults += _bad_mesh(path)
        elif path.suffix == ".json":
            faults += _bad_json(path)
    return faults


def _bad_json(path: Path) -> list[str]:
    def refuse(word: str) -> None:
        raise ValueError(word)

    try:
        json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except ValueError as error:
        return [f"{path.name} is no JSON: {error}"]
    return []


def _bad_mesh(path: Path) -> list[str]:
    import numpy as np
    import trimesh

    try:
        scene = trimesh.load(path, process=False)
    except Exception as error:  # whatever a reader of another project says
        return [f"{path.name} cannot be read back: {type(error).__name__}: {error}"]
    parts = list(getattr(scene, "geometry", {"": scene}).values())
    numbers = [np.asarray(part.vertices) for part in parts]
    faces = sum(len(getattr(part, "faces", ())) for part in parts)
    if not faces:
        return [f"{path.name} holds no faces"]
    largest = max(float(np.abs(n).max()) for n in numbers)
    return [] if math.isfinite(largest) and largest < 1e18 else [f"{path.name} has vertices at {largest:g}"]


def judge(case: Case, outcome: Outcome, base: Path) -> Verdict:
    """What became of a case."""
    if outcome.status in ("stuck", "died"):
        return Verdict("hang", f"the server {'did not end after Cancel' if outcome.status == 'stuck' else 'died'}: {outcome.message[:200]}")
    if outcome.status == "cancelled":
        if not case.slow:
            return Verdict("hang", f"longer than the limit, {outcome.seconds:.0f} s")
        late = outcome.after_cancel > SOON
        return Verdict("hang" if late else "right", f"ended {outcome.after_cancel:.1f} s after Cancel")
    if outcome.status == "success":
        return _of_success(case, outcome, base)
    why = core_refused(outcome) if outcome.status == "refused" else clear(outcome)
    if not why and "refuse" not in case.row:
        why = f"refused, though {' or '.join(sorted(case.row))} is right"
    return Verdict("raw", f"{why}: {outcome.message[:300]}") if why else Verdict("clear", outcome.message[:300])


def _of_success(case: Case, outcome: Outcome, base: Path) -> Verdict:
    told: dict[str, Any] = outcome.report or {"faults": ["no report"], "warnings": []}
    absent = case.id.endswith("/nothing")  # what is handed on is nothing, too
    faults = [*(fault for fault in told["faults"] if not (absent and fault.endswith("is nothing"))), *bad_files(outcome.files, base)]
    if faults:
        return Verdict("silent", "; ".join(faults[:4]))
    if "value" in case.row or ("warn" in case.row and told["warnings"]):
        return Verdict("right", "; ".join(told["warnings"])[:300])
    return Verdict("silent", f"a success without a warning, though {' or '.join(sorted(case.row))} is right")
