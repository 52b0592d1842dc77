"""A field or a mesh, and priors, to a better mesh with texture: the fine stage of Magic123 (arXiv 2306.17843, section 2.1.2)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.cameras import Cameras
from ..data.field import Field, FlexiGrid
from ..data.mesh import Mesh
from ..data.progress import Tick, no_tick
from ..meshes import clean, extract, simplify, unwrap
from ..nets.distil_net import DistilNet, copy_of
from ..ops import camera_math, distil_losses
from ..ops.color import srgb_to_linear
from ..ops.mesh_colors import colors_on_faces
from ..ops.mesh_raster.dispatch import antialias, interpolate, rasterize_mesh
from ..ops.mesh_sampling import sample_faces
from ..ops.mesh_tools import face_vectors
from ..ops.mesh_topology import Topology, make_topology
from .cameras_and_shading import ReferenceView, Shading
from .loop import Distillation, Drawn, adam
from .priors import Prior, at_stage
from .settings import FineSettings
from .surface import Surface, surface_grid

log = logging.getLogger(__name__)

START_CELLS = 96  # of the mesh that a field becomes first
START_POINTS = 1 << 14  # of the surface that colours learn from in a step
START_SPREAD = 0.02  # world units around the surface in which they learn them
LEAST_AREA = 1e-6  # world units squared: a surface below it is degenerate
POINTS_AT_ONCE = 1 << 18


class SurfaceLost(ValueError):
    """The surface vanished or degenerated. The loop still gives the last good one."""


@dataclass(eq=False)
class _Paint:
    """The colours alone, as a field that a texture is baked from."""

    net: DistilNet
    bound: float
    kind: Literal["sdf", "density"] = "density"
    level: float = 1.0

    def geometry(self, points: Tensor) -> Tensor:
        return points.new_zeros(len(points))

    def color(self, points: Tensor) -> Tensor:
        return self.net(points)[1]

    def flexi_grid(self, resolution: int | None = None, chunk: int = 65536, tick: Tick = no_tick) -> FlexiGrid | None:
        return None

    def to(self, device: torch.device | str) -> _Paint:
        return _Paint(copy_of(self.net, device), self.bound)


class DistilMesh(Distillation):
    """The fine stage. See `Distillation`.

    Args:
        start: a field, whose surface and colours it starts from, or a mesh of any other route, best closed.
        tick: called while the start is prepared.

    Raises:
        ValueError: neither picture nor prior, a field without a surface, a mesh without an inside.
    """

    stage = "Distil Mesh"

    def __init__(
        self, start: Field | Mesh, reference: ReferenceView, prior: Prior | None, settings: FineSettings, *, seed: int = 0,
        device: torch.device | str = "cpu", tick: Tick = no_tick,
    ) -> None:  # fmt: skip
        super().__init__(reference, None if prior is None else at_stage(prior, "fine"), settings, seed, device)
        self.fine = settings
        mesh = start if isinstance(start, Mesh) else extract.field_to_mesh(start, "marching_cubes", START_CELLS, device=device, tick=tick)
        if len(mesh.faces) == 0:
            raise ValueError(f"{self.stage}: the mesh has no faces, so there is nothing to refine.")
        if lost := mesh.beyond_color():
            log.warning("%s: the refined mesh is new; it starts from the mesh's colours and loses its %s.", self.stage, ", ".join(lost))
        mesh = clean.clean(mesh)
        self.grid = surface_grid(settings.surface, mesh, settings.grid, settings.band, self.device)
        self.net = DistilNet(settings.color, seed).to(self.device)
        groups = [
            {"params": [leaf], "first": settings.displacement_rate if name == "displacement" else settings.sdf_rate}
            for name, leaf in self.grid.parameters.items()
        ]
        colors = [
            {"params": list(self.net.grid.parameters()), "first": settings.encoding_rate},
            {"params": list(self.net.layers.parameters()), "first": settings.network_rate},
        ]
        self._learn_colors(mesh, start, adam(colors, self.device), tick)
        self._adam = adam([*groups, *colors], self.device)
        self._good = self._snapshot()
        try:
            self._open()
        except SurfaceLost:
            raise ValueError(
                f"{self.stage}: the mesh has no inside that a grid of {settings.grid} cells can hold: it is flat, open or too thin. "
                "Close it, or use a finer grid."
            ) from None

    def parameters(self) -> dict[str, Tensor]:
        """Distances, displacements and the network of colours."""
        return {f"grid.{k}": leaf for k, leaf in self.grid.parameters.items()} | {f"color.{k}": p for k, p in self.net.named_parameters()}

    def optimiser(self) -> torch.optim.Optimizer:
        """Adam."""
        return self._adam

    def before(self, progress: float) -> None:
        """Extracts the surface, once for all views of the step.

        Raises:
            SurfaceLost: there is none, or one without area.
        """
        try:
            self._open()
        except SurfaceLost:
            self._put_back()
            raise

    def finish(self, totals: dict[str, float]) -> None:
        """The views' gradient handed on to the grid, and what keeps the surface smooth."""
        weights, surface = self.settings.weights, self._surface
        points = surface.vertices
        gradient = torch.zeros_like(points) if self._vertices.grad is None else self._vertices.grad
        kept = points.sum() * 0
        if weights.laplacian:
            totals["laplacian"] = float((value := distil_losses.laplacian(points, surface.faces)).detach())
            kept = kept + weights.laplacian * value
        if weights.normal_consistency:
            totals["normal consistency"] = float((value := distil_losses.normal_consistency(points, surface.faces)).detach())
            kept = kept + weights.normal_consistency * value
        if surface.penalty is not None:
            kept = kept + surface.penalty
        torch.autograd.backward([points, kept], [gradient, torch.ones_like(kept)])
        totals["total"] += float(kept.detach())

    def draw(self, cameras: Cameras, size: int, shading: Sequence[Shading], background: Tensor, learning: bool) -> Drawn:
        """Rasterised, colours asked from the network at each pixel."""
        with torch.set_grad_enabled(learning):
            clip = camera_math.clip_matrices(cameras.c2w, cameras.K).to(self.device)
            faces, vertices = self._surface.faces, self._vertices
            pos = F.pad(vertices, (0, 1), value=1.0) @ clip.transpose(1, 2)
            face, bary, zw = rasterize_mesh(pos, faces, (size, size))
            covered = face >= 0
            weights = self.settings.weights
            wanted = learning and (weights.normal_blur > 0 or weights.normal_tv > 0)
            lit = any(one.kind != "plain" for one in shading)
            attributes = [vertices]
            if wanted or lit:
                attributes.append(_normals(vertices, faces))
            seen = interpolate(torch.cat(attributes, dim=1), faces, face, bary)
            colors = self.net(seen[..., :3][covered])[1]
            normals = F.normalize(seen[..., 3:], dim=-1, eps=1e-8) if wanted or lit else None
            albedo = colors.new_zeros(*face.shape, 3).masked_scatter(covered[..., None].expand(*face.shape, 3), colors)
            if lit:
                assert normals is not None
                albedo = torch.stack([one.apply(albedo[v], normals[v]) for v, one in enumerate(shading)])
            picture = torch.where(covered[..., None], albedo, background)
            parts = [picture, covered[..., None].to(picture.dtype)]
            if weights.depth:  # antialiased with the opacity that weights it; z / w back to the depth along the axis of view
                parts.append(torch.where(covered, _depth_of(zw), torch.zeros_like(zw))[..., None])
            if wanted and normals is not None:
                parts.append(torch.where(covered[..., None], normals, torch.zeros_like(normals)))
            picture = antialias(torch.cat(parts, dim=-1), pos, faces, face, zw, self._topology).movedim(-1, 1)
            return Drawn(picture[:, :3], picture[:, 3:4], picture[:, 4:5] if weights.depth else None, picture[:, -3:] if wanted else None)

    def mesh(self) -> Mesh:
        """The last good surface with vertex colours, cleaned, on the CPU."""
        with torch.no_grad():
            try:
                surface = self._sound()
            except SurfaceLost:
                self._put_back()
                surface = self._sound()
            colors = torch.cat([self.net(part)[1] for part in surface.vertices.split(POINTS_AT_ONCE)])
        return clean.clean(Mesh(surface.vertices.detach().cpu(), surface.faces.cpu(), vertex_colors=srgb_to_linear(colors.cpu())))

    def textured(self, tick: Tick = no_tick) -> Mesh:
        """`mesh()` with at most `settings.faces` triangles, uvs, and a texture of `settings.texture` texels a side."""
        from ..meshes.bake_texture import bake_from_field

        small = simplify.simplify(self.mesh(), self.fine.faces)
        unwrapped = unwrap.unwrap(small, texture_size=self.fine.texture, tick=tick)
        return bake_from_field(unwrapped, _Paint(self.net, 1.0), self.fine.texture, device=self.device, tick=tick)

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._surface = self._sound()
        self._good = self._snapshot()
        self._vertices = self._surface.vertices.detach().requires_grad_(True)
        self._topology: Topology = make_topology(self._surface.faces)

    def _sound(self) -> Surface:
        fate = "degenerated"
        if all(bool(torch.isfinite(leaf).all()) for leaf in self.grid.parameters.values()):
            surface = self.grid.surface()
            if len(surface.faces) == 0:
                fate = "vanished"
            elif float(face_vectors(surface.vertices.detach(), surface.faces).norm(dim=1).sum() / 2) > LEAST_AREA:
                return surface
        raise SurfaceLost(
            f"{self.stage}: the surface {fate} at step {self.steps_done + 1}; the last good mesh is kept. Check that mask and prior show "
            "the same object, or lower the rates and the prior's weight."
        )

    def _snapshot(self) -> dict[str, Tensor]:
        return {name: leaf.detach().clone() for name, leaf in self.grid.parameters.items()}

    def _put_back(self) -> None:
        with torch.no_grad():
            for name, leaf in self.grid.parameters.items():
                leaf.copy_(self._good[name])

    def _learn_colors(self, mesh: Mesh, start: Field | Mesh, optimiser: torch.optim.Optimizer, tick: Tick) -> None:
        """The network learns the colours of what it starts from, on the surface and a little around it."""
        field = None if isinstance(start, Mesh) else start.to(self.device)
        for step in range(self.fine.color_start):
            points, face, bary = sample_faces(mesh, START_POINTS, seed=step)
            near = points + START_SPREAD * torch.randn(points.shape, generator=self.generator)
            near = near.to(self.device)
            with torch.no_grad():
                target = colors_on_faces(mesh, face, bary).clamp(0, 1).to(self.device) if field is None else field.color(near).clamp(0, 1)
            optimiser.zero_grad(set_to_none=True)
            F.mse_loss(self.net(near)[1], target).backward()
            optimiser.step()
            tick(step + 1, self.fine.color_start)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See `Distillation.state`."""
        tensors, about = super().state()
        return tensors, about | {"cell": self.grid.cell}

    def restore(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """See `Distillation.restore`. The run must have been begun from the same mesh or field."""
        cell = about.get("cell", self.grid.cell)
        if about.get("stage") == self.stage and (not isinstance(cell, float) or abs(cell - self.grid.cell) > 1e-4 * self.grid.cell):
            raise ValueError(
                f"{self.stage}: the run state does not fit these settings: it was begun from a mesh or field of another size, or with "
                f"another grid (its cells are {cell}, not {self.grid.cell:.5f} wide). Go on with what it was begun with."
            )
        super().restore(tensors, about)
        self._open()


def _depth_of(zw: Tensor, near: float = camera_math.NEAR, far: float = camera_math.FAR) -> Tensor:
    """z-depth of OpenGL's z / w; see `camera_math.clip_matrices`."""
    return 2 * near * far / ((far + near) - zw * (far - near))


def _normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Unit normals of vertices, faces weighted by area; differentiable."""
    each = face_vectors(vertices, faces)
    sums = torch.zeros_like(vertices)
    for corner in faces.unbind(1):
        sums = sums.index_add(0, corner, each)
    return F.normalize(sums, dim=1, eps=1e-12)
