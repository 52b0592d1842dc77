"""Which self-attention, and which positional scale, the weights of a GeoLRM expect: decided by what they do.

The published code computes two different things under one set of parameter names (`nets.geo_transformer`), and nothing in a file says for
which of them it was trained. So each network is run in every form on views of an object whose outlines are known: the proposal network's
cells should lie within the outlines, fill them, and hang together; the reconstruction network's splats should look like the views.

A form is named only where it does clearly better than the other. Small networks can come to make little use of self-attention, and then
their form matters to nobody and cannot be told.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
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
from .geolrm_views import grid_extents, on_grid
from .nets.attention import Attention, torch_attention
from .ops.visual_hull import cell_centres, hull_volume, sample_views
from .rendering import render_splats

SHEET = Path(__file__).parent / "data" / "geolrm_calibration.webp"
TILE, COLUMNS, VIEWS = 448, 4, 8
CANDIDATES = (NetworkForm("tokens", 0.5), NetworkForm("tokens", 1.0), NetworkForm("heads", 0.5))
OCCUPIED = 0.5
LIKELY_SHARE = 1e-4  # of the cells; a proposal of less is nothing
TOKENS = 4096  # the published network was trained with so many; what the heads form computes depends on their number
LEAST_RENDER = 40  # pixels
DECIDED_SCORE, DECIDED_DECIBELS = 0.3, 2.0  # what the best must reach to count: over 0, and over a picture of the background
LEADS = {"proposal": 0.2, "reconstruction": 1.0}  # score and decibels by which a candidate must beat another to count as clearly better
LEAD_ON_HULL = 2.0  # decibels: there wrong forms were seen 1 dB ahead, for no network was trained on cells of the hull
OVERFLOWN = "numbers that are not finite"
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
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    attention: Attention = torch_attention,
    free_memory: int = 1 << 31,
    tick: Tick = no_tick,
) -> Verdict:
    """The form in which the proposal network gives the most compact, connected occupancy of the calibration object."""

    def attempt(candidate: NetworkForm, tick: Tick) -> tuple[float, str]:
        _, found = _proposed(
            replace(model, propose_as=candidate), device=device, dtype=dtype, attention=attention, free_memory=free_memory, tick=tick
        )
        return found.score, str(found)

    scores, words = _try_all(attempt, tick)
    return _verdict("proposal", scores, words, DECIDED_SCORE, LEADS["proposal"], "no form gives an occupancy that fits the views' outlines")


def own_cells(
    model: GeoLRM,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    attention: Attention = torch_attention,
    free_memory: int = 1 << 31,
    tick: Tick = no_tick,
) -> Tensor | None:
    """The cells (Z, Y, X) that the model's proposal network, as it is run, finds in the calibration views; None where senseless."""
    try:
        cells, found = _proposed(model, device=device, dtype=dtype, attention=attention, free_memory=free_memory, tick=tick)
    except NotFinite:
        return None
    return cells if found.score >= DECIDED_SCORE else None


def choose_reconstruction(
    model: GeoLRM,
    cells: Tensor | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    attention: Attention = torch_attention,
    free_memory: int = 1 << 31,
    tick: Tick = no_tick,
) -> Verdict:
    """The form in which the reconstruction network's splats look most like the calibration views, in colour and in outline.

    Pictures are drawn at about a pixel a cell: in finer ones the gaps between Gaussians count for more than where these are.

    Args:
        cells: where the tokens stand, from `own_cells`: such cells the network was trained on. Without, on the views' visual hull.
    """
    if model.reconstruction is None:
        raise ValueError(f"{model.name} holds no reconstruction network.")
    views = calibration_views()
    grid = model.reconstruction.config.grid
    extent, size = grid_extents(grid, views.cameras, 1)[0], max(grid, LEAST_RENDER)
    occupancy = hull_shell(views, grid, extent)[None] if cells is None else on_grid(cells[None], [extent], grid, [extent])
    background = torch.tensor(model.background)[:, None, None]
    truth = F.interpolate(torch.cat([views.images + background * (1 - views.masks), views.masks], 1), (size, size), mode="area")
    nothing = _psnr(torch.cat([background.expand(VIEWS, 3, size, size), torch.zeros(VIEWS, 1, size, size)], 1), truth)

    def attempt(candidate: NetworkForm, tick: Tick) -> tuple[float, str]:
        (splats,) = reconstruct(
            replace(model, reconstruct_as=candidate), occupancy, views.images, views.masks, views.cameras, tokens=TOKENS,
            device=device, dtype=dtype, attention=attention, free_memory=free_memory, tick=tick,
        )  # fmt: skip
        made = render_splats(splats, views.cameras, size, size, background=model.background)
        score = _psnr(torch.cat([made.images, made.masks], 1), truth)
        return score, f"{score:.2f} dB"

    scores, words = _try_all(attempt, tick)
    words[-1] += f"; an empty picture: {nothing:.2f} dB"
    least, clear = nothing + DECIDED_DECIBELS, LEAD_ON_HULL if cells is None else LEADS["reconstruction"]
    return _verdict("reconstruction", scores, words, least, clear, "no form gives splats that look like the views")


