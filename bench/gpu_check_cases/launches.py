"""Launches watched from outside: which kernels ran, and how long each took."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from cuda_emulator import kernels_of
from torch import Tensor

from ... import pipelines
from ...pipelines.ops.cuda.driver import Program
from ...pipelines.ops.splat_raster import cuda_form, cuda_lists
from ..speed_cases import splats
from .findings import Finding, judged, not_measured
from .pictures import drawn
from .place import Place, patched

WATCHDOG_SECONDS = 2.0
"""After this Windows resets a card that also draws the screen."""
SPREAD_OPACITY, PILED_OPACITY = 0.02, 0.0045
"""So faint that hundreds, or thousands, lie before each other until no light is left. Drawn is what is above 1/255."""
DISTANCE, FOV = 4.0, 30.0
"""Of the camera of `speed_cases.splats.scene`, degrees."""


@dataclass
class Watched:
    """Launches so far: kernels in their order, each with a function that gives its seconds once the device has finished."""

    launches: list[tuple[str, Callable[[], float]]] = field(default_factory=list)

    def longest(self) -> dict[str, float]:
        """Seconds of the longest launch of each kernel, longest first."""
        most: dict[str, float] = {}
        for kernel, seconds in self.launches:
            most[kernel] = max(most.get(kernel, 0.0), seconds())
        return dict(sorted(most.items(), key=lambda item: -item[1]))


@contextmanager
def watched(place: Place) -> Iterator[Watched]:
    """Notes every launch meanwhile."""
    seen, launch = Watched(), Program.launch

    def timed(self: Program, kernel: str, blocks: int, threads: int, arguments: Sequence[Any]) -> None:
        if place.emulated:
            start = time.perf_counter()
            launch(self, kernel, blocks, threads, arguments)
            taken = time.perf_counter() - start
            seen.launches.append((kernel, lambda: taken))
            return
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        launch(self, kernel, blocks, threads, arguments)
        after.record()
        seen.launches.append((kernel, lambda: before.elapsed_time(after) / 1000))

    with patched(Program, "launch", timed):
        yield seen
    place.wait()


def shipped_kernels() -> list[str]:
    """The kernels of every `.cu` file below pipelines."""
    files = sorted(Path(pipelines.__path__[0]).rglob("*.cu"))
    return [name for file in files for name in kernels_of(file.read_text(encoding="utf-8"))]


def small_scenes(device: str) -> None:
    """Little work through every kernel: several cameras, one pixel, bands of several launches, many features, a full batch."""
    drawn(*splats.scene(400, 45, 2, device))
    drawn(*splats.scene(40, 1, 1, device))
    bands = patched(cuda_lists, "_band_pairs", lambda pairs, *_: max(max(pairs), sum(pairs) // 3))
    with bands, patched(cuda_lists, "BAND_PAIRS", 100):
        drawn(*splats.scene(120, 40, 2, device))
    leaves, rest, target = splats.scene(60, 33, 1, device)
    wide = torch.rand(60, 20, generator=torch.Generator().manual_seed(1)).to(device).requires_grad_()
    target = torch.cat([target[..., :1].expand(-1, -1, -1, 20), target[..., 3:]], dim=-1)
    drawn([*leaves[:4], wide], {**rest, "background": None}, target)


def every_kernel(place: Place) -> Iterator[Finding]:
    """What the sanitizer sees is every kernel that ships."""
    with watched(place) as seen:
        small_scenes(str(place.device))
    ran, shipped = {kernel for kernel, _ in seen.launches}, shipped_kernels()
    name, words = "every kernel runs on the small scenes", f"{len(seen.launches)} launches of {len(ran)} kernels"
    if not shipped:
        yield not_measured(name, f"{words}; no kernel that ships was found")
        return
    missing = sorted(set(shipped) - ran)
    yield judged(not missing, name, f"{words}, {len(shipped)} ship" + (f", never {', '.join(missing)}" if missing else ""))


@contextmanager
def remembered_lists() -> Iterator[list[cuda_lists.TileLists]]:
    """The tile lists of every picture drawn meanwhile."""
    made: list[cuda_lists.TileLists] = []
    tile_lists = cuda_form.tile_lists

    def remembered(*arguments: Any) -> cuda_lists.TileLists:
        made.append(tile_lists(*arguments))
        return made[-1]

    with patched(cuda_form, "tile_lists", remembered):
        yield made


def _worst(kind: str, n: int, size: int, half: float, device: str) -> tuple[list[Tensor], dict[str, Any], Tensor]:
    """Gaussians too faint to use up the light, so that every pixel works through its whole list.

    Args:
        kind: "spread": balls all over the picture. "piled": needles that all lie in the middle, most of them beside any pixel of their
            tiles. "in one row": such needles along a picture of a single row of tiles.
        size: pixels along the edges, of "in one row" from left to right.
        half: pixels from the centre of one to where its alpha falls to 1/255.
    """
    leaves, rest, target = splats.scene(n, size, 1, device)
    opacity = SPREAD_OPACITY if kind == "spread" else PILED_OPACITY
    sigma = half / math.sqrt(2 * math.log(255 * opacity))  # pixels
    with torch.no_grad():
        leaves[2].fill_(sigma * DISTANCE / (size / 2 / math.tan(math.radians(FOV / 2))))
        leaves[3].fill_(opacity)
        if kind != "spread":
            leaves[2][:, 1:].mul_(0.01)
        if kind == "piled":
            leaves[0].mul_(0.05)
        if kind == "in one row":
            right = rest["viewmats"][0, 0, :3].to(leaves[0])
            leaves[0].copy_((leaves[0] @ right)[:, None] * right)
            rest["height"], target = cuda_lists.TILE, target[:, : cuda_lists.TILE]
            rest["Ks"][:, 1, 2] = cuda_lists.TILE / 2
    return leaves, rest, target


def launch_length(place: Place) -> Iterator[Finding]:
    """The longest launch where a band holds nearly as many pairs as it may, and where a single row of tiles holds more than that."""
    size, most, half = place.either((1024, cuda_lists.BAND_PAIRS, 32.0), (64, 3000, 12.0))
    for kind, width, share in (("spread", size, 0.9), ("piled", size, 0.9), ("in one row", 4 * size, 2.2)):
        name, few = f"longest launch, Gaussians {kind}", most // 200
        with remembered_lists() as made, patched(cuda_lists, "UNASKED_BYTES", 0), patched(cuda_lists, "BAND_PAIRS", most):
            drawn(*_worst(kind, few, width, half, str(place.device)))  # compiles, too, and says how many pairs a Gaussian makes
            n = round(share * most * few / sum(len(band.owners) for band in made[0].bands))
            with watched(place) as seen:
                drawn(*_worst(kind, n, width, half, str(place.device)))
        pairs = max(len(band.owners) for band in made[-1].bands)
        each = [sum(kernel == of for of, _ in seen.launches) for kernel in ("blend", "blend_back")]
        words = f"{pairs:,} pairs in a band"
        if kind == "in one row":
            words = f"{pairs:,} pairs in a row, {most:,} in a launch"
            cut = len(made[-1].bands) == 1 and pairs > 2 * most and min(each) >= 3
            yield judged(cut, "a row of too many pairs is cut", f"{words}: launches {each[0]} forward and {each[1]} backward")
        if place.emulated:
            yield not_measured(name, f"only a GPU has its time; the path ran with {words}")
            continue
        longest = seen.longest()
        seconds = max(longest.values())
        listed = ", ".join(f"{kernel} {1000 * taken:.1f} ms" for kernel, taken in list(longest.items())[:4])
        good = seconds < WATCHDOG_SECONDS and pairs > most / 2
        yield judged(good, name, f"{words}: {listed}", seconds=seconds, pairs=pairs)
