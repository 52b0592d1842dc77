"""The rendered training set as `render_dataset.py` packs it, opened in place."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

AZIMUTHS = 12
"""Steps of the ring of views, 30 degrees apart."""
IMAGINED = ("imagined_steps.npy", "imagined_rgba.npy")
"""What `imagine_views.py` adds: (N, 4) steps of the queries, (N, 4, 6, S, S, 4) uint8 views, colour on white, and mask."""
QUERIES_IMAGINED = 4
GUIDES = ("guide_steps.npy", "guide_rgba.npy")
"""What `guide_views.py` adds: (N, 6) steps of the queries, (N, 6, 2, 6, S, S, 4) uint8 splatted views, the second of the
two those of the mirror image."""
QUERIES_GUIDED = 6


class RenderedObjects:
    """N objects, 44 views each: a ring of 12 azimuths at elevations 20 and -10, 8 random views, 12 query views.

    Query views stand at the ring's azimuths, so the six views that Zero123++ wants from each of them are on the ring.

    Attributes:
        keys: names of the objects.
        rgba: (N, 44, S, S, 4) uint8.  depth: (N, 44, S, S) float16 z-depth, 0 on the background.
        normal: (N, 44, S, S, 3) int8, camera space times 127, 0 on the background.
        points, point_colors: (N, 16384, 3) float16 and uint8, samples of the surface the first 32 views saw.
        c2w: (N, 44, 4, 4) float32 poses.
        imagined: the arrays of IMAGINED where they are.
    """

    def __init__(self, folder: Path | str) -> None:
        folder = Path(folder)
        self.keys: list[str] = json.loads((folder / "keys.json").read_text())["keys"]
        self.rgba = np.load(folder / "rgba.npy", mmap_mode="r")
        self.depth = np.load(folder / "depth.npy", mmap_mode="r")
        self.normal = np.load(folder / "normal.npy", mmap_mode="r")
        self.points = np.load(folder / "points.npy", mmap_mode="r")
        self.point_colors = np.load(folder / "point_colors.npy", mmap_mode="r")
        self.c2w = np.load(folder / "c2w.npy", mmap_mode="r")
        self.imagined: tuple[np.ndarray, np.ndarray] | None = None
        if all((folder / name).exists() for name in IMAGINED):
            self.imagined = (np.load(folder / IMAGINED[0]), np.load(folder / IMAGINED[1], mmap_mode="r"))
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


def framed(image: Tensor, mask: Tensor, ratio: float) -> tuple[Tensor, float, Tensor]:
    """A picture (3, S, S) on white as Prepare Image leaves it: the object centred, its longer side `ratio` of the frame.

    Also the zoom z and centre c (2,) of the frame: where x runs from -1 to 1 over a picture, the new x is the old z x + c.
    """
    size = image.shape[-1]
    rows, columns = (torch.nonzero((mask[0] > 0.5).any(axis)).flatten() for axis in (1, 0))
    if len(rows) == 0:
        return image, 1.0, torch.zeros(2)
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    zoom = max(bottom - top, right - left) / (ratio * size)
    centre = torch.tensor([left + right, top + bottom]) / size - 1
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    grid = torch.stack([x, y], -1) * zoom + centre
    return 1 - grid_sample(1 - image[None], grid[None], mode="bicubic", align_corners=False)[0].clamp(0, 1), zoom, centre
