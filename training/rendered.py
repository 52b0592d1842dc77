"""The rendered training set as `render_dataset.py` packs it, opened in place."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

AZIMUTHS = 12
"""Steps of the ring of views, 30 degrees apart."""


class RenderedObjects:
    """N objects, 44 views each: a ring of 12 azimuths at elevations 20 and -10, 8 random views, 12 query views.

    Query views stand at the ring's azimuths, so the six views that Zero123++ wants from each of them are on the ring.

    Attributes:
        keys: names of the objects.
        rgba: (N, 44, S, S, 4) uint8.  depth: (N, 44, S, S) float16 z-depth, 0 on the background.
        normal: (N, 44, S, S, 3) int8, camera space times 127, 0 on the background.
        c2w: (N, 44, 4, 4) float32 poses.
    """

    def __init__(self, folder: Path | str) -> None:
        folder = Path(folder)
        self.keys: list[str] = json.loads((folder / "keys.json").read_text())["keys"]
        self.rgba = np.load(folder / "rgba.npy", mmap_mode="r")
        self.depth = np.load(folder / "depth.npy", mmap_mode="r")
        self.normal = np.load(folder / "normal.npy", mmap_mode="r")
        self.c2w = np.load(folder / "c2w.npy", mmap_mode="r")
        eye = np.asarray(self.c2w[0, :, :3, 3], dtype=np.float64)
        self.azimuths = np.degrees(np.arctan2(eye[:, 0], eye[:, 2])) % 360
        elevations = np.degrees(np.arcsin(eye[:, 1] / np.linalg.norm(eye, axis=1)))
        self._ring = {}
        for view in range(24):
            self._ring[round(self.azimuths[view] / 30) % AZIMUTHS, round(elevations[view])] = view
        self.query_views = list(range(32, 44))

    def __len__(self) -> int:
        return len(self.keys)

    def ring(self, step: int, elevation: int) -> int:
        """Index of the ring view at azimuth 30 * step degrees and elevation 20 or -10."""
        return self._ring[step % AZIMUTHS, elevation]

    def targets(self, step: int, mirrored: bool = False) -> list[int]:
        """The six views Zero123++ v1.2 makes for a query at azimuth 30 * step degrees.

        For a query that is going to be mirrored left to right, the views whose mirror images they are.
        """
        sign = -1 if mirrored else 1
        return [self.ring(step + sign * k, 20 if k % 4 == 1 else -10) for k in (1, 3, 5, 7, 9, 11)]

    def on_white(self, item: int, views: list[int]) -> tuple[Tensor, Tensor]:
        """Pictures (V, 3, S, S) on white and masks (V, 1, S, S), float32 in [0, 1]."""
        rgba = torch.from_numpy(np.ascontiguousarray(self.rgba[item, views])).permute(0, 3, 1, 2).float() / 255
        mask = rgba[:, 3:]
        return rgba[:, :3] * mask + (1 - mask), mask
