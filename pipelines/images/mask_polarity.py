"""Masks of the other polarity: 1 on the background, where 1 on the object is expected.

Nothing in a mask says what its 1 means, and core has both: Load Image marks what is see-through, segmentation nodes mark the object. But
an object that is photographed whole leaves the picture's border free. A mask that covers almost all of the border and leaves a part of
the picture's inside out is the background's, or an object's that frames the picture, which is rare: it is named, not refused.
"""

from __future__ import annotations

import logging

import torch
import torch.nn.functional as F
from torch import Tensor

log = logging.getLogger(__name__)

CELLS = 64  # a side; holes of single pixels vanish in their averages
COVERED = 0.9  # share of the border
MOSTLY = 0.87  # the same, where the middle third of the picture is mostly left out; an object at three borders covers 0.75
INSIDE = 0.1  # of each side, from where on a hole counts
HOLE = 0.015  # share of the picture that a hole takes at least: a disc of a seventh of the picture's side
LONG = 1 / 3  # or that share of its rows or columns, for what is thin
INVERT = "wire core's Invert Mask (InvertMask) in front"
INVERT_ALPHA = "wire core's Invert Mask (InvertMask) in front of Join Image with Alpha, to which 1 means see-through"


def seem_inverted(masks: Tensor) -> Tensor:
    """Which of the masks (N, 1, H, W) in [0, 1] cover the border and leave a part of the inside out: (N,) bool.

    Objects that leave one of the four borders free, masks of all ones or zeros, and noise do not; an object like a picture frame does.
    """
    height, width = masks.shape[2:]
    cells = F.adaptive_avg_pool2d(masks.detach().float(), (min(height, CELLS), min(width, CELLS)))[:, 0] > 0.5
    rows, columns = cells.shape[1:]
    border = torch.ones(rows, columns, dtype=torch.bool, device=masks.device)
    border[1:-1, 1:-1] = False
    covered = cells[:, border].float().mean(1)
    holes = ~_middle(cells, INSIDE)
    large = holes.sum((1, 2)) > HOLE * rows * columns
    long = torch.maximum(holes.any(2).sum(1) / rows, holes.any(1).sum(1) / columns) > LONG
    return ((covered > COVERED) & (large | long)) | ((covered > MOSTLY) & (_middle(cells, 1 / 3).float().mean((1, 2)) < 0.5))


def tell_inverted(masks: Tensor, socket: str, remedy: str = INVERT, kind: str = "mask") -> None:
    """One warning where masks (N, 1, H, W) that should be 1 on the object seem to be 1 on its background; it counts them.

    Args:
        socket: where they came in.  remedy: what turns them, in the words of the node and its widgets.  kind: what they are.
    """
    count, total = int(seem_inverted(masks).sum()), len(masks)
    if count:
        which = f"the {kind} at `{socket}` marks" if total == 1 else f"{count} of the {total} {kind}s at `{socket}` mark"
        log.warning(
            "Lathe: what %s as the object covers the picture's border and not its inside, so it seems to be the background. If it is, %s.",
            which,
            remedy,
        )


def _middle(cells: Tensor, margin: float) -> Tensor:
    top, left = (round(margin * side) for side in cells.shape[1:])
    return cells[:, top : cells.shape[1] - top, left : cells.shape[2] - left]
