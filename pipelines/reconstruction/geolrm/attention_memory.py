"""What was found out about the self-attention of a GeoLRM file, and the memory of it by the file's hash."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...data.progress import Tick, no_tick
from ...disk.atomic import write_files
from ...disk.json_files import read_json
from .stages import NetworkForm

CANDIDATES = (NetworkForm("tokens", 0.5), NetworkForm("tokens", 1.0), NetworkForm("heads", 0.5))
LEADS = {"proposal": 0.2, "reconstruction": 1.0}  # score and decibels by which a candidate must beat another to count as clearly better
MEMORY_VERSION = 2


@dataclass(frozen=True)
class Verdict:
    """What was found for one network.

    Attributes:
        chosen: the form to run it in.
        decided: whether one form made sense of the views, and clearly more than the other; otherwise `chosen` is the paper's.
        why: for people.
        scores: of the candidates, in their order; -inf where numbers overflowed. Empty where none was run.
    """

    chosen: NetworkForm
    decided: bool
    why: str
    scores: tuple[float, ...] = ()

    @property
    def lasting(self) -> bool:
        """Whether it holds in every precision: all candidates were run, and none overflowed."""
        return len(self.scores) == len(CANDIDATES) and all(math.isfinite(score) for score in self.scores)

    def against(self, part: str, form: NetworkForm) -> bool:
        """Whether it is decided and a candidate scored clearly worse than the chosen one. `part` is proposal or reconstruction."""
        if not self.decided or describe_form(form) == describe_form(self.chosen):
            return False
        scores = dict(zip(map(describe_form, CANDIDATES), self.scores, strict=True))
        return scores[describe_form(self.chosen)] - scores[describe_form(form)] >= LEADS[part]


def not_looked_at(part: str, why: str) -> Verdict:
    """The verdict on a network that could not be run at all."""
    return Verdict(CANDIDATES[0], False, f"{part}: {describe_form(CANDIDATES[0])}, the paper's, for the forms could not be tried: {why}")


def describe_form(form: NetworkForm) -> str:
    """A form in a few words. The per-token form has no positions, and so no scale."""
    return "heads" if form.form == "heads" else f"tokens, scale {form.scale:g}"


def file_hash(path: Path, tick: Tick = no_tick) -> str:
    """SHA-256 of a file."""
    digest, done, size = hashlib.sha256(), 0, max(1, path.stat().st_size)
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
            done += len(block)
            tick(min(done * 100 // size, 99), 100)
    return digest.hexdigest()


class FormMemory:
    """Verdicts by file hash, in one small JSON file. A file that cannot be read counts as empty; one that cannot be written is no error."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def recall(self, digest: str) -> dict[str, Verdict]:
        """Verdicts of a file: `proposal`, `reconstruction`, or neither."""
        found = self._read().get(digest, {})
        verdicts = {}
        for part, value in found.items():
            try:
                scores = tuple(float(score) for score in value["scores"])
                verdicts[part] = Verdict(NetworkForm(**value["chosen"]), bool(value["decided"]), str(value["why"]), scores)
            except (KeyError, TypeError, ValueError, OverflowError):
                continue
        return {part: verdict for part, verdict in verdicts.items() if verdict.chosen in CANDIDATES and verdict.lasting}

    def keep(self, digest: str, verdicts: dict[str, Verdict]) -> None:
        """Remembers the verdicts that last."""
        files = self._read()
        files[digest] = {**files.get(digest, {}), **{part: asdict(verdict) for part, verdict in verdicts.items() if verdict.lasting}}
        content = json.dumps({"version": MEMORY_VERSION, "files": files}, indent=1).encode()
        try:
            write_files(self.path.parent, {self.path.name: content})
        except ValueError:
            return

    def _read(self) -> dict[str, Any]:
        try:
            content = read_json(self.path, "It is made anew.")
            files = content["files"] if content["version"] == MEMORY_VERSION else {}
            return {key: found for key, found in files.items() if isinstance(found, dict)}
        except (ValueError, KeyError, TypeError, AttributeError):
            return {}
