"""Priors for distillation: what ComfyUI's own models and Lathe's view models say about renders, and their combination."""

from __future__ import annotations

import logging
from typing import Any

import torch
from comfy_api.latest import io

from ..pipelines.cameras.presets import preset_cameras
from ..pipelines.data.views import SOLID
from ..pipelines.distillation import prior_settings
from ..pipelines.distillation.priors import ScoreDistillation, combine, trade
from .core import memory
from .core.images import images_in, outlines_in
from .core.schema import IMAGE, MASK, PRIOR, VIEW_MODEL, schema, widget

log = logging.getLogger(__name__)

CATEGORY = "3d/Lathe/Distil"
DISTILLED_GUIDANCE = 1.0  # classifier-free guidance of 1 is none
STABLE, ZERO123 = "Stable Zero123", "Zero-1-to-3"
WORDS = ("front", "side", "back", "overhead")


def preset_input() -> Any:
    """Which set of weights."""
    return widget(
        io.Combo, "preset", options=list(prior_settings.preset_names()), default="threestudio",
        tooltip="Weight, noise levels, w(t) and guidance in the coarse and the fine stage. threestudio: balanced for float32, with the "
        "loop's preset of the same name. as_coded: what Magic123's half precision really applied. paper: Magic123's printed weights, which "
        "in float32 drown the reference picture.",
    )  # fmt: skip


def strength_input() -> Any:
    """A factor on the preset's weight."""
    return widget(
        io.Float,
        "strength",
        default=1.0,
        min=0.0,
        max=1000.0,
        step=0.05,
        tooltip="Multiplies the preset's weight: more follows the prior, less the reference picture.",
    )


def guidance_input(own: str) -> Any:
    """Guidance in place of the preset's."""
    return widget(
        io.Float,
        "guidance",
        default=0.0,
        min=0.0,
        max=1000.0,
        step=0.5,
        tooltip=f"Classifier-free guidance; 0 takes the preset's: {own}.",
    )


def prior_output(tooltip: str) -> Any:
    """The socket."""
    return PRIOR.Output(display_name="prior", tooltip=tooltip)


FOR_LOOPS = "For Distil Field, Distil Mesh and Distil Splat, or Combine Priors."


