"""IM-3D's elevation estimator: features of four frames of an orbit, averaged, and a two-layer MLP (arXiv 2402.08682, appendix A.1).

The paper takes DINO's features. Here they are those of the mini reconstruction model's image encoder (a small DINO that is told
a camera), frozen; it is told one and the same camera for every frame, so that it cannot know what is asked.
"""

from __future__ import annotations

import math
import zlib

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, grid_sample, interpolate

from ..data.cameras import Cameras
from ..ops import camera_math
from ..ops.coordinate_frames.instantmesh import triplane_cameras
from .dino import ImageEncoder

FRAMES = 4
FILL = 0.95  # share of the half frame that the object reaches, measured from the centre
SMALLEST = 1 / 32  # share of a picture that the object is taken to reach at least


class ElevationHead(nn.Module):
    """The MLP, behind a fixed normalisation of its inputs.

    Args:
        features: numbers of one frame.
        hidden: width of the hidden layer.
        dropout: while training; half of it on the features.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: int, hidden: int = 128, dropout: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
        self.drop_features, self.drop_hidden = nn.Dropout(dropout / 2), nn.Dropout(dropout)
        self.first, self.second = nn.Linear(features, hidden), nn.Linear(hidden, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, features) averaged over the frames -> (B,) radians above the horizon."""
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise ValueError(f"The elevation head reads features (B, {len(self.mean)}), not {tuple(features.shape)}.")
        x = self.drop_features((features - self.mean) / self.deviation)
        return self.second(self.drop_hidden(gelu(self.first(x))))[:, 0]


class ElevationNet(nn.Module):
    """Encoder and head.

    Args:
        encoder: of the mini reconstruction model.
        head: trained on this encoder.
        view_size: side in pixels of the pictures it was trained on.
        deviation: degrees by which it typically errs.
        span: least and greatest elevation it was taught, degrees; it answers nothing beyond.
    """

    def __init__(self, encoder: ImageEncoder, head: ElevationHead, view_size: int, deviation: float, span: tuple[float, float]) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self.view_size, self.deviation = view_size, deviation
        self.span = span

    @property
    def place(self) -> torch.device:
        """Where the network is."""
        return self.head.first.weight.device

    def forward(self, pictures: Tensor) -> Tensor:
        """Orbits of four framed pictures (B, 4, 3, S, S) in [0, 1] on white -> (B,) radians above the horizon."""
        if pictures.ndim != 5 or tuple(pictures.shape[1:]) != (FRAMES, 3, self.view_size, self.view_size):
            raise ValueError(
                f"The elevation estimator reads pictures (B, {FRAMES}, 3, {self.view_size}, {self.view_size}), not {tuple(pictures.shape)}."
            )
        low, high = (math.radians(degrees) for degrees in self.span)
        return self.head(orbit_features(self.encoder, pictures)).clamp(low, high)


def orbit_features(encoder: ImageEncoder, pictures: Tensor) -> Tensor:
    """(B, F, 3, S, S) framed pictures -> (B, tokens * dim): all tokens of a frame side by side, averaged over the frames."""
    pose = camera_math.orbit(torch.zeros(1), torch.zeros(1), 4.0)
    camera = triplane_cameras(Cameras(pose, camera_math.intrinsics(30.0, 1), ("front",))).to(pictures.device)
    frames = pictures.flatten(0, 1)
    tokens = encoder(frames, camera.expand(len(frames), -1))
    return tokens.unflatten(0, pictures.shape[:2]).mean(1).flatten(1)


def spread_frames(azimuths: Tensor) -> list[int]:
    """Four views of an orbit that lie far apart: the first, and each time the one farthest from those chosen.

    Args:
        azimuths: (V,) degrees. With fewer than four views some are taken twice.
    """
    chosen = [0]
    while len(chosen) < FRAMES:
        apart = torch.stack([((azimuths - azimuths[i] + 180) % 360 - 180).abs() for i in chosen]).amin(0)
        # rounded, so that equal steps give the same choice whatever the last bits say
        chosen.append(int(apart.round(decimals=2).argmax()))
    return chosen


def frame_pictures(images: Tensor, masks: Tensor, centres: Tensor, size: int) -> Tensor:
    """The frames of an orbit as the estimator reads them: on white, and zoomed alike, so that the object fills them.

    The zoom is about the point of the picture where the origin lies, which changes the lens but not the direction of view.

    Args:
        images, masks: (F, 3, H, W) and (F, 1, H, W) in [0, 1].
        centres: (F, 2) principal points as fractions of the picture.

    Returns:
        (F, 3, size, size).
    """
    height, width = images.shape[2:]
    white = images * masks + (1 - masks)
    view, _, row, column = torch.nonzero(masks > 0.5, as_tuple=True)
    middle = centres.float() * torch.tensor([width, height])
    across = torch.maximum((column + 0.5 - middle[view, 0]).abs(), (row + 0.5 - middle[view, 1]).abs())
    half = max(float(across.max()) + 0.5 if len(across) else 0.0, SMALLEST * max(height, width) / 2) / FILL
    scale = size / (2 * half)
    if scale < 1:  # what is read more coarsely than its pixels is averaged first
        white = interpolate(white, (max(round(height * scale), 1), max(round(width * scale), 1)), mode="bicubic", antialias=True)
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    zoom = torch.tensor([2 * half / width, 2 * half / height])
    grid = torch.stack([x, y], -1)[None] * zoom + (centres.float() * 2 - 1)[:, None, None]
    return 1 - grid_sample(1 - white, grid, mode="bicubic", align_corners=False).clamp(0, 1)


def fingerprint(encoder: ImageEncoder) -> int:
    """A number that changes with the encoder's weights: a head reads the features of the encoder it was trained on, and no other's."""
    checksum = 0
    for _, value in sorted(encoder.state_dict().items()):
        checksum = zlib.crc32(value.detach().cpu().to(torch.float16).contiguous().numpy().tobytes(), checksum)
    return checksum
