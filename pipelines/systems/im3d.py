"""IM-3D (Melas-Kyriazi et al. 2024, arXiv 2402.08682): views of any generator to splats, refined with the generator, and to a mesh.

    views -> splats <-> diffusion -> textured mesh

The paper's views are a film of an orbit from a video model; any other views do as well. A test holds the fit and the loop equal to the
template `image_to_splat_mini`, whose nodes also take a MODEL of ComfyUI's as the generator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..cameras.elevation import estimate_elevation, pose
from ..data.cameras import Cameras
from ..data.mesh import Mesh
from ..data.progress import Tick, no_tick
from ..data.splats import Splats
from ..data.views import AssetViews
from ..fitting.perceptual import Perceptual, load_perceptual
from ..meshes.fit import fit_meshes
from ..meshes.fit_settings import load_mesh_preset
from ..splats.fit import SplatFit, fit_splats, with_changes
from ..splats.fit_settings import load_fit_preset
from ..splats.renoise import Redenoise, RenoiseLoop
from ..splats.to_mesh import splats_to_mesh
from ..view_generation.model import ViewModel
from ..view_generation.sampling import renoise_views

# Appendix A.1. The paper calls the generator twice within its 1200 steps, every 500; here the fit ends first, as in the nodes.
ROUNDS, ROUND_STEPS, DENOISING_STEPS = 2, 500, 10
LEVEL = 0.3  # ours: the paper does not say how far it noises
FACES = 40_000


@dataclass(frozen=True)
class ViewModelRedenoise:
    """A view model as the loop's generator, with the picture (1, 3, S, S) and mask (1, 1, S, S) that its views were drawn from."""

    model: ViewModel
    picture: Tensor
    mask: Tensor | None
    steps: int = DENOISING_STEPS
    device: torch.device | str = "cpu"

    def __call__(self, images: Tensor, masks: Tensor, cameras: Cameras, level: float, seed: int, tick: Tick) -> Tensor:
        """See `splats.renoise.Redenoise`. The cameras are taken to be the model's own."""
        return renoise_views(
            self.model, images, masks, self.picture, self.mask, level=level, seed=seed, steps=self.steps, device=self.device, tick=tick
        )


def with_elevation(images: Tensor, masks: Tensor, cameras: Cameras, *, method: str = "silhouettes", tick: Tick = no_tick) -> AssetViews:
    """Appendix A.1, prior to fitting: the views on an orbit of the given distance and azimuths, at the elevation they were taken from."""
    return images, masks, pose(cameras, estimate_elevation(images, masks, cameras, method=method, tick=tick))


def views_to_splats(
    views: AssetViews, *, preset: str = "paper", seed: int = 0, perceptual: Perceptual | None = None, device: torch.device | str = "cpu",
    tick: Tick = no_tick, **changes: Any,
) -> Splats:  # fmt: skip
    """Section 3.3: 3D Gaussians fitted to the views by LPIPS, MS-SSIM and mask losses over whole pictures. `changes` of the preset."""
    settings = with_changes(load_fit_preset(preset), **changes)
    return fit_splats(*views, settings=settings, seed=seed, perceptual=perceptual, device=device, tick=tick)[0].splats


def refine(
    splats: Splats, views: AssetViews, redenoise: Redenoise, *, preset: str = "paper", rounds: int = ROUNDS, level: float = LEVEL,
    steps: int = ROUND_STEPS, background: tuple[float, float, float] = (1.0, 1.0, 1.0), seed: int = 0,
    perceptual: Perceptual | None = None, device: torch.device | str = "cpu", tick: Tick = no_tick,
) -> tuple[Splats, AssetViews]:  # fmt: skip
    """Section 3.4: the splats' renders are noised and denoised, and the fit goes on with them. Returns the last targets, too.

    Args:
        rounds, level, steps: how often, how far in (0, 1], and how many steps of the fit follow each time.
    """
    perceptual = perceptual or load_perceptual(device=device)
    settings = with_changes(load_fit_preset(preset), steps=rounds * steps, sh_degree=splats.degree, background=background)
    fit = SplatFit(*views, start=splats, settings=settings, seed=seed, perceptual=perceptual, device=device)
    loop = RenoiseLoop(fit, *views, redenoise, perceptual)
    for number in range(rounds):
        loop.round(level, steps, seed + number, tick)
    return fit.result().splats, (loop.images, loop.masks, views[2])


def splats_to_asset(
    splats: Splats, views: AssetViews, *, preset: str = "paper", faces: int = FACES, seed: int = 0,
    perceptual: Perceptual | None = None, device: torch.device | str = "cpu", tick: Tick = no_tick,
) -> Mesh:  # fmt: skip
    """Section A.5: the splats' surface, fitted to the same views by the same losses, with a texture."""
    mesh = splats_to_mesh(splats, faces=faces, tick=tick)
    settings = load_mesh_preset(preset)
    return fit_meshes([mesh], *views, settings=settings, seed=seed, perceptual=perceptual, device=device, tick=tick)[0].mesh


def views_to_asset(
    views: AssetViews,
    redenoise: Redenoise,
    *,
    preset: str = "paper",
    seed: int = 0,
    device: torch.device | str = "cpu",
    tick: Tick = no_tick,
) -> Mesh:
    """The whole of it."""
    perceptual = load_perceptual(device=device)
    how: dict[str, Any] = {"preset": preset, "seed": seed, "perceptual": perceptual, "device": device, "tick": tick}
    splats, refined = refine(views_to_splats(views, **how), views, redenoise, **how)
    return splats_to_asset(splats, refined, **how)