def not_looked_at(part: str, why: str) -> Verdict:
    """The verdict on a network that could not be run at all."""
    return Verdict(CANDIDATES[0], False, f"{part}: {describe_form(CANDIDATES[0])}, the paper's, for the forms could not be tried: {why}")


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
                scores = tuple(float(score) for score in value["scores"])
                verdicts[part] = Verdict(NetworkForm(**value["chosen"]), bool(value["decided"]), str(value["why"]), scores)
            except (KeyError, TypeError, ValueError):
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
            content = json.loads(self.path.read_text(encoding="utf-8"))
            files = content["files"] if content["version"] == MEMORY_VERSION else {}
            return files if isinstance(files, dict) else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}


def _proposed(model: GeoLRM, **how: Any) -> tuple[Tensor, OccupancyScore]:
    """Cells (Z, Y, X) that the model proposes for the calibration views, and how well they fit them; `how` as for `propose`."""
    views = calibration_views()
    cells = propose(model, views.images, views.masks, views.cameras, **how)[0]
    return cells, occupancy_score(cells, grid_extents(len(cells), views.cameras, 1)[0], views.masks, views.cameras)


def _try_all(attempt: Callable[[NetworkForm, Tick], tuple[float, str]], tick: Tick) -> tuple[list[float], list[str]]:
    """The candidates' scores, and words for them; numbers that overflow score -inf."""
    tried: list[tuple[float, str]] = []
    for index, candidate in enumerate(CANDIDATES):
        try:
            tried.append(attempt(candidate, part_of(tick, index, len(CANDIDATES))))
        except NotFinite:
            tried.append((-math.inf, OVERFLOWN))
    return [score for score, _ in tried], [words for _, words in tried]


def _verdict(part: str, scores: Sequence[float], words: Sequence[str], least: float, clear: float, failed: str) -> Verdict:
    """From the candidates' scores and words for them. The best must reach `least`, and lead by `clear`."""
    found = "; ".join(f"{describe_form(form)}: {word}" for form, word in zip(CANDIDATES, words, strict=True))
    half, one, heads = scores
    tokens, lead = CANDIDATES[1 if one >= half + clear else 0], max(half, one) - heads

    def says(form: NetworkForm, decided: bool, reason: str = "") -> Verdict:
        return Verdict(form, decided, f"{part}: {describe_form(form)}{reason} ({found})", tuple(scores))

    if max(scores) < least:
        return says(CANDIDATES[0], False, f", the paper's, for {failed}")
    if abs(lead) < clear:
        little = f"{abs(lead):.2f}{' dB' if part == 'reconstruction' else ''}"
        reason = f", the paper's, for tokens and heads differ by only {little}, which does not tell what the weights expect"
        return says(tokens, False, f"{reason}; to try the other, choose heads as {part} form in Load GeoLRM")
    return says(tokens if lead > 0 else CANDIDATES[2], True)


def _psnr(picture: Tensor, truth: Tensor) -> float:
    return -10 * math.log10(max(float((picture - truth).square().mean()), 1e-10))
