"""Colours of vertices and faces, as mesh files hold them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ..data.material import AlphaMode
from ..ops.color import srgb_to_linear
from .parts import Contents, Look


def linear_colors(colors: np.ndarray, contents: Contents, full: float | None = None) -> np.ndarray:
    """sRGB colours of a file, (N, 3) or (N, 4), as (N, 3) or, where some are transparent, (N, 4) float32, linear.

    `full` is the number that stands for white. Without it 1 is, or, where a number is above 1, 255 or 65535, which is said.
    """
    colors = colors.astype(np.float64)
    finite = np.isfinite(colors).all(1)
    if not finite.all():
        contents.note("some of its colours are not finite and are read as white")
        colors[~finite] = 1
    color, alpha = colors[:, :3], colors[:, 3:]
    if full is None:
        largest = float(color.max(initial=0))
        full = next((top for top in (1.0, 255.0, 65535.0) if largest <= top), largest)
        if full > 1:
            contents.note(f"its colours reach {largest:g}, so they are read as 0 to {full:g}")
            color[~finite] = full
        if full == 1 or alpha.max(initial=0) > 1:  # an alpha from 0 to 1 may stand beside colours from 0 to 255
            alpha = alpha / full
    else:
        color[~finite], alpha[~finite] = full, full
        alpha = alpha / full
    color = color / full
    if min(color.min(initial=0), alpha.min(initial=0)) < 0 or max(color.max(initial=0), alpha.max(initial=0)) > 1:
        contents.note("colours outside their range are clipped to it")
    color, alpha = color.clip(0, 1), alpha.clip(0, 1)
    linear = srgb_to_linear(torch.from_numpy(color.astype(np.float32))).numpy()
    if alpha.size and not alpha.any():
        contents.note("its colours are all fully transparent, which is read as opaque")
    elif (alpha < 1).any():
        linear = np.concatenate([linear, alpha.astype(np.float32)], axis=1)
    return linear


def see_through(look: Look, colors: np.ndarray | None) -> Look:
    """The look with an alpha mode in which a fourth channel of vertex colours counts."""
    if colors is None or colors.shape[1] == 3 or look.material.alpha_mode != "OPAQUE":
        return look
    return replace(look, material=replace(look.material, alpha_mode="BLEND"))


def alpha_of(picture: np.ndarray, name: str, contents: Contents) -> tuple[np.ndarray, AlphaMode]:
    """A texture (H, W, 3 or 4), without its fourth channel where that hides nothing or all, and how the channel counts."""
    if picture.shape[2] == 3:
        return picture, "OPAQUE"
    alpha = picture[..., 3]
    if not alpha.any():
        contents.note(f"{name} is fully transparent, which is read as opaque")
    if not alpha.any() or (alpha >= 1).all():
        return np.ascontiguousarray(picture[..., :3]), "OPAQUE"
    cut = bool(((alpha < 0.02) | (alpha > 0.98)).all())
    return picture, "MASK" if cut else "BLEND"
