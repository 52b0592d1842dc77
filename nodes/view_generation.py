"""One picture to views: the view diffusion model."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io
from torch import Tensor, nn

from ..pipelines.cameras.presets import preset_cameras
from .core import folders, memory, nets, progress
from .core.images import images_in, images_out, masks_out, object_masks_in
from .core.schema import CAMERAS, IMAGE, MASK, VIEW_MODEL, Names, download_input, precision_input, schema, widget

if TYPE_CHECKING:
    from ..pipelines.data.progress import Tick
    from ..pipelines.view_generation.model import ViewModel

CATEGORY = "3d/Lathe/Views"
SAMPLERS = ["euler_ancestral", "dpmpp_2m"]
OWN_UNET, WHITE_UNET = "the model's own", "instant_mesh_white_unet"


def _same(net: nn.Module) -> nn.Module:
    return net


class LoadedViewModel:
    """A view model whose networks are under ComfyUI's memory management one by one: what a LATHE_VIEW_MODEL socket carries.

    Args:
        build: makes the stage's `ViewModel` on the CPU, in the precision it shall run in.
    """

    def __init__(self, build: Callable[[], ViewModel]) -> None:
        from ..pipelines.view_generation.model import memory_required

        with torch.inference_mode(False):
            self.model = build()
        self.nets = {name: nets.LoadedNet(partial(_same, net)) for name, net in self.model.modules().items()}
        self.needs = memory_required(self.model)

    def use(self, name: str) -> AbstractContextManager[Any]:
        """One of the networks, on ComfyUI's device."""
        return self.nets[name].use(self.needs[name])

    def generate(self, images: Tensor, masks: Tensor | None, tick: Tick, **settings: Any) -> Tensor:
        """`sampling.generate_views` on ComfyUI's device."""
        from ..pipelines.nets.attention import torch_attention
        from ..pipelines.view_generation.sampling import generate_views

        attention = memory.attention() or torch_attention
        return generate_views(self.model, images, masks, device=memory.device(), attention=attention, use=self.use, tick=tick, **settings)

    def renoise(self, views: Tensor, view_masks: Tensor, images: Tensor, masks: Tensor | None, tick: Tick, **settings: Any) -> Tensor:
        """`sampling.renoise_views` on ComfyUI's device."""
        from ..pipelines.nets.attention import torch_attention
        from ..pipelines.view_generation.sampling import renoise_views

        attention = memory.attention() or torch_attention
        place: dict[str, Any] = {"device": memory.device(), "attention": attention, "use": self.use, "tick": tick}
        return renoise_views(self.model, views, view_masks, images, masks, **place, **settings)


