"""The bundled views by which the forms of GeoLRM's self-attention are told apart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...cameras.orbits import posed_cameras
from ...data.cameras import Cameras
from ...images import sheets
from ...ops.visual_hull import hull_volume

SHEET = Path(__file__).resolve().parents[2] / "data" / "geolrm_calibration.webp"
TILE, COLUMNS, VIEWS = 448, 4, 8


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
    tiles = sheets.split(sheet[None], COLUMNS, VIEWS // COLUMNS)
    masks = tiles[:, 3:]
    return Calibration(tiles[:, :3] * masks, masks.contiguous(), calibration_cameras())


def hull_shell(views: Calibration, grid: int, extent: float) -> Tensor:
    """(grid, grid, grid): 1 where the surface of the views' visual hull is."""
    hull = (hull_volume(views.images, views.masks, views.cameras, grid, bound=extent)[0] > 0.5).float()
    core = 1 - F.max_pool3d(1 - F.pad(hull, (1,) * 6)[None, None], 3, 1)[0, 0]
    return hull * (1 - core)
