"""The loss curve of a fit as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

INK, GRID, PAPER = (40, 40, 40), (222, 222, 222), (255, 255, 255)
COLORS = ((31, 119, 180), (214, 39, 40), (44, 160, 44), (148, 103, 189), (255, 127, 14), (23, 190, 207))
LEFT, RIGHT, TOP, BOTTOM = 70, 150, 40, 48  # margins in pixels
SMOOTHING = 0.02  # share of the steps that one drawn point averages


def loss_curve(losses: Sequence[Mapping[str, float]], width: int = 768, height: int = 448, *, title: str = "Loss") -> Tensor:
    """Draws the terms of a fit's losses over its steps, on a logarithmic scale, each smoothed over a few steps.

    Args:
        losses: one mapping a step; a term may be missing in some steps.

    Returns:
        (3, height, width) in [0, 1].
    """
    from PIL import Image, ImageDraw, ImageFont

    sheet = Image.new("RGB", (width, height), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    lines = {name: _smoothed(losses, name) for name in dict.fromkeys(name for step in losses for name in step)}
    lines = {name: line for name, line in lines.items() if line}
    draw.text((LEFT, 12), title, INK, font=ImageFont.load_default(16))
    if not lines:
        draw.text((LEFT, height // 2), "no steps were made", INK, font=font)
        return _tensor(sheet)
    values = [value for line in lines.values() for _, value in line]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    right, bottom = width - RIGHT, height - BOTTOM

    def place(step: float, value: float) -> tuple[float, float]:
        across = LEFT + (right - LEFT) * step / max(len(losses), 1)
        return across, bottom - (bottom - TOP) * (math.log10(value) - low) / (high - low)

    for power in range(low, high + 1):
        y = place(0, 10.0**power)[1]
        draw.line([(LEFT, y), (right, y)], GRID)
        _label(draw, font, f"{10.0**power:g}", (LEFT - 8, y), "rm")
    for step in _round_steps(len(losses)):
        x = place(step, 1.0)[0]
        draw.line([(x, TOP), (x, bottom)], GRID)
        _label(draw, font, str(step), (x, bottom + 8), "mt")
    draw.rectangle([LEFT, TOP, right, bottom], outline=INK)
    _label(draw, font, "step", ((LEFT + right) / 2, height - 8), "mb")
    for number, (name, line) in enumerate(lines.items()):
        color, y = COLORS[number % len(COLORS)], TOP + 10 + 34 * number
        draw.line([place(step, value) for step, value in line], color, width=2, joint="curve")
        draw.line([(right + 12, y), (right + 32, y)], color, width=3)
        _label(draw, font, name, (right + 38, y), "lm")
        _label(draw, font, f"{line[-1][1]:.3g}", (right + 38, y + 15), "lm")
    return _tensor(sheet)


def _smoothed(losses: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    """Step and mean value of consecutive runs of steps; only numbers above 0 can be drawn."""
    found = [(i + 1, step[name]) for i, step in enumerate(losses) if step.get(name, 0.0) > 0 and math.isfinite(step[name])]
    run = max(round(len(found) * SMOOTHING), 1)
    parts = [found[i : i + run] for i in range(0, len(found), run)]
    return [(sum(s for s, _ in part) / len(part), sum(v for _, v in part) / len(part)) for part in parts]


def _round_steps(count: int) -> list[int]:
    """About five round numbers from 0 to `count`."""
    rough = max(count / 5, 1)
    unit = 10 ** math.floor(math.log10(rough))
    stride = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough)
    return list(range(0, count + 1, stride))


def _label(draw: Any, font: Any, text: str, place: tuple[float, float], anchor: str) -> None:
    draw.text(place, text, INK, font=font, anchor=anchor)


def _tensor(sheet: Any) -> Tensor:
    return torch.frombuffer(bytearray(sheet.tobytes()), dtype=torch.uint8).reshape(sheet.height, sheet.width, 3).permute(2, 0, 1) / 255