class LathePriorFromModel(io.ComfyNode):
    """A core MODEL as 2D prior."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LathePriorFromModel",
            display_name="Prior From Model",
            category=CATEGORY,
            description="Makes a prior of any image model (SD 1.5, SDXL, ...) with its LoRAs, ControlNets and hooks: renders from all "
            "sides are pulled towards what the model would draw there (score distillation). It knows what things look like, not how they "
            "stand: combine it with a prior that is told the pose.",
            search_aliases=["SDS", "score distillation", "dreamfusion", "magic123", "2D prior", "text to 3d"],
            inputs=[
                io.Model.Input("model", tooltip="The image model, with whatever patches it."),
                io.Conditioning.Input("positive", tooltip="What the object is: the prompt, as for sampling."),
                io.Conditioning.Input("negative", tooltip="What it shall not be; may be an empty prompt."),
                io.Vae.Input("vae", tooltip="The model's VAE: the gradient goes through its encoder."),
                *(
                    io.Conditioning.Input(
                        word, optional=True,
                        tooltip=f"Prompt for views from {where}, such as \"..., {words}\"; else `positive` serves. Keeps the prior from "
                        "drawing a face on every side.",
                    )
                    for word, where, words in (
                        ("front", "within 45 degrees of the reference", "front view"), ("side", "the sides", "side view"),
                        ("back", "behind", "back view"), ("overhead", "more than 60 degrees above", "overhead view"),
                    )
                ),
                preset_input(),
                strength_input(),
                guidance_input("100, as score distillation needs, or 1 for models with their guidance built in (Flux)"),
                widget(
                    io.Int, "resolution", default=512, min=64, max=2048, step=8,
                    tooltip="Side in pixels of what the model is asked about; renders are resized to it. Take the model's own: 512 "
                    "for SD 1.5, 1024 for SDXL.",
                ),
            ],
            outputs=[prior_output(FOR_LOOPS)],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, positive, negative, vae, preset, strength, guidance, resolution, front=None, side=None, back=None, overhead=None
    ) -> io.NodeOutput:
        from .core.denoisers import CoreDenoiser
        from .core.image_models import is_guidance_distilled

        by_word = dict(zip(WORDS, (front, side, back, overhead), strict=True))
        denoiser = CoreDenoiser(model, positive, negative, vae, size=resolution, by_word=by_word)
        if guidance == 0 and is_guidance_distilled(model):
            guidance = DISTILLED_GUIDANCE
            log.warning(
                "Prior From Model: this model (%s) has its guidance built in, so guidance is %g (none on top) instead of the preset's. "
                "Set the model's own with Flux Guidance on the prompt; any other guidance here takes its place.",
                type(model.model).__name__, guidance,
            )  # fmt: skip
        return io.NodeOutput(ScoreDistillation(denoiser, prior_settings.stages_of(preset, "2d", strength, guidance or None)))


class LathePriorFromZero123(io.ComfyNode):
    """Stable Zero123 or Zero-1-to-3 as 3D prior."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LathePriorFromZero123",
            display_name="Prior From Zero123",
            category=CATEGORY,
            description="Makes a prior of Stable Zero123 or Zero-1-to-3: it sees the reference picture and is told from where each render "
            "was taken, so it knows how the object stands in space.",
            search_aliases=["zero123", "zero-1-to-3", "stable zero123", "SDS", "magic123", "3D prior"],
            inputs=[
                io.Model.Input("model", tooltip="From core's Image Only Checkpoint Loader, with the Zero123 file."),
                io.ClipVision.Input("clip_vision", tooltip="From the same loader."),
                io.Vae.Input("vae", tooltip="From the same loader."),
                IMAGE.Input("image", tooltip="The reference picture: the object centred on white, from Prepare Image."),
                MASK.Input("mask", optional=True, tooltip="1 = object; lays the picture on white."),
                widget(
                    io.Combo, "pose_value", options=[STABLE, ZERO123], default=STABLE,
                    tooltip="Which of the two the file is: they differ in the fourth number of a pose. Stable Zero123 is told the "
                    "reference's own polar angle there, Zero-1-to-3 how much farther the camera is; nothing in the file says which.",
                ),
                widget(
                    io.Float, "elevation", default=0.0, min=-90.0, max=90.0, step=1.0,
                    tooltip="How far above the object the reference picture was taken, degrees: as in the distilling node.",
                ),
                widget(
                    io.Float, "radius", default=1.8, min=0.1, max=100.0, step=0.1,
                    tooltip="Distance of the reference camera, as in the distilling node. Matters to Zero-1-to-3 only.",
                ),
                preset_input(),
                strength_input(),
                guidance_input("5"),
                widget(
                    io.Int, "resolution", default=256, min=64, max=1024, step=8, advanced=True,
                    tooltip="Side in pixels of what the model is asked about; both were trained at 256.",
                ),
            ],
            outputs=[prior_output(FOR_LOOPS)],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, clip_vision, vae, image, pose_value, elevation, radius, preset, strength, guidance, resolution, mask=None
    ) -> io.NodeOutput:
        from .core.denoisers import Zero123Denoiser

        picture = on_white(*one_picture(image, mask, square=True))
        denoiser = Zero123Denoiser(model, clip_vision, vae, picture, size=resolution, elevation=elevation, radius=radius, fourth=pose_value)
        stages = prior_settings.stages_of(preset, "3d", strength, guidance or None)
        return io.NodeOutput(ScoreDistillation(denoiser, stages, elevation=elevation))


