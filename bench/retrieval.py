"""The view baselines: the query shown six times, and the six views of the training object whose query looks most like it.

A picture as rendered tells the object's true size, which Prepare Image takes away before a model sees it: both baselines exist both ways.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..training.rendered import AZIMUTHS, RenderedObjects, framed

COMPARED_SIZE = 16
RATIO = 0.85  # of the object in a prepared picture


class Retrieval:
    """The rendered training split, searched by pictures of 16 x 16 pixels (least squared difference), mirrored ones too.

    Args:
        folder: output of training/render_dataset.py.
        prepared: compare pictures as Prepare Image leaves them; otherwise as rendered.
    """

    def __init__(self, folder: Path, prepared: bool = False) -> None:
        self.data = RenderedObjects(folder)
        small = []
        for item in range(len(self.data)):
            images, masks = self.data.on_white(item, self.data.query_views)
            if prepared:
                images = torch.stack([framed(image, mask, RATIO)[0] for image, mask in zip(images, masks, strict=True)])
            small.append(_small(images))
        pictures = torch.stack(small)  # (N, 12, 3, 16, 16)
        self.index = torch.cat([pictures, pictures.flip(-1)], dim=1).flatten(2).flatten(0, 1)

    def views(self, query: Tensor) -> tuple[Tensor, str]:
        """(3, H, W) on white -> the nearest object's six views (6, 3, S, S), and its name."""
        distance = ((self.index - _small(query[None]).flatten()) ** 2).sum(1)
        item, row = divmod(int(distance.argmin()), 2 * AZIMUTHS)
        mirrored, step = row >= AZIMUTHS, row % AZIMUTHS
        step = round(float(self.data.azimuths[self.data.query_views[step]]) / 30) % AZIMUTHS
        images, _ = self.data.on_white(item, self.data.targets(step, mirrored))
        return images.flip(-1) if mirrored else images, self.data.keys[item]


def copies(query: Tensor, count: int = 6) -> Tensor:
    """The query (3, H, W) in the place of each view."""
    return query[None].expand(count, -1, -1, -1)


def at_size(images: Tensor, size: int) -> Tensor:
    """Pictures (N, 3, S, S) at another size, by area."""
    return torch.nn.functional.interpolate(images, size=(size, size), mode="area")


def _small(images: Tensor) -> Tensor:
    return at_size(images, COMPARED_SIZE).to(torch.float32)
