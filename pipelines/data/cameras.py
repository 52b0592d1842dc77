"""Posed pinhole cameras, the payload of the LATHE_CAMERAS socket."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

LARGEST = 1e12  # of a number of theirs; its square still fits single precision
SQUARE_FRAME = 1e-4  # difference of fx and fy, as fractions, below which a camera's frame is square


@dataclass(frozen=True)
class Cameras:
    """V cameras shared by every asset of a batch, or V cameras for each of B assets.

    World and camera axes are OpenGL's: right-handed, the world has +Y up and the object's front looks along +Z,
    a camera looks along its own -Z with +X right and +Y up.

    A camera with fx = fy has a square frame: its field of view is the vertical one, and it takes the proportions of the pictures that it
    meets (`for_pictures`). Any other states them: its pictures are fy / fx times as wide as high.

    Attributes:
        c2w: (V, 4, 4) or (B, V, 4, 4) float32 camera-to-world matrices on the CPU.
        K: (V, 4) or (B, V, 4) float32 intrinsics (fx, fy, cx, cy) as fractions of the image's width and height.
        names: V names of the views, for people.

    Raises:
        ValueError: wrong shapes, numbers that are not finite, a rotation that is not right-handed and orthonormal, or another last row.
    """

    c2w: Tensor
    K: Tensor
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.c2w.ndim not in (3, 4) or tuple(self.c2w.shape[-2:]) != (4, 4):
            raise ValueError(f"Cameras: c2w must have shape (V, 4, 4) or (B, V, 4, 4), not {tuple(self.c2w.shape)}.")
        if tuple(self.K.shape) != (*self.c2w.shape[:-2], 4):
            raise ValueError(f"Cameras: K must have shape {(*self.c2w.shape[:-2], 4)}, not {tuple(self.K.shape)}.")
        if len(self.names) != self.c2w.shape[-3]:
            raise ValueError(f"Cameras: {self.c2w.shape[-3]} views need as many names, got {len(self.names)}.")
        if not (torch.isfinite(self.c2w).all() and torch.isfinite(self.K).all()):
            raise ValueError("Cameras: poses and intrinsics must be finite numbers.")
        if not (self.K[..., :2] > 0).all():
            raise ValueError("Cameras: focal lengths must be positive.")
        if not torch.allclose(self.c2w[..., 3, :], self.c2w.new_tensor([0.0, 0.0, 0.0, 1.0]), atol=1e-3):
            raise ValueError("Cameras: the last row of each c2w must be 0, 0, 0, 1.")
        rotation = self.c2w[..., :3, :3].double()
        gram = rotation.transpose(-1, -2) @ rotation
        if not torch.allclose(gram, torch.eye(3, dtype=torch.float64).expand_as(gram), atol=1e-3):
            raise ValueError("Cameras: each c2w must hold a rotation (orthonormal axes, no scale).")
        if not (torch.linalg.det(rotation) > 0).all():
            raise ValueError("Cameras: a pose is left-handed (its rotation has determinant -1); flip one axis.")

    @property
    def n_views(self) -> int:
        """V, the number of views of one asset."""
        return int(self.c2w.shape[-3])

    @property
    def n_assets(self) -> int | None:
        """B where every asset has its own cameras, None where all share one set."""
        return int(self.c2w.shape[0]) if self.c2w.ndim == 4 else None

    def for_pictures(self, height: int, width: int) -> Cameras:
        """The cameras for pictures of this size: those of a square frame take its proportions, others stay as they are.

        What uses cameras together with pictures, or draws pictures, begins with this. Square pictures change nothing, to the bit.
        """
        square = (self.K[..., 0] - self.K[..., 1]).abs() <= SQUARE_FRAME
        if height == width or not bool(square.any()):
            return self
        K = self.K.clone()
        K[..., 0] = torch.where(square, K[..., 1] * (height / width), K[..., 0])
        return replace(self, K=K)

    def pixel_aspects(self, height: int, width: int) -> Tensor:
        """How many times as high as wide the pixels of each camera's pictures of this size are, shaped as the cameras: 1 is square."""
        return (self.K[..., 0] * width) / (self.K[..., 1] * height)

    def of_asset(self, index: int) -> Cameras:
        """The (V, 4, 4) cameras of asset `index`."""
        if self.c2w.ndim == 3:
            return self
        return Cameras(self.c2w[index], self.K[index], self.names)

    def select(self, views: Sequence[int]) -> Cameras:
        """The cameras of the given view indices, in that order."""
        rows = list(views)
        return Cameras(self.c2w[..., rows, :, :], self.K[..., rows, :], tuple(self.names[i] for i in rows))
