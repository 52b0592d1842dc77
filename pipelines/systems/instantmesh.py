"""InstantMesh (Xu et al. 2024, arXiv 2404.07191): one picture to a textured mesh.

    picture -> six views -> field -> mesh -> textured mesh

The template `image_to_mesh` is the same as a graph; a test holds the two equal.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..cameras.presets import preset_cameras
from ..data.field import Field
from ..data.mesh import Mesh
from ..data.progress import Tick, no_tick
from ..data.views import AssetViews
from ..images.foreground import mask_views, prepare
from ..meshes.bake_texture import bake_from_field
from ..meshes.clean import clean
from ..meshes.extract import field_to_mesh
from ..meshes.simplify import simplify
from ..meshes.unwrap import unwrap
from ..reconstruction.lrm import LRM, reconstruct
from ..view_generation.model import ViewModel
from ..view_generation.sampling import generate_views

PICTURE_SIZE = 512  # pixels the object's square is resampled to; the view model resizes it to its own
FACES, TEXTURE_SIZE = 50_000, 2048


def image_to_views(
    picture: Tensor, mask: Tensor | None, model: ViewModel, *, size: int = PICTURE_SIZE, seed: int = 0, steps: int | None = None,
    device: torch.device | str = "cpu", tick: Tick = no_tick,
) -> AssetViews:  # fmt: skip
    """Section 3.1, multi-view diffusion: the object on its own in a square (3, H, W), its six views, their masks and cameras."""
    image, outline = prepare(picture, mask, size=size, background=model.background)
    return posed_views(generate_views(model, image, outline, seed=seed, steps=steps, device=device, tick=tick), model)


def posed_views(images: Tensor, model: ViewModel) -> AssetViews:
    """Views a model drew, with their masks and the cameras it draws for."""
    return images, mask_views(images, model.mask_method), preset_cameras(model.camera_preset)


def views_to_field(views: AssetViews, lrm: LRM, *, device: torch.device | str = "cpu", tick: Tick = no_tick) -> Field:
    """Section 3.2, sparse-view reconstruction: views to triplanes, and these read as a field."""
    return reconstruct(lrm, *views, device=device, tick=tick)[0]


def field_to_surface(field: Field, *, device: torch.device | str = "cpu", tick: Tick = no_tick) -> Mesh:
    """Section 3.2, the surface by FlexiCubes at the field's own resolution, with vertex colours."""
    return clean(field_to_mesh(field, device=device, tick=tick))


def surface_to_asset(
    mesh: Mesh, field: Field, *, faces: int = FACES, texture_size: int = TEXTURE_SIZE, device: torch.device | str = "cpu",
    tick: Tick = no_tick,
) -> Mesh:  # fmt: skip
    """As the published program exports it: fewer faces, unwrapped, the field's colours as a texture."""
    flat = unwrap(simplify(mesh, faces), texture_size=texture_size, tick=tick)
    return bake_from_field(flat, field, texture_size, device=device, tick=tick)


def image_to_mesh(
    picture: Tensor, mask: Tensor | None, model: ViewModel, lrm: LRM, *, seed: int = 0, steps: int | None = None, faces: int = FACES,
    texture_size: int = TEXTURE_SIZE, device: torch.device | str = "cpu", tick: Tick = no_tick,
) -> Mesh:  # fmt: skip
    """The whole of it.

    Args:
        picture: (3, H, W) in [0, 1], or (4, H, W) with alpha.
        mask: (H, W), 1 = object; None finds the object by the alpha, else on the plain background.
        seed, steps: of the view diffusion; None takes the model's own number of steps.

    Raises:
        ValueError: as the stages, in their words.
    """
    views = image_to_views(picture, mask, model, seed=seed, steps=steps, device=device, tick=tick)
    field = views_to_field(views, lrm, device=device, tick=tick)
    mesh = field_to_surface(field, device=device, tick=tick)
    return surface_to_asset(mesh, field, faces=faces, texture_size=texture_size, device=device, tick=tick)