class LathePriorFromViewModel(io.ComfyNode):
    """A view model as 3D prior."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LathePriorFromViewModel",
            display_name="Prior From View Model",
            category=CATEGORY,
            description="Makes a prior of a model that draws all views of an object at once (Zero123++ or the mini model): renders from "
            "its own cameras stand in one picture and are judged together. Distilling then takes the novel views from those cameras only.",
            search_aliases=["zero123++", "zero123plus", "mvdream", "multiview SDS", "3D prior", "mini"],
            inputs=[
                VIEW_MODEL.Input("view_model", tooltip="The model, from Load View Model."),
                IMAGE.Input("image", tooltip="The reference picture, from Prepare Image."),
                MASK.Input("mask", optional=True, tooltip="1 = object; lays the picture on the background the model knows."),
                preset_input(),
                strength_input(),
                guidance_input("the model's own"),
                widget(
                    io.Int,
                    "seed",
                    default=0,
                    min=0,
                    max=2**32 - 1,
                    tooltip="Of the noise in what the model sees of the reference. The noise of each step comes from the loop's seed.",
                ),
            ],
            outputs=[prior_output(FOR_LOOPS)],
        )

    @classmethod
    def execute(cls, view_model, image, preset, strength, guidance, seed, mask=None) -> io.NodeOutput:
        from ..pipelines.distillation.view_model_prior import ViewGridDenoiser
        from ..pipelines.nets.attention import torch_attention
        from ..pipelines.view_generation.sampling import blend_on_background

        picture, outline = one_picture(image, mask, square=True)
        model = view_model.model
        with torch.inference_mode(False):
            picture = blend_on_background(picture.clone(), None if outline is None else outline.clone(), model.background)
            denoiser = ViewGridDenoiser(
                model, picture, None if outline is None else outline.clone(), seed=seed, device=memory.device(),
                attention=memory.attention() or torch_attention, use=view_model.use,
            )  # fmt: skip
            stages = prior_settings.stages_of(preset, "views", strength, guidance or None)
            return io.NodeOutput(ScoreDistillation(denoiser, stages, required_cameras=preset_cameras(model.camera_preset)))


class LatheCombinePriors(io.ComfyNode):
    """Two priors, one slider."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheCombinePriors",
            display_name="Combine Priors",
            category=CATEGORY,
            description="Adds two priors with one slider between imagination (the 2D prior: rich detail, but many faces) and precision "
            "(the 3D prior: the right shape, but plain). Magic123's trade-off; combinations can be combined again.",
            search_aliases=["magic123", "lambda 2D 3D", "mix priors", "SDS weight"],
            inputs=[
                PRIOR.Input("prior_2d", tooltip="From Prior From Model."),
                PRIOR.Input("prior_3d", tooltip="From Prior From Zero123 or Prior From View Model."),
                widget(
                    io.Float, "imagination", default=0.5, min=0.0, max=1.0, step=0.01, display_mode=io.NumberDisplay.slider,
                    tooltip="0 is the 3D prior alone, 1 the 2D prior alone, 0.5 both with their full weights, as in the paper. Below "
                    "0.5 the 2D prior is weakened, above it the 3D prior.",
                ),
            ],
            outputs=[prior_output(FOR_LOOPS)],
        )  # fmt: skip

    @classmethod
    def execute(cls, prior_2d, prior_3d, imagination) -> io.NodeOutput:
        weight_2d, weight_3d = trade(imagination)
        return io.NodeOutput(combine([(prior_2d, weight_2d), (prior_3d, weight_3d)]))


def one_picture(image: Any, mask: Any, square: bool = False) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(1, 3, H, W) and (1, 1, H, W) or None, where the picture has neither mask nor alpha.

    Raises:
        ValueError: more than one picture, a mask of another size or an empty one, or a picture that is not `square` where it must be.
    """
    picture = images_in(image)
    outline = outlines_in(image, mask, "mask", "image")
    if len(picture) != 1:
        raise ValueError(f"A prior is of one object: wire one reference picture, not {len(picture)} (core's Image From Batch takes one).")
    if outline is not None and outline.shape != (1, 1, *picture.shape[-2:]):
        raise ValueError(f"The mask's shape {tuple(outline.shape)} does not fit the picture's {tuple(picture.shape)}.")
    if outline is not None and not bool((outline > SOLID).any()):
        raise ValueError("The mask is empty, so there is no object in the picture. Masks are 1 on the object; invert it if it is not.")
    if square and picture.shape[-1] != picture.shape[-2]:
        height, width = picture.shape[-2:]
        raise ValueError(f"The reference picture must be square, as Prepare Image makes it; this one is {width} x {height}.")
    return picture, outline


def on_white(picture: torch.Tensor, outline: torch.Tensor | None) -> torch.Tensor:
    """The picture on white, where its outline is known."""
    from ..pipelines.view_generation.sampling import blend_on_background

    return blend_on_background(picture, outline, (1.0, 1.0, 1.0))


NODES = [LathePriorFromModel, LathePriorFromZero123, LathePriorFromViewModel, LatheCombinePriors]
