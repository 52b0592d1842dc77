"""Which self-attention, and which positional scale, the weights of a GeoLRM expect: decided by what they do.

The published code computes two different things under one set of parameter names (`nets.geo_transformer`), and nothing in a file says for
which of them it was trained. So each network is run in every form on views of an object whose outlines are known: the proposal network's
cells should lie within the outlines, fill them, and hang together; the reconstruction network's splats should look like the views.

A form is named only where it does clearly better than the other. Small networks can come to make little use of self-attention, and then
their form matters to nobody and cannot be told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...data.progress import Tick, no_tick, part_of
from ...nets.attention import Attention, torch_attention
from ...rendering.splats import render_splats
from .attention_memory import CANDIDATES, LEADS, Verdict, describe_form
from .calibration import VIEWS, calibration_views, hull_shell
from .occupancy_score import OccupancyScore, occupancy_score
from .stages import GeoLRM, NetworkForm, NotFinite, propose, reconstruct
from .views import grid_extents, on_grid

TOKENS = 4096  # the published network was trained with so many; what the heads form computes depends on their number
LEAST_RENDER = 40  # pixels
DECIDED_SCORE, DECIDED_DECIBELS = 0.3, 2.0  # what the best must reach to count: over 0, and over a picture of the background
LEAD_ON_HULL = 2.0  # decibels: there wrong forms were seen 1 dB ahead, for no network was trained on cells of the hull
OVERFLOWN = "numbers that are not finite"


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
