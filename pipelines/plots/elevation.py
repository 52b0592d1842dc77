"""An elevation estimate as a picture: how far the silhouettes miss each other at every elevation, and what was concluded."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..cameras.elevation import HIGHEST, LOWEST, ElevationEstimate

INK, GRID, PAPER = (40, 40, 40), (222, 222, 222), (255, 255, 255)
CURVE, ANSWER, BAND, LEARNED = (31, 119, 180), (214, 39, 40), (250, 219, 219), (44, 160, 44)
LEFT, RIGHT, TOP, BOTTOM = 70, 24, 64, 48  # margins in pixels


def estimate_picture(estimate: ElevationEstimate, width: int = 640, height: int = 400) -> Tensor:
    """Draws the miss over elevations (blue), the estimate with its deviation (red), and the learned estimate (green).

    Returns:
        (3, height, width) in [0, 1].
    """
    from PIL import Image, ImageDraw, ImageFont

    sheet = Image.new("RGB", (width, height), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    title = f"Elevation {estimate.elevation:.1f} \u00b1 {estimate.deviation:.1f} degrees, confidence {estimate.confidence:.2f}"
    draw.text((LEFT, 14), title, INK, font=ImageFont.load_default(16))
    right, bottom = width - RIGHT, height - BOTTOM
    tried = estimate.elevations.tolist()
    low, high = (LOWEST, HIGHEST) if estimate.misses is None else (tried[0], tried[-1])
    misses = [] if estimate.misses is None else (100 * estimate.misses).tolist()
    most = max([*misses, 0.1]) * 1.05

    def across(elevation: float) -> float:
        return LEFT + (right - LEFT) * min(max((elevation - low) / (high - low), 0), 1)

    def down(miss: float) -> float:
        return bottom - (bottom - TOP) * miss / most

    spread = (across(estimate.elevation - estimate.deviation), across(estimate.elevation + estimate.deviation))
    draw.rectangle([spread[0], TOP, spread[1], bottom], fill=BAND)
    for elevation in range(10 * math.ceil(low / 10), math.floor(high) + 1, 10):
        draw.line([(across(elevation), TOP), (across(elevation), bottom)], GRID)
        draw.text((across(elevation), bottom + 6), str(elevation), INK, font=font, anchor="mt")
    for step in range(1, 5):
        value = most * step / 4
        draw.line([(LEFT, down(value)), (right, down(value))], GRID)
        if misses:
            draw.text((LEFT - 8, down(value)), f"{value:.2g}", INK, font=font, anchor="rm")
    draw.text(((LEFT + right) / 2, height - 8), "degrees above the horizon", INK, font=font, anchor="mb")
    if misses:
        draw.text((8, TOP - 26), "miss, % of the picture", INK, font=font)
        draw.line([(across(e), down(m)) for e, m in zip(tried, misses, strict=True)], CURVE, width=2, joint="curve")
    if estimate.learned is not None:
        draw.line([(across(estimate.learned), TOP), (across(estimate.learned), bottom)], LEARNED, width=2)
        draw.text((across(estimate.learned) + 5, TOP + 4), "learned", LEARNED, font=font)
    draw.line([(across(estimate.elevation), TOP), (across(estimate.elevation), bottom)], ANSWER, width=2)
    draw.rectangle([LEFT, TOP, right, bottom], outline=INK)
    pixels = torch.frombuffer(bytearray(sheet.tobytes()), dtype=torch.uint8)
    return pixels.reshape(height, width, 3).permute(2, 0, 1).float() / 255
