"""Which self-attention, and which positional scale, the weights of a GeoLRM expect: decided by what they do.

The published code computes two different things under one set of parameter names (`nets.geo_transformer`), and nothing in a file says for
which of them it was trained. So each network is run in every form on views of an object whose outlines are known: the proposal network's
cells should lie within the outlines, fill them, and hang together; the reconstruction network's splats should look like the views.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .cameras import posed_cameras
from .data.cameras import Cameras
from .data.progress import Tick, no_tick, part_of
from .files import write_files
from .geolrm import GeoLRM, NetworkForm, NotFinite, propose, reconstruct
from .geolrm_views import grid_extents
from .nets.attention import Attention, torch_attention
from .ops.visual_hull import cell_centres, hull_volume, sample_views
from .rendering import render_splats

SHEET = Path(__file__).parent / "data" / "geolrm_calibration.webp"
TILE, COLUMNS, VIEWS = 448, 4, 8
CANDIDATES = (NetworkForm("tokens", 0.5), NetworkForm("tokens", 1.0), NetworkForm("heads", 0.5))
OCCUPIED = 0.5
LIKELY_SHARE = 1e-4  # of the cells; a proposal of less is nothing
TOKENS = 2048
LEAST_RENDER = 40  # pixels
CLEAR_SCORE, CLEAR_DECIBELS = 0.02, 0.25  # a later candidate must be better than an earlier one by this
DECIDED_SCORE, DECIDED_DECIBELS = 0.3, 2.0  # what the best must reach to count: over 0, and over a picture of the background
OVERFLOWN = "numbers that are not finite"
MEMORY_VERSION = 1


@dataclass(frozen=True)
class Verdict:
    """What was found for one network.

    Attributes:
        chosen: the form to run it in.
        decided: whether some form made sense of the views; otherwise `chosen` is the paper's.
        why: for people.
    """

    chosen: NetworkForm
    decided: bool
    why: str


@dataclass(frozen=True)
class Calibration:
    """Views of an object: images (V, 3, S, S) on black where the mask is 0, masks (V, 1, S, S), cameras."""

    images: Tensor
    masks: Tensor
    cameras: Cameras


def calibration_cameras() -> Cameras:
    """The poses of the bundled views: all around, in turn from above and from below."""
    return posed_cameras([45.0 * i for i in range(VIEWS)], [(20.0, -10.0)[i % 2] for i in range(VIEWS)], 4.0, 30.0)


def calibration_views() -> Calibration:
    """The bundled views."""
    import numpy as np
    from PIL import Image

    with Image.open(SHEET) as picture:
        sheet = torch.from_numpy(np.asarray(picture.convert("RGBA")).copy()).permute(2, 0, 1).float() / 255
    tiles = sheet.unfold(1, TILE, TILE).unfold(2, TILE, TILE).permute(1, 2, 0, 3, 4).flatten(0, 1)
    masks = tiles[:, 3:]
    return Calibration(tiles[:, :3] * masks, masks.contiguous(), calibration_cameras())


def choose_proposal(
    model: GeoLRM,
    *,
    candidates: Sequence[NetworkForm] = CANDIDATES,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    attention: Attention = torch_attention,
    free_memory: int = 1 << 31,
    tick: Tick = no_tick,
) -> Verdict:
    """The form in which the proposal network gives the most compact, connected occupancy of the calibration object."""
    views = calibration_views()
    scores, words = [], []
    for index, candidate in enumerate(candidates):
        try:
            grid = propose(
                replace(model, propose_as=candidate), views.images, views.masks, views.cameras, device=device, dtype=dtype,
                attention=attention, free_memory=free_memory, tick=part_of(tick, index, len(candidates)),
            )[0]  # fmt: skip
        except NotFinite:
            scores.append(0.0)
            words.append(f"{describe_form(candidate)}: {OVERFLOWN}")
            continue
        found = occupancy_score(grid, grid_extents(len(grid), views.cameras, 1)[0], views.masks, views.cameras)
        scores.append(found.score)
        words.append(f"{describe_form(candidate)}: {found}")
    best = _first_clearly_best(scores, CLEAR_SCORE)
    decided = scores[best] >= DECIDED_SCORE
    return _verdict("proposal", candidates, best, decided, words, "no form gives an occupancy that fits the views' outlines")


def choose_reconstruction(
    model: GeoLRM,
    *,
    candidates: Sequence[NetworkForm] = CANDIDATES,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    attention: Attention = torch_attention,
    free_memory: int = 1 << 31,
    tick: Tick = no_tick,
) -> Verdict:
    """The form in which the reconstruction network's splats look most like the calibration views, from tokens on their visual hull.

    Pictures are drawn at about a pixel a cell: in finer ones the gaps between Gaussians count for more than where these are. Where the
    forms hardly differ the paper's is taken.
    """
    if model.reconstruction is None:
        raise ValueError(f"{model.name} holds no reconstruction network.")
    views = calibration_views()
    grid = model.reconstruction.config.grid
    shell, size = hull_shell(views, grid, grid_extents(grid, views.cameras, 1)[0]), max(grid, LEAST_RENDER)
    background = torch.tensor(model.background)[:, None, None]
    truth = F.interpolate(views.images + background * (1 - views.masks), (size, size), mode="area")
    nothing = _psnr(background.expand_as(truth), truth)
    scores, words = [], []
    for index, candidate in enumerate(candidates):
        try:
            (splats,) = reconstruct(
                replace(model, reconstruct_as=candidate), shell[None], views.images, views.masks, views.cameras, tokens=TOKENS,
                device=device, dtype=dtype, attention=attention, free_memory=free_memory, tick=part_of(tick, index, len(candidates)),
            )  # fmt: skip
        except NotFinite:
            scores.append(-math.inf)
            words.append(f"{describe_form(candidate)}: {OVERFLOWN}")
            continue
        made = render_splats(splats, views.cameras, size, size, background=model.background)
        scores.append(_psnr(made.images, truth))
        words.append(f"{describe_form(candidate)}: {scores[-1]:.2f} dB")
    best = _first_clearly_best(scores, CLEAR_DECIBELS)
    decided = scores[best] >= nothing + DECIDED_DECIBELS
    words.append(f"an empty picture: {nothing:.2f} dB")
    return _verdict("reconstruction", candidates, best, decided, words, "no form gives splats that look like the views")


@dataclass(frozen=True)
class OccupancyScore:
    """How well cells fit posed outlines.

    Attributes:
        share: of all cells, how many are occupied.
        inside: of the occupied ones, how many lie within all outlines.
        covered: of the outlines' pixels, how many have an occupied cell before or behind them.
        connected: of the occupied ones, how many belong to the largest piece.
    """

    share: float
    inside: float
    covered: float
    connected: float

    @property
    def score(self) -> float:
        """0 to 1: the harmonic mean of inside and covered, times connected."""
        if self.share < LIKELY_SHARE:
            return 0.0
        return 2 * self.inside * self.covered / max(self.inside + self.covered, 1e-9) * self.connected

    def __str__(self) -> str:
        return (
            f"{self.score:.3f} ({100 * self.share:.1f} % of the cells; {100 * self.inside:.0f} % of them within the outlines, which they "
            f"cover to {100 * self.covered:.0f} %; {100 * self.connected:.0f} % in one piece)"
        )


def occupancy_score(occupancy: Tensor, extent: float, masks: Tensor, cameras: Cameras, threshold: float = OCCUPIED) -> OccupancyScore:
    """How well an occupancy (Z, Y, X), whose cells tile [-extent, extent]^3, fits the outlines in masks (V, 1, H, W)."""
    from skimage.measure import label

    grid = len(occupancy)
    occupied = occupancy > threshold
    share = float(occupied.float().mean())
    if share == 0:
        return OccupancyScore(0.0, 0.0, 0.0, 0.0)
    points = cell_centres(grid, extent)[occupied]
    # an outline as coarse as the cells, so that a cell on the rim is neither in nor out by chance
    rough = F.interpolate(masks, (grid, grid), mode="area")
    wide = F.max_pool2d(rough, 3, 1, 1)
    inside = float((sample_views(points, wide, cameras.c2w, cameras.K)[..., 0] > 0.5).all(0).float().mean())
    drawn = torch.stack([_drawn(points, cameras.select([view]), grid) for view in range(cameras.n_views)])
    outline = rough[:, 0] > 0.5
    covered = float((drawn & outline).sum() / outline.sum().clamp_min(1))
    pieces = torch.from_numpy(label(occupied.numpy(), connectivity=3)).flatten()
    largest = int(torch.bincount(pieces[pieces > 0]).max())
    return OccupancyScore(share, inside, covered, largest / int(occupied.sum()))


def _drawn(points: Tensor, camera: Cameras, size: int) -> Tensor:
    """(size, size) bool: pixels near which a point projects."""
    from .ops.camera_math import project

    uv, depth = project(points, camera.c2w, camera.K)
    place = (uv[0] * size).long()
    place = place[((place >= 0) & (place < size)).all(-1) & (depth[0] > 0)]
    picture = torch.zeros(size, size)
    picture[place[:, 1], place[:, 0]] = 1
    return F.max_pool2d(picture[None, None], 3, 1, 1)[0, 0] > 0


def hull_shell(views: Calibration, grid: int, extent: float) -> Tensor:
    """(grid, grid, grid): 1 where the surface of the views' visual hull is."""
    hull = (hull_volume(views.images, views.masks, views.cameras, grid, bound=extent)[0] > 0.5).float()
    core = 1 - F.max_pool3d(1 - F.pad(hull, (1,) * 6)[None, None], 3, 1)[0, 0]
    return hull * (1 - core)


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
        for part, value in found.items() if isinstance(found, dict) else ():
            try:
                verdicts[part] = Verdict(NetworkForm(**value["chosen"]), bool(value["decided"]), str(value["why"]))
            except (KeyError, TypeError):
                continue
        return {part: verdict for part, verdict in verdicts.items() if verdict.chosen in CANDIDATES}

    def keep(self, digest: str, verdicts: dict[str, Verdict]) -> None:
        """Remembers the verdicts that were decided."""
        files = self._read()
        files[digest] = {**files.get(digest, {}), **{part: asdict(verdict) for part, verdict in verdicts.items() if verdict.decided}}
        content = json.dumps({"version": MEMORY_VERSION, "files": files}, indent=1).encode()
        try:
            write_files(self.path.parent, {self.path.name: content})
        except ValueError:
            return

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            files = content["files"] if content["version"] == MEMORY_VERSION else {}
            return files if isinstance(files, dict) else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}


def _verdict(part: str, candidates: Sequence[NetworkForm], best: int, decided: bool, words: list[str], failed: str) -> Verdict:
    found = "; ".join(words)
    if not decided:
        return Verdict(CANDIDATES[0], False, f"{part}: {describe_form(CANDIDATES[0])}, the paper's, for {failed} ({found})")
    return Verdict(candidates[best], True, f"{part}: {describe_form(candidates[best])} ({found})")


def _first_clearly_best(scores: Sequence[float], margin: float) -> int:
    """The first score that no other exceeds by more than a margin."""
    return next(i for i, score in enumerate(scores) if score >= max(scores) - margin)


def _psnr(picture: Tensor, truth: Tensor) -> float:
    return -10 * math.log10(max(float((picture - truth).square().mean()), 1e-10))
