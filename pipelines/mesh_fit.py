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

from . import meshing, sheets
from .cameras import count_assets
from .data.cameras import Cameras
from .data.mesh import Mesh
from .data.progress import Tick, no_tick, part_of
from .flexi_band import FlexiBand
from .mesh_fit_settings import (  # noqa: F401  (one door to the fit)
    MeshFitSettings,
    load_mesh_preset,
    mesh_preset_names,
)
from .ops import camera_math
from .ops.flexicubes import FlexiSurface, sign_consistency
from .ops.mesh_raster import Topology, antialias, interpolate, make_topology, rasterize_mesh
from .perceptual import Perceptual
from .rendering import render_mesh
from .splat_curve import loss_curve
from .texture_fit import TextureFit
from .view_losses import ViewLosses

log = logging.getLogger(__name__)

LEAST_VIEW = 16  # pixels a side
EMPTY = 0.01  # masks below this show no object
VIEWS_AT_ONCE = 4  # views of a step that are drawn and compared together: bounds memory, changes nothing else
MOST_BAD_STEPS = 20  # in a row
PREVIEW_EVERY = 5  # steps
SHOWN_VIEWS = 4  # in the preview of a result


class SurfaceLost(ValueError):
    """The surface vanished. `MeshFit.mesh` still gives the last good one."""


