"""What a distillation looks at: the reference view, random views around the object, and the light they are drawn in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cameras.orbits import posed_cameras
from ..data.cameras import Cameras
from ..ops import camera_math
from .settings import NovelCameras, ShadingSchedule

LEAST_SIDE = 16
Kind = Literal["plain", "textureless", "lambertian", "normals"]
LAMP_SPREAD = 1.0  # of the lamp around the camera, world units (DreamFusion, arXiv 2209.14988, appendix A.2)


@dataclass(frozen=True)
class ReferenceView:
    """The picture that an asset is made of, and where it was taken from. Without a picture only the place counts (text to 3D).

    Attributes:
        image: (1, 3, H, W) in [0, 1], or None.
        mask: (1, 1, H, W), 1 = object, or None: the picture counts whole.
        depth: (1, 1, H, W), larger is farther, of any scale, or None.
        elevation: degrees above the horizon; the azimuth is 0, the front.
        radius: distance from the origin, world units.  fov: field of view, degrees.
        weight: of the reference's losses.

    Raises:
        ValueError: shapes that do not belong together, numbers that are not finite, an empty mask, angles no camera can have.
    """

    image: Tensor | None = None
    mask: Tensor | None = None
    depth: Tensor | None = None
    elevation: float = 0.0
    radius: float = 1.8
    fov: float = 40.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        posed_cameras([0.0], [self.elevation], self.radius, self.fov)
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"Distil: the weight of the reference view is a number of at least 0, not {self.weight}.")
        if self.image is None:
            if self.mask is not None or self.depth is not None:
                raise ValueError("Distil: a mask or a depth needs the reference picture it belongs to; wire the picture, too.")
            return
        if self.image.ndim != 4 or self.image.shape[:2] != (1, 3):
            raise ValueError(f"Distil: one reference picture of shape (1, 3, H, W) is expected, not {tuple(self.image.shape)}.")
        if self.image.shape[2] != self.image.shape[3]:
            size = f"{self.image.shape[3]} x {self.image.shape[2]}"
            raise ValueError(f"Distil: the reference picture is {size}; it must be square: run it through Prepare Image.")
        if self.image.shape[2] < LEAST_SIDE:
            raise ValueError(f"Distil: the reference picture is {self.image.shape[2]} pixels wide; it needs at least {LEAST_SIDE}.")
        for name, part in (("picture", self.image), ("mask", self.mask), ("depth", self.depth)):
            if part is None:
                continue
            if not bool(torch.isfinite(part).all()):
                raise ValueError(f"Distil: the reference {name} holds NaN or infinite pixels.")
            if name != "picture" and part.shape != (1, 1, *self.image.shape[2:]):
                size = f"{self.image.shape[3]} x {self.image.shape[2]}"
                raise ValueError(f"Distil: the {name} must be one of the picture's size {size}, not {tuple(part.shape)}.")
        if self.mask is not None and not bool((self.mask > 0.5).any()):
            raise ValueError("Distil: the reference mask is empty. It must show the object in white; invert it if it is black.")

    @property
    def camera(self) -> Cameras:
        """The one camera of the reference view."""
        return posed_cameras([0.0], [self.elevation], self.radius, self.fov)

    def at_size(self, side: int) -> ReferenceView:
        """The same view at another size, by area averaging."""
        if self.image is None or self.image.shape[2] == side:
            return self

        def change(part: Tensor | None) -> Tensor | None:
            return None if part is None else F.interpolate(part.float(), size=(side, side), mode="area")

        return ReferenceView(change(self.image), change(self.mask), change(self.depth), self.elevation, self.radius, self.fov, self.weight)

    def to(self, device: torch.device) -> ReferenceView:
        """The same with its pictures on `device`."""
        image, mask, depth = (None if part is None else part.detach().to(device, torch.float32).clone()
                              for part in (self.image, self.mask, self.depth))  # fmt: skip
        return ReferenceView(image, mask, depth, self.elevation, self.radius, self.fov, self.weight)


@dataclass(frozen=True)
class Shading:
    """How one view is drawn.

    Attributes:
        kind: "plain" colours, "lambertian" lit colours, "textureless" lit white, "normals" of the world as colours (n + 1) / 2.
        ambient: share of light from everywhere.
        lamp: (3,) unit vector to the lamp, world axes.
    """

    kind: Kind = "plain"
    ambient: float = 1.0
    lamp: Tensor | None = None

    def apply(self, colors: Tensor, normals: Tensor | None) -> Tensor:
        """Colours (..., 3) of places with unit normals (..., 3), as seen in this light."""
        if self.kind == "plain":
            return colors
        assert normals is not None
        if self.kind == "normals":
            return (normals + 1) / 2
        assert self.lamp is not None
        lit = self.ambient + (1 - self.ambient) * (normals * self.lamp.to(normals)).sum(-1, keepdim=True).clamp(min=0)
        return colors * lit if self.kind == "lambertian" else lit.expand_as(colors)


PLAIN = Shading()


def random_cameras(count: int, settings: NovelCameras, reference: ReferenceView, generator: torch.Generator) -> Cameras:
    """Right-handed cameras that look at the origin with the reference's field of view (Magic123 as coded, without its mirror image).

    Args:
        count: views.
        settings: ranges of their places.
        reference: whose distance is scaled.
    """
    azimuths, elevations, radii = [], [], []
    for _ in range(count):
        draw = torch.rand(6, generator=generator, dtype=torch.float64).tolist()
        low, high = settings.azimuth
        azimuth = low + (high - low) * draw[0]
        low, high = settings.elevation
        elevation = low + (high - low) * draw[1]
        if draw[2] < settings.dome:
            across = torch.tensor([2 * draw[3] - 1, draw[4], 2 * draw[5] - 1], dtype=torch.float64)
            across = F.normalize(across, dim=0)
            azimuth = float(torch.rad2deg(torch.atan2(across[0], across[2])))
            elevation = float(torch.rad2deg(torch.asin(across[1])))
        azimuths.append(azimuth)
        elevations.append(elevation)
        low, high = settings.radius
        radii.append(reference.radius * (low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))))
    c2w = camera_math.orbit(torch.tensor(azimuths), torch.tensor(elevations), torch.tensor(radii))
    names = tuple(f"azimuth {a % 360:.0f}, elevation {e:.0f}" for a, e in zip(azimuths, elevations, strict=True))
    return Cameras(c2w, camera_math.intrinsics(reference.fov, count), names)


def random_shading(progress: float, settings: ShadingSchedule, camera: Cameras, generator: torch.Generator) -> Shading:
    """The light of a random view at this share of the steps. `camera` is that one view."""
    pick, share = torch.rand(2, generator=generator).tolist()
    near = camera.c2w[0, :3, 3] + LAMP_SPREAD * torch.randn(3, generator=generator)
    lamp = F.normalize(near, dim=0)
    if progress < settings.normals_until:
        return Shading("normals")
    low, high = settings.ambient
    ambient = low + (high - low) * share
    bounds: list[tuple[float, Kind]] = [
        (settings.normals, "normals"), (settings.textureless, "textureless"), (settings.lambertian, "lambertian"),
    ]  # fmt: skip
    for part, kind in bounds:
        if pick < part:
            return Shading(kind, ambient, lamp)
        pick -= part
    return PLAIN


def depth_normals(depth: Tensor, cameras: Cameras) -> Tensor:
    """World normals (V, 3, H, W) of z-depth pictures (V, 1, H, W), by finite differences between neighbouring pixels, turned to the camera.

    Magic123 (arXiv 2306.17843), before eq. 3. The last row and column repeat the one before.
    """
    height, width = depth.shape[-2:]
    origins, directions = camera_math.rays(cameras.c2w.to(depth), cameras.K.to(depth), height, width)
    places = (origins + depth.movedim(1, -1) * directions).movedim(-1, 1)
    across = F.pad(places[..., :, 1:] - places[..., :, :-1], (0, 1, 0, 0), mode="replicate")
    down = F.pad(places[..., 1:, :] - places[..., :-1, :], (0, 0, 0, 1), mode="replicate")
    return F.normalize(torch.linalg.cross(down, across, dim=1), dim=1, eps=1e-8)
