"""Our side of the quality benchmarks: the stages of the pack one after the other, as the shipped workflows wire them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..pipelines import foreground
from ..pipelines.cameras import preset_cameras
from ..pipelines.data.field import Field
from ..pipelines.data.mesh import Mesh
from ..pipelines.lrm import LRM, reconstruct
from ..pipelines.meshing import field_to_mesh
from ..pipelines.view_diffusion import ViewModel, generate_views
from ..pipelines.weights import adapters, mini_models
from ..pipelines.weights.zero123plus import load_zero123plus
from .scenes import Views


def load_lrm(path: Path | None) -> LRM:
    """The bundled mini reconstruction model, another file of its kind, or a published checkpoint."""
    return adapters.load_lrm(path or mini_models.LRM_FILE)


def load_view_model(path: Path | None, white_unet: Path | None = None) -> ViewModel:
    """The bundled mini view model, another file of its kind, or the published folder."""
    if path is not None and path.is_dir():
        return load_zero123plus(path, white_unet=white_unet)
    return mini_models.load_views(path or mini_models.VIEWS)


def views_to_field(lrm: LRM, views: Views) -> Field:
    """Posed views with their masks to a field."""
    return reconstruct(lrm, views.images, views.masks, views.cameras)[0]


def views_to_mesh(lrm: LRM, views: Views) -> Mesh:
    """Posed views with their masks to a mesh with vertex colours."""
    return field_to_mesh(views_to_field(lrm, views))


def prepared(model: ViewModel, query: Views) -> tuple[Tensor, Tensor]:
    """The query as Prepare Image leaves it: centred, at the published foreground ratio, on the model's background."""
    size = max(model.view_size, query.images.shape[-1])
    return foreground.prepare(query.images[0], query.masks[0], size=size, background=model.background)


def imagine(model: ViewModel, query: Views, seed: int, steps: int | None = None) -> Tensor:
    """The six views (6, 3, h, w) the model makes of a query."""
    image, mask = prepared(model, query)
    return generate_views(model, image, mask, seed=seed, steps=steps)


def posed_views(model: ViewModel, images: Tensor) -> Views:
    """Imagined views with masks cut from their plain background, and their cameras."""
    return Views(images, foreground.mask_views(images, "plain_background"), preset_cameras(model.camera_preset))


def image_to_mesh(model: ViewModel, lrm: LRM, query: Views, seed: int, steps: int | None = None) -> Mesh:
    """One picture to a mesh in the frame whose front the picture shows."""
    return views_to_mesh(lrm, posed_views(model, imagine(model, query, seed, steps)))


def nothing() -> Mesh:
    """What a reconstruction that failed is scored as: a speck in the middle of an empty picture."""
    return Mesh(torch.eye(3) * 1e-3, torch.tensor([[0, 1, 2]]))
