"""What every renderer gives back and refuses."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..data.cameras import Cameras


@dataclass(frozen=True)
class RenderedViews:
    """V rendered views, on the CPU.

    Attributes:
        images: (V, 3, H, W) sRGB in [0, 1], over the background.
        masks: (V, 1, H, W) in [0, 1], 1 = object, with soft edges.
        depths: (V, 1, H, W) z-depth in world units, 0 on the background.
        normals: (V, 3, H, W) unit vectors in camera axes (x right, y up, z towards the camera), 0 on the background.
    """

    images: Tensor
    masks: Tensor
    depths: Tensor
    normals: Tensor


def preview_of(image: Tensor) -> Tensor:
    return image[0].detach().permute(1, 2, 0)


def requested_cameras(cameras: Cameras, height: int, width: int, supersample: int) -> Cameras:
    """The cameras for pictures of this size. Raises ValueError where no picture can be drawn."""
    if cameras.n_assets is not None:
        raise ValueError(
            f"Rendering takes the cameras of one asset, not those of {cameras.n_assets}: render each with cameras.of_asset(index)."
        )
    if height < 1 or width < 1:
        raise ValueError(f"Rendering needs a picture of at least 1 x 1 pixels, not {width} x {height}.")
    if supersample not in (1, 2):
        raise ValueError(f"Rendering can supersample by 1 or 2, not {supersample}.")
    return cameras.for_pictures(height, width)
