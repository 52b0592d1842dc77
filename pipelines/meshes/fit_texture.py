"""The texture of a mesh optimised against views, its shape fixed: whole pictures are compared, so that views which disagree by some pixels
still give sharp detail, where their mean would be blurred (IM-3D, section 3.3).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.mesh import Mesh
from ..data.progress import Tick, no_tick
from ..fitting.targets import Targets
from ..ops import camera_math
from ..ops.mesh_raster.dispatch import antialias, interpolate, rasterize_mesh
from ..ops.mesh_topology import make_topology, merged_faces
from ..ops.texture_sampling import sample_texture

if TYPE_CHECKING:
    from .fit_settings import MeshFitSettings

PREVIEW_EVERY = 10  # steps


class TextureFit:
    """Steps on a texture. What changes is a difference to the first one, no finer than the views can tell.

    Args:
        mesh: with uvs and texture.
        targets: the views, and how renders are compared with them. Masks do not count: the shape is fixed.
        settings: `rates.texture`, `texture_steps`, `perceptual_every`, background.

    Attributes:
        losses: one mapping a step.
    """

    def __init__(self, mesh: Mesh, targets: Targets, settings: MeshFitSettings) -> None:
        assert mesh.texture is not None and mesh.uvs is not None
        self.settings, self._mesh, self._targets = settings, mesh, targets
        device, cameras = targets.images.device, targets.cameras
        self._faces, self._uvs = mesh.faces.to(device), mesh.uvs.to(device)
        vertices = mesh.vertices.to(device)
        self._welded = merged_faces(vertices, self._faces)
        self._topology = make_topology(self._welded)
        self._pos = F.pad(vertices, (0, 1), value=1.0) @ camera_math.clip_matrices(cameras.c2w, cameras.K).to(device).transpose(1, 2)
        self._background = torch.tensor(settings.background, device=device)
        self._first = mesh.texture.to(device)
        side = min(mesh.texture.shape[0], 2 ** math.ceil(math.log2(2 * max(targets.height, targets.width))))  # about two texels a pixel
        self._difference = torch.zeros(1, 3, side, side, device=device).requires_grad_(True)
        self._optimiser = torch.optim.Adam([self._difference], lr=settings.rates.texture, eps=1e-12)
        self.losses: list[dict[str, float]] = []
        self._picture: Tensor | None = None

    def texture(self) -> Tensor:
        """(S, S, 3) as it stands."""
        size = self._first.shape[:2]
        grown = F.interpolate(self._difference, size=tuple(size), mode="bilinear", align_corners=False)
        return (self._first + grown[0].movedim(0, -1)).clamp(0, 1)

    def run(self, steps: int, tick: Tick = no_tick) -> None:
        """That many more steps. A tick that raises ends the fit between two steps."""
        for done in range(1, steps + 1):
            self.step()
            tick(done, steps, self._picture if done % PREVIEW_EVERY == 0 or done == steps else None)

    def step(self) -> dict[str, float]:
        """Compares some views and changes the texture; a step whose numbers are not finite changes nothing."""
        number = len(self.losses) + 1
        views = self._targets.next_views()
        terms: dict[str, float] = {}
        for view in views:
            image = self._draw(self.texture(), view)
            own = self._targets.compare(image, None, [view], number % self.settings.perceptual_every == 0)
            (own["total"] / len(views)).backward()
            for name, value in own.items():
                terms[name] = terms.get(name, 0.0) + float(value.detach()) / len(views)
        self._picture = torch.cat([image[0].detach(), self._targets.images[views[-1]]], dim=2).movedim(0, -1).clamp(0, 1)
        gradient = self._difference.grad
        if math.isfinite(terms["total"]) and gradient is not None and bool(torch.isfinite(gradient).all()):
            for group in self._optimiser.param_groups:
                group["lr"] = self.settings.rates.texture * 0.1 ** min(number / self.settings.texture_steps, 1.0)
            self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        self.losses.append(terms)
        return terms

    def mesh(self) -> Mesh:
        """The mesh with the texture as it stands, on the CPU."""
        return Mesh(self._mesh.vertices, self._mesh.faces, self._mesh.uvs, self.texture().detach().cpu())

    def _draw(self, texture: Tensor, view: int) -> Tensor:
        """(1, 3, H, W), four samples a pixel: textures are finer than the views."""
        height, width = self._targets.height, self._targets.width
        pos = self._pos[view : view + 1]
        face, bary, zw = rasterize_mesh(pos, self._faces, (2 * height, 2 * width))
        seen = sample_texture(texture, interpolate(self._uvs, self._faces, face, bary))
        picture = torch.where((face >= 0)[..., None], seen, self._background)
        picture = antialias(picture, pos, self._welded, face, zw, self._topology)
        return F.avg_pool2d(picture.movedim(-1, 1), 2)