class LatheLoadViewModel(io.ComfyNode):
    """The view model from disk."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheLoadViewModel",
            display_name="Load View Model",
            category=CATEGORY,
            description="Loads a model that draws the other sides of a pictured object: the bundled mini model, or Zero123++ from its "
            "published folder.",
            search_aliases=["zero123plus", "zero123++", "load multiview diffusion", "novel view model"],
            inputs=[
                widget(
                    io.Combo,
                    "model",
                    options=folders.weight_choices("views", folders=True),
                    default=folders.MINI,
                    tooltip="mini needs no download and no GPU. Zero123++ is a folder in diffusers' layout in models/lathe or "
                    "models/diffusers; its weights are not for commercial use.",
                ),
                widget(
                    io.Combo,
                    "unet",
                    options=Names([WHITE_UNET, OWN_UNET, *folders.model_files(".bin", ".safetensors")]),
                    default=WHITE_UNET,
                    tooltip="Which U-Net of Zero123++: InstantMesh's, which paints on white as the reconstruction wants it, or the "
                    "model's own, which paints on grey. The mini model has only its own.",
                ),
                precision_input(),
                download_input(),
            ],
            outputs=[VIEW_MODEL.Output(display_name="view_model", tooltip="For Generate Views.")],
        )

    @classmethod
    def execute(cls, model, unet, precision, download) -> io.NodeOutput:
        if unet not in (WHITE_UNET, OWN_UNET) and not folders.model_path(unet).is_file():
            raise ValueError(f"{unet!r} is no file of weights; choose another U-Net in the loader.")

        def build() -> ViewModel:
            if model == folders.MINI:
                from ..pipelines.weights import mini_models

                return mini_models.load_views()
            from ..pipelines.weights.zero123plus import load_zero123plus

            tick = progress.tick_for(cls)
            folder = folders.weights_path("views", model, download, tick)
            white: Path | None = None
            if unet == WHITE_UNET:
                white = folders.weights_path("views_unet", unet, download, tick)
            elif unet != OWN_UNET:
                white = folders.model_path(unet)
            preset = "zero123plus_v1.1" if "1.1" in Path(model).name else "zero123plus_v1.2"
            return load_zero123plus(folder, white_unet=white, camera_preset=preset, dtype=memory.precision(precision), tick=tick)

        return io.NodeOutput(LoadedViewModel(build))


class LatheGenerateViews(io.ComfyNode):
    """A picture to views."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheGenerateViews",
            display_name="Generate Views",
            category=CATEGORY,
            description="Imagines the object of a picture from six sides. Each picture of a batch is an asset of its own.",
            search_aliases=["zero123plus", "zero123++", "multiview", "novel view synthesis", "image to views"],
            inputs=[
                VIEW_MODEL.Input("view_model", tooltip="The model, from Load View Model."),
                IMAGE.Input("image", tooltip="The object, centred on a plain background: from Prepare Image."),
                MASK.Input(
                    "mask", optional=True, tooltip="1 = object; from Prepare Image. Puts the object on the background the model knows."
                ),
                widget(
                    io.Int,
                    "seed",
                    default=0,
                    min=0,
                    max=2**32 - 1,
                    control_after_generate=True,
                    tooltip="Other seeds imagine other backs. Picture i of a batch is drawn with seed + i.",
                ),
                widget(
                    io.Int,
                    "steps",
                    default=0,
                    min=0,
                    max=200,
                    tooltip="Steps of denoising; 0 takes the model's own number. For Zero123++ 28 are quick, 75 give finer detail.",
                ),
                widget(
                    io.Float,
                    "guidance",
                    default=0.0,
                    min=0.0,
                    max=30.0,
                    step=0.1,
                    tooltip="How closely the views follow the picture; 0 takes the model's own. 1 is without guidance and half the work.",
                ),
                widget(
                    io.Combo,
                    "sampler",
                    options=SAMPLERS,
                    default="euler_ancestral",
                    tooltip="euler_ancestral is the published one; dpmpp_2m needs fewer steps.",
                ),
            ],
            outputs=[
                IMAGE.Output(display_name="images", tooltip="Six views of each asset, one asset after the other."),
                MASK.Output(display_name="masks", tooltip="1 = object, found on the plain background; all 1 where nothing is."),
                CAMERAS.Output(display_name="cameras", tooltip="The cameras of the views, azimuths counted from the picture."),
            ],
        )

    @classmethod
    def execute(cls, view_model, image, seed, steps, guidance, sampler, mask=None) -> io.NodeOutput:
        pixels, masks = images_in(image), None if mask is None else object_masks_in(mask, "mask")
        views = view_model.generate(
            pixels, masks, progress.tick_for(cls), seed=seed, steps=steps or None, guidance=guidance or None, sampler=sampler
        )
        return io.NodeOutput(
            images_out(views),
            masks_out(masks_of_views(views, view_model.model.mask_method)),
            preset_cameras(view_model.model.camera_preset),
        )


def masks_of_views(views: Tensor, method: str) -> Tensor:
    """Masks (N, 1, H, W) of drawn views (N, 3, H, W) on a plain background; all 1 where none can be found, and the log says so."""
    from ..pipelines.images.foreground import mask_views

    try:
        return mask_views(views, method)
    except ValueError as error:
        logging.getLogger(__name__).warning("No masks of these views, so they are all object. %s", error)
        return torch.ones_like(views[:, :1])


NODES = [LatheLoadViewModel, LatheGenerateViews]
