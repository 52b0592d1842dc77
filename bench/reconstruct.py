"""Our side of the quality benchmarks: `systems.instantmesh`, and the picture as a seventh view, which the mini model takes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..pipelines.cameras.join_and_select import join_cameras
from ..pipelines.cameras.picture_camera import place_picture
from ..pipelines.data.mesh import Mesh
from ..pipelines.images import foreground
from ..pipelines.nets.mini_lrm import MiniLRM
from ..pipelines.reconstruction.lrm import LRM
from ..pipelines.systems import instantmesh
from ..pipelines.view_generation.model import ViewModel
from ..pipelines.view_generation.sampling import generate_views
from ..pipelines.weights import instantmesh as published
from ..pipelines.weights import mini_models
from ..pipelines.weights.zero123plus import load_zero123plus
from .scenes import Views


def load_lrm(path: Path | None) -> LRM:
    """The bundled mini reconstruction model, another file of its kind, or a published checkpoint."""
    return published.load_lrm(path or mini_models.LRM_FILE)


def load_view_model(path: Path | None, white_unet: Path | None = None) -> ViewModel:
    """The bundled mini view model, another file of its kind, or the published folder."""
    if path is not None and path.is_dir():
        return load_zero123plus(path, white_unet=white_unet)
    return mini_models.load_views(path or mini_models.VIEWS)


def views_to_mesh(lrm: LRM, views: Views) -> Mesh:
    """Posed views with their masks to a clean mesh with vertex colours."""
    return instantmesh.field_to_surface(instantmesh.views_to_field((views.images, views.masks, views.cameras), lrm))


def prepared(model: ViewModel, query: Views) -> tuple[Tensor, Tensor]:
    """The query as Prepare Image leaves it: centred, at the published foreground ratio, on the model's background."""
    return foreground.prepare(query.images[0], query.masks[0], size=query.images.shape[-1], background=model.background)


def imagine(model: ViewModel, query: Views, seed: int, steps: int | None = None) -> Tensor:
    """The six views (6, 3, h, w) the model makes of a query."""
    image, mask = prepared(model, query)
    return generate_views(model, image, mask, seed=seed, steps=steps)


def posed_views(model: ViewModel, images: Tensor) -> Views:
    """Imagined views with masks cut from their plain background, and their cameras."""
    return Views(*instantmesh.posed_views(images, model))


def with_picture(model: ViewModel, views: Views, query: Views, elevation: float) -> Views:
    """The imagined views and, last, the picture itself, seen from `elevation` degrees (Add Picture To Views)."""
    image, mask = prepared(model, query)
    camera = place_picture(mask, views.masks, views.cameras, elevation=elevation)
    size = image.shape[1:]
    images, masks = (
        torch.cat([interpolate(before, size, mode="bicubic", antialias=True).clamp(0, 1), one[None]])
        for before, one in ((views.images, image), (views.masks, mask))
    )
    return Views(images, masks, join_cameras(views.cameras, camera))


def image_to_mesh(model: ViewModel, lrm: LRM, query: Views, *, seed: int, elevation: float, steps: int | None = None) -> Mesh:
    """One picture to a mesh in the frame whose front the picture shows.

    The mini reconstruction model also gets the picture, taken to be seen from `elevation`; the published ones know six views only.
    """
    views = posed_views(model, imagine(model, query, seed, steps))
    if isinstance(lrm.net, MiniLRM):
        views = with_picture(model, views, query, elevation)
    return views_to_mesh(lrm, views)


def nothing() -> Mesh:
    """What a reconstruction that failed is scored as: a speck in the middle of an empty picture."""
    return Mesh(torch.eye(3) * 1e-3, torch.tensor([[0, 1, 2]]))
