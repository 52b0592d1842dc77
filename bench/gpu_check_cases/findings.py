"""What a check is and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .place import Place

PASS, FAIL, NOT_MEASURED, NOTE = "PASS", "FAIL", "NOT MEASURED", "NOTE"
"""A note is a figure without a bar, or a table."""


@dataclass(frozen=True)
class Finding:
    """One line of the report: a verdict, what it is about, the figures for people and those for the JSON line."""

    verdict: str
    name: str
    figures: str
    numbers: dict[str, float] = field(default_factory=dict)

    def line(self) -> str:
        return f"{self.verdict} {self.name}: {self.figures}"


@dataclass(frozen=True)
class Check:
    """A check, run in a worker process.

    Attributes:
        name: for `--only`.
        work: makes the findings, one after the other; an error it raises is a failure.
        seconds: it is not started with less time left.
        limit: seconds after which it has failed.
        surroundings: of its process: "bare" as a user's without a toolkit, "toolkit" with what the machine has and with gsplat,
            "async" as bare with the allocator cudaMallocAsync.
        gpu_only: why only a GPU can say it; empty where the emulator can.
    """

    name: str
    work: Callable[[Place], Iterable[Finding]]
    seconds: float = 5.0
    limit: float = 120.0
    surroundings: str = "bare"
    gpu_only: str = ""


def judged(good: bool, name: str, figures: str, **numbers: float) -> Finding:
    """Passed or failed."""
    return Finding(PASS if good else FAIL, name, figures, numbers)


def not_measured(name: str, reason: str) -> Finding:
    return Finding(NOT_MEASURED, name, reason)


def note(name: str, figures: str, **numbers: float) -> Finding:
    return Finding(NOTE, name, figures, numbers)
