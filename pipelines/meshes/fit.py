"""A mesh optimised against the views and losses that the splats were fitted to: the second half of IM-3D's conversion (section A.5).

The paper uses DMTet; this is FlexiCubes, its successor, on a grid whose distances start from the mesh: surface and colours first, then
the mesh gets uvs, and its texture is baked from the views and optimised against them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.cameras import Cameras
from ..data.mesh import Mesh
from ..data.progress import Tick, no_tick, part_of
from ..data.views import asset_views
from ..fitting.failed_steps import MOST_BAD_STEPS, FitBroken
from ..fitting.perceptual import Perceptual, load_perceptual
from ..fitting.targets import VIEWS_AT_ONCE, Targets
from ..images import sheets
from ..ops import camera_math
from ..ops.flexicubes import FlexiSurface, sign_consistency
from ..ops.mesh_raster.dispatch import antialias, interpolate, rasterize_mesh
from ..ops.mesh_topology import Topology, make_topology
from ..plots.loss_curve import loss_curve
from ..rendering.mesh import render_mesh
from . import clean, simplify, unwrap
from .fit_settings import MeshFitSettings
from .fit_texture import TextureFit
from .flexicubes_band import FlexiBand

log = logging.getLogger(__name__)

STAGE = "Fit Mesh"
PREVIEW_EVERY = 5  # steps
SHOWN_VIEWS = 4  # in the preview of a result


class SurfaceLost(ValueError):
    """The surface vanished. `MeshFit.mesh` still gives the last good one."""


@dataclass(frozen=True)
class MeshFitResult:
    """One fitted asset.

    Attributes:
        mesh: with uvs and texture, on the CPU.
        preview: (3, H, W), a few of the views above what the mesh looks like from there.
        curve: (3, h, w), the loss curve.
    """

    mesh: Mesh
    preview: Tensor
    curve: Tensor


class MeshFit:
    """A fit of surface and colours that goes on step by step; whatever interrupts it, the state after the last good step stays.

    Args:
        mesh: what to start from, in world space, best closed. Its texture or vertex colours are the first colours; grey without.
        images: (V, 3, H, W) in [0, 1], the object before `settings.background`.
        masks: (V, 1, H, W), 1 = object, or None, which leaves the mask loss out. Views with an empty mask are left out.
        cameras: V views of one asset.
        seed: the same seed gives the same mesh, bit for bit on one CPU thread.
        perceptual: the network of the perceptual loss; None takes the bundled one, where that loss has a weight.

    Raises:
        ValueError: no faces, views, masks and cameras that do not belong together, NaN, all masks empty, a mesh without an inside.

    Attributes:
        targets: the views it is held against.
        losses: one mapping a step, every term before its weight, and "total".
        skipped: steps that changed nothing because their numbers were not finite.
    """

    def __init__(
        self,
        mesh: Mesh,
        images: Tensor,
        masks: Tensor | None,
        cameras: Cameras,
        *,
        settings: MeshFitSettings,
        seed: int = 0,
        device: torch.device | str = "cpu",
        perceptual: Perceptual | None = None,
    ) -> None:
        if mesh.faces.shape[0] == 0:
            raise ValueError("Fit Mesh: the mesh has no faces, so there is nothing to fit.")
        if lost := mesh.beyond_color():
            log.warning("Fit Mesh: the fitted mesh is new; it starts from the mesh's colours and loses its %s.", ", ".join(lost))
        self.settings, self.device = settings, torch.device(device)
        if settings.weights.perceptual and perceptual is None:
            perceptual = load_perceptual(device=device)
        generator, self._views_given = torch.Generator().manual_seed(seed), len(images)
        self.targets = Targets(images, masks, cameras, settings, perceptual, generator, self.device, STAGE)
        self._clip = camera_math.clip_matrices(self.targets.cameras.c2w, self.targets.cameras.K).to(self.device)
        self._background = torch.tensor(settings.background, device=self.device)
        self.band = FlexiBand(mesh, settings.resolution, self.device)
        rates = settings.rates
        self._optimiser = torch.optim.Adam(
            [{"params": [leaf], "lr": getattr(rates, name), "rate": getattr(rates, name)} for name, leaf in self.band.parameters.items()],
            betas=(0.9, 0.99), eps=1e-12,
        )  # fmt: skip
        self._good = self._snapshot()
        self.losses: list[dict[str, float]] = []
        self.skipped = self._bad_in_a_row = 0
        self._picture: Tensor | None = None
        with torch.no_grad():
            if len(self.band.surface(self.band.full_sdf()).faces) == 0:
                raise ValueError(
                    f"Fit Mesh: the mesh has no inside that a grid of {settings.resolution} cells can hold: it is flat, open or too thin. "
                    "Close it, or use a finer grid."
                )

    @property
    def steps_done(self) -> int:
        """Steps made so far, the skipped ones included."""
        return len(self.losses)

    def run(self, steps: int, tick: Tick = no_tick) -> None:
        """That many more steps. A tick that raises ends the fit between two steps.

        Raises:
            SurfaceLost: the surface vanished. FitBroken: too many steps in a row were not finite.
        """
        for done in range(1, steps + 1):
            self.step()
            tick(done, steps, self._picture if done % PREVIEW_EVERY == 0 or done == steps else None)

    def step(self) -> dict[str, float]:
        """Compares some views, and moves the surface. Returns this step's losses, which `losses` keeps as well."""
        number, settings = self.steps_done + 1, self.settings
        self._optimiser.zero_grad(set_to_none=True)
        sdf = self.band.full_sdf()
        surface = self.band.surface(sdf)
        if len(surface.faces) == 0:
            self._restore()
            raise SurfaceLost(
                f"Fit Mesh: the surface vanished at step {number}. Check that masks show the object in white and that "
                "cameras and images belong together, or lower the weight of the masks."
            )
        vertices = surface.vertices.detach().requires_grad_(True)
        colors = self.band.colors_at(surface.vertices)
        shown = colors.detach().requires_grad_(True)
        topology = make_topology(surface.faces)
        views = self.targets.next_views()
        seen = number % settings.perceptual_every == 0
        totals: dict[str, float] = {}
        for part in (views[i : i + VIEWS_AT_ONCE] for i in range(0, len(views), VIEWS_AT_ONCE)):
            images, alphas = self._draw(vertices, shown, surface.faces, topology, part)
            terms = self.targets.compare(images, alphas, part, seen)
            share = len(part) / len(views)
            (terms["total"] * share).backward()
            for name, value in terms.items():
                totals[name] = totals.get(name, 0.0) + float(value.detach()) * share
            self._remember_picture(images[-1], part[-1])
        kept = self._regularise(surface, sdf, topology)
        gradients = [torch.zeros_like(t) if t.grad is None else t.grad for t in (vertices, shown)]
        torch.autograd.backward([surface.vertices, colors, kept], [*gradients, torch.ones_like(kept)])
        totals["total"] += float(kept.detach())
        self.losses.append(totals)
        finite = all(leaf.grad is None or bool(torch.isfinite(leaf.grad).all()) for leaf in self.band.parameters.values())
        if math.isfinite(totals["total"]) and finite:
            self._bad_in_a_row = 0
            self._move(number)
        else:
            self._skip()
        return totals

    def mesh(self) -> Mesh:
        """The last good surface with vertex colours, cleaned, on the CPU."""
        mesh = self.band.mesh()
        if len(mesh.faces) == 0:
            self._restore()
            mesh = self.band.mesh()
        return clean.clean(mesh)

    def textured(self, tick: Tick = no_tick) -> Mesh:
        """`mesh()` simplified, with uvs, and a texture baked from the views and optimised against them."""
        from .bake_texture import bake_from_views

        settings, targets = self.settings, self.targets
        masks = None if targets.masks is None else targets.masks.cpu()
        tick(0, 1)
        small = simplify.simplify(self.mesh(), settings.faces)
        unwrapped = unwrap.unwrap(small, texture_size=settings.texture_size, tick=tick)
        baked, _ = bake_from_views(unwrapped, targets.images.cpu(), masks, targets.cameras, size=settings.texture_size, tick=tick)
        if settings.texture_steps == 0:
            return baked
        fit = TextureFit(baked, targets, settings)
        fit.run(settings.texture_steps, tick)
        self.losses += fit.losses
        return fit.mesh()

    def result(self, mesh: Mesh) -> MeshFitResult:
        """This mesh with its comparison to the views, and the curve of the steps so far."""
        targets, columns = self.targets, min(SHOWN_VIEWS, self._views_given)
        shown = [i * len(targets) // columns for i in range(columns)]
        drawn = render_mesh(
            mesh, targets.cameras.select(shown), targets.height, targets.width, background=self.settings.background, device=self.device
        )
        sheet = sheets.tile(torch.cat([targets.images[shown].cpu(), drawn.images.detach()]), columns)[0]
        return MeshFitResult(mesh, sheet, loss_curve(self.losses, title="Fit Mesh: losses before their weights"))

    def _draw(self, vertices: Tensor, colors: Tensor, faces: Tensor, topology: Topology, views: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) and alphas (B, 1, H, W) of these views."""
        pos = F.pad(vertices, (0, 1), value=1.0) @ self._clip[list(views)].transpose(1, 2)
        face, bary, zw = rasterize_mesh(pos, faces, (self.targets.height, self.targets.width))
        covered = (face >= 0)[..., None]
        picture = torch.where(covered, interpolate(colors, faces, face, bary), self._background)
        picture = antialias(torch.cat([picture, covered.float()], dim=-1), pos, faces, face, zw, topology)
        images, alphas = picture.movedim(-1, 1).split([3, 1], dim=1)
        return images, alphas

    def _regularise(self, surface: FlexiSurface, sdf: Tensor, topology: Topology) -> Tensor:
        weights, cell = self.settings.regularisers, self.band.cell
        a, b = topology.edges.unbind(1)
        points = surface.vertices
        sums = torch.zeros_like(points).index_add(0, a, points.index_select(0, b)).index_add(0, b, points.index_select(0, a))
        count = torch.bincount(topology.edges.reshape(-1), minlength=len(points)).clamp(min=1)[:, None]
        smooth = (sums / count - points).square().sum(1).mean() / cell**2
        deviation = surface.deviation.mean() / cell
        return weights.smooth * smooth + weights.deviation * deviation + weights.sign * sign_consistency(sdf, self.band.resolution)

    def _move(self, number: int) -> None:
        self._good = self._snapshot()
        fall = 0.1 ** min(number / self.settings.steps, 1.0)
        for group in self._optimiser.param_groups:
            group["lr"] = group["rate"] * fall
        self._optimiser.step()
        with torch.no_grad():
            self.band.colors.clamp_(0, 1)

    def _skip(self) -> None:
        self.skipped += 1
        self._bad_in_a_row += 1
        if self.skipped == 1:
            log.warning("Fit Mesh: a step's losses or gradients were not finite; it is skipped, and so are others like it.")
        if self._bad_in_a_row >= MOST_BAD_STEPS:
            raise FitBroken(
                f"Fit Mesh: {self._bad_in_a_row} steps in a row gave numbers that are not finite, so the fit stopped at step "
                f"{self.steps_done}. Lower the weights of the losses, or start from a cleaner mesh."
            )

    def _snapshot(self) -> list[Tensor]:
        return [leaf.detach().clone() for leaf in self.band.parameters.values()]

    def _restore(self) -> None:
        with torch.no_grad():
            for leaf, kept in zip(self.band.parameters.values(), self._good, strict=True):
                leaf.copy_(kept)

    def _remember_picture(self, image: Tensor, view: int) -> None:
        self._picture = torch.cat([image.detach().movedim(0, -1), self.targets.images[view].movedim(0, -1)], dim=1).clamp(0, 1)


def asset_mesh_fits(
    meshes: Sequence[Mesh],
    images: Tensor,
    masks: Tensor | None,
    cameras: Cameras,
    *,
    settings: MeshFitSettings,
    seed: int = 0,
    device: torch.device | str = "cpu",
    perceptual: Perceptual | None = None,
) -> Iterator[MeshFit]:
    """A fit for each asset of a batch, none of its steps made yet; each is built when it is asked for, all are checked before.

    Args: as for `fit_meshes`.
    """
    own = asset_views(images, masks, cameras, STAGE)
    if len(meshes) != len(own):
        raise ValueError(f"Fit Mesh: the views show {len(own)} assets, but there are {len(meshes)} meshes.")
    for mesh, views in zip(meshes, own, strict=True):
        yield MeshFit(mesh, *views, settings=settings, seed=seed, device=device, perceptual=perceptual)


def fit_meshes(
    meshes: Sequence[Mesh],
    images: Tensor,
    masks: Tensor | None,
    cameras: Cameras,
    *,
    settings: MeshFitSettings,
    seed: int = 0,
    device: torch.device | str = "cpu",
    perceptual: Perceptual | None = None,
    tick: Tick = no_tick,
) -> list[MeshFitResult]:
    """Fits the mesh of each asset to its views and gives it a texture.

    Args:
        meshes: one for each asset.
        images: (B*V, 3, H, W) in [0, 1], asset-major.  masks: (B*V, 1, H, W) or None.  cameras: V views.
        seed: the same for every asset: a batch gives what single runs give.
        tick: called after each step.

    Raises:
        ValueError: as `MeshFit`. FitBroken: too many steps in a row were not finite.
    """
    results = []
    fits = asset_mesh_fits(meshes, images, masks, cameras, settings=settings, seed=seed, device=device, perceptual=perceptual)
    for index, fit in enumerate(fits):
        own = part_of(tick, index, len(meshes))
        fit.run(settings.steps, own)
        results.append(fit.result(fit.textured(own)))
    return results