class FitBroken(RuntimeError):
    """Too many steps in a row gave numbers that are not finite. `MeshFit.mesh` still gives the last good state."""


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
        seed: the same seed gives the same mesh, bit for bit on the CPU.
        perceptual: the network of the perceptual loss; None takes the bundled one, where that loss has a weight.

    Raises:
        ValueError: no faces, views, masks and cameras that do not belong together, NaN, all masks empty, a mesh without an inside.

    Attributes:
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
        images, masks, cameras = checked_views(images, masks, cameras, settings.background)
        self.settings, self.device, self.seed = settings, torch.device(device), seed
        self.images, self.masks, self.cameras = images, masks, cameras
        self._perceptual = perceptual
        self._target = ViewLosses(
            images.to(self.device), None if masks is None else masks.to(self.device), settings.weights,
            perceptual_size=settings.perceptual_size, generator=torch.Generator().manual_seed(seed), perceptual=perceptual,
        )  # fmt: skip
        self._clip = camera_math.clip_matrices(cameras.c2w, cameras.K).to(self.device)
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
                f"Fit Mesh: the surface vanished at step {number}; the mesh before it is kept. Check that masks show the object in white "
                "and that cameras and images belong together, or lower the weight of the masks."
            )
        vertices = surface.vertices.detach().requires_grad_(True)
        colors = self.band.colors_at(surface.vertices)
        shown = colors.detach().requires_grad_(True)
        topology = make_topology(surface.faces)
        views = self._target.next_views(settings.views_per_step)
        seen, totals = number % settings.perceptual_every == 0, dict.fromkeys(["total"], 0.0)
        for part in (views[i : i + VIEWS_AT_ONCE] for i in range(0, len(views), VIEWS_AT_ONCE)):
            images, alphas = self._draw(vertices, shown, surface.faces, topology, part)
            loss, terms = self._target.compare(images, alphas, part, perceptual=seen)
            share = len(part) / len(views)
            (loss * share).backward()
            for name, value in (terms | {"total": float(loss.detach())}).items():
                totals[name] = totals.get(name, 0.0) + value * share
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
        return meshing.clean(mesh)

    def textured(self, tick: Tick = no_tick) -> Mesh:
        """`mesh()` simplified, with uvs, and a texture baked from the views and optimised against them."""
        from .texture import bake_from_views

        settings = self.settings
        tick(0, 1)
        small = meshing.simplify(self.mesh(), settings.faces)
        unwrapped = meshing.unwrap(small, texture_size=settings.texture_size, tick=tick)
        baked, _ = bake_from_views(unwrapped, self.images, self.masks, self.cameras, size=settings.texture_size, tick=tick)
        if settings.texture_steps == 0:
            return baked
        fit = TextureFit(
            baked, self.images, self.masks, self.cameras, settings=settings, seed=self.seed, device=self.device, perceptual=self._perceptual
        )
        fit.run(settings.texture_steps, tick)
        self.losses += fit.losses
        return fit.mesh()

    def result(self, mesh: Mesh) -> MeshFitResult:
        """This mesh with its comparison to the views, and the curve of the steps so far."""
        count = len(self.images)
        shown = sorted({round(i * count / SHOWN_VIEWS) for i in range(min(SHOWN_VIEWS, count))})
        height, width = self.images.shape[2:]
        drawn = render_mesh(mesh, self.cameras.select(shown), height, width, background=self.settings.background, device=self.device)
        sheet = sheets.tile(torch.cat([self.images[shown], drawn.images.detach()]), len(shown))[0]
        return MeshFitResult(mesh, sheet, loss_curve(self.losses, title="Fit Mesh: losses before their weights"))

    def _draw(self, vertices: Tensor, colors: Tensor, faces: Tensor, topology: Topology, views: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) and alphas (B, 1, H, W) of these views."""
        pos = F.pad(vertices, (0, 1), value=1.0) @ self._clip[list(views)].transpose(1, 2)
        face, bary, zw = rasterize_mesh(pos, faces, tuple(self.images.shape[2:]))  # type: ignore[arg-type]
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
        self._picture = torch.cat([image.detach().movedim(0, -1), self._target.images[view].movedim(0, -1)], dim=1).clamp(0, 1)


def checked_views(
    images: Tensor, masks: Tensor | None, cameras: Cameras, background: Sequence[float]
) -> tuple[Tensor, Tensor | None, Cameras]:
    """The views that show the object, over the background, on the CPU.

    Raises:
        ValueError: shapes, counts and sizes that do not belong together, numbers that are not finite, all masks empty.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"Fit Mesh: views of shape (V, 3, H, W) are expected, not {tuple(images.shape)}.")
    if cameras.n_assets is not None or cameras.n_views != len(images):
        raise ValueError(f"Fit Mesh: {len(images)} views of one asset need as many cameras, not {cameras.n_views}; wire theirs.")
    if min(images.shape[2:]) < LEAST_VIEW:
        raise ValueError(f"Fit Mesh: the views are {images.shape[3]} x {images.shape[2]}; they need at least {LEAST_VIEW} pixels a side.")
    for name, tensor in (("views", images), ("masks", masks)):
        if tensor is not None and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"Fit Mesh: the {name} hold NaN or infinite pixels, from the node before (often a VAE in half precision).")
    images = images.detach().float().cpu()
    if masks is None:
        return images.clone(), None, cameras
    if masks.shape != (len(images), 1, *images.shape[2:]):
        raise ValueError(
            f"Fit Mesh: {len(images)} views of {images.shape[3]} x {images.shape[2]} need as many masks of that size, "
            f"not {tuple(masks.shape)}: resize them, or leave the masks away."
        )
    masks = masks.detach().float().cpu()
    useful = torch.nonzero(masks.flatten(1).amax(1) > 0.5).flatten().tolist()
    if not useful:
        raise ValueError("Fit Mesh: all masks are empty, so there is no object to fit. Masks show the object in white; invert them if not.")
    if len(useful) < len(images):
        log.warning("Fit Mesh: the masks of %d of %d views are empty; these views are left out.", len(images) - len(useful), len(images))
    images = torch.where(masks > EMPTY, images, torch.tensor(list(background)).reshape(1, 3, 1, 1))
    return images[useful], masks[useful], cameras.select(useful)


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
    assets, views = count_assets(len(images), cameras, "views"), cameras.n_views
    if masks is not None and len(masks) != len(images):
        raise ValueError(f"Fit Mesh: {len(images)} views need as many masks, not {len(masks)}.")
    if len(meshes) != assets:
        raise ValueError(f"Fit Mesh: the views show {assets} assets, but there are {len(meshes)} meshes.")
    own = [
        (images[i * views : (i + 1) * views], None if masks is None else masks[i * views : (i + 1) * views], cameras.of_asset(i))
        for i in range(assets)
    ]
    for row in own:
        checked_views(*row, settings.background)
    for mesh, row in zip(meshes, own, strict=True):
        yield MeshFit(mesh, *row, settings=settings, seed=seed, device=device, perceptual=perceptual)


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
