"""The loop between splats and diffusion, whole and in parts."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..pipelines.cameras.presets import preset_cameras
from ..pipelines.data.cameras import Cameras
from ..pipelines.data.progress import Tick, part_of
from ..pipelines.data.views import count_assets
from .core import folders, gradients, memory, progress
from .core.images import images_in, images_out, masks_out, object_masks_in, outlines_in
from .core.schema import CAMERAS, IMAGE, MASK, SPLAT, VIEW_MODEL, schema, widget
from .core.splat import splat_input, splats_in, to_core_splat
from .splats import PRESETS
from .view_generation import LoadedViewModel, masks_of_views

if TYPE_CHECKING:
    from ..pipelines.splats.renoise import Redenoise

CAMERAS_AGREE = 5.0  # degrees
GENERATORS = "wire view_model and image (a model that draws views), or model, positive, negative and vae (ComfyUI's own)"


def level_input() -> Any:
    """How far to noise."""
    return widget(
        io.Float,
        "level",
        default=0.3,
        min=0.01,
        max=1.0,
        step=0.01,
        tooltip="How far the views are noised: near 0 they stay as they are, 1 draws them anew. Higher repairs more and agrees less: "
        "models of large pictures bear 0.3 to 0.5; the bundled mini view model takes 0.7 in 1 step.",
    )


def steps_input() -> Any:
    """Steps of the sampler."""
    return widget(io.Int, "steps", default=10, min=1, max=200, tooltip="Denoising steps from there, by DPM-Solver++; IM-3D takes 10.")


def seed_input() -> Any:
    """The seed."""
    return widget(
        io.Int,
        "seed",
        default=0,
        min=0,
        max=2**32 - 1,
        control_after_generate=True,
        tooltip="The same seed gives the same noise and the same fit. Asset i of a batch and each further round take the next ones.",
    )


class ViewRenoise:
    """A LATHE_VIEW_MODEL and the picture it draws from, as the loop's generator.

    Args:
        image, mask: (1, 3, S, S) and (1, 1, S, S) or None.
        steps: of the sampler.
    """

    def __init__(self, view_model: LoadedViewModel, image: Tensor, mask: Tensor | None, steps: int) -> None:
        self.view_model, self.image, self.mask, self.steps = view_model, image, mask, steps

    def __call__(self, images: Tensor, masks: Tensor, cameras: Cameras, level: float, seed: int, tick: Tick) -> Tensor:
        """See `renoise.Redenoise`. Raises ValueError for cameras that the model does not draw for."""
        self.check(cameras)
        with torch.inference_mode():
            views = self.view_model.renoise(images, masks, self.image, self.mask, tick, level=level, seed=seed, steps=self.steps)
        return views.clone()  # outside inference mode: an ordinary tensor

    def check(self, cameras: Cameras) -> None:
        """Raises ValueError unless these are the cameras the model draws for, all turned alike."""
        from ..pipelines.view_generation.model import turned_apart

        preset = self.view_model.model.camera_preset
        own = preset_cameras(preset)
        where = f"this view model draws the {own.n_views} views of the camera preset {preset}; fit the asset to the views of Generate Views"
        if cameras.n_views != own.n_views:
            raise ValueError(f"There are {cameras.n_views} cameras, but {where}.")
        eyes = torch.nn.functional.normalize(own.c2w[:, :3, 3].double(), dim=-1)
        azimuths, elevations = torch.rad2deg(torch.atan2(eyes[:, 0], eyes[:, 2])), torch.rad2deg(torch.asin(eyes[:, 1]))
        apart = turned_apart(cameras, azimuths, elevations)
        if apart > CAMERAS_AGREE:
            raise ValueError(f"The cameras stand up to {apart:.0f} degrees from where they should: {where}.")


class LatheRenoiseRefine(io.ComfyNode):
    """IM-3D's loop."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheRenoiseRefine",
            display_name="Re-noise Refine",
            category="3d/Lathe/Splats",
            description="Mends what views that disagree left in splats: renders them, noises the renders part of the way, denoises them "
            "with a diffusion model, and fits on, round by round: the loop of IM-3D. Cancel keeps what was reached.",
            search_aliases=["IM-3D", "iterative refinement", "sdedit", "gaussian splatting refine", "multiview diffusion loop"],
            inputs=[
                splat_input("splat", tooltip="The splats to refine, from Fit Splats."),
                IMAGE.Input("images", tooltip="The views they were fitted to, asset by asset; the generator works at their size."),
                CAMERAS.Input("cameras", tooltip="The cameras of the views."),
                MASK.Input("masks", optional=True, tooltip="1 = object; the masks of the views."),
                VIEW_MODEL.Input(
                    "view_model", optional=True,
                    tooltip="The generator, first choice: the model that drew the views, from Load View Model. Needs `image`, and the "
                    "model's own cameras.",
                ),
                IMAGE.Input(
                    "image", optional=True, tooltip="For the view model: the picture the views were drawn from; from Prepare Image.",
                ),
                MASK.Input("image_mask", optional=True, tooltip="For the view model: the picture's mask, 1 = object."),
                io.Model.Input(
                    "model", optional=True,
                    tooltip="The generator, second choice: any image model with its LoRAs, or SV3D or SVD, with the three inputs below.",
                ),
                io.Conditioning.Input(
                    "positive", optional=True,
                    tooltip="For the model: what the views show. That of SV3D must be for as many frames as there are views.",
                ),
                io.Conditioning.Input("negative", optional=True, tooltip="For the model: what they shall not show."),
                io.Vae.Input("vae", optional=True, tooltip="For the model: its VAE."),
                widget(
                    io.Int, "rounds", default=2, min=1, max=20,
                    tooltip="How often to render, noise, denoise and fit; IM-3D does it twice.",
                ),
                level_input(),
                steps_input(),
                widget(
                    io.Int, "fit_iterations", default=500, min=1, max=30_000,
                    tooltip="Steps of the fit in each round; IM-3D takes 500.",
                ),
                widget(
                    io.Float, "cfg", default=2.5, min=0.0, max=100.0, step=0.1,
                    tooltip="Guidance of the model: SV3D likes 2.5, image models 5 to 8. A view model takes its own.",
                ),
                seed_input(),
                widget(
                    io.Combo, "preset", options=PRESETS, default="fast",
                    tooltip="Losses and learning rates of the fit, as in Fit Splats: fast for a CPU, paper for a GPU.",
                ),
                widget(
                    io.Combo, "new_masks", options=["render", "plain_background", "half_contrast"], default="render", advanced=True,
                    tooltip="How the new views are masked. render: by the splats' opacity, whatever the generator paints around the "
                    "object. The others find the outline anew on a plain background, so that it may change.",
                ),
            ],
            outputs=[
                SPLAT.Output(display_name="splat", tooltip="The refined splats, faint Gaussians pruned."),
                IMAGE.Output(display_name="images", tooltip="The views of the last round, which the splats are fitted to now."),
                MASK.Output(display_name="masks", tooltip="Their masks, 1 = object."),
                IMAGE.Output(display_name="preview", tooltip="A few of these views above what the splats show from there."),
                IMAGE.Output(
                    display_name="curve", tooltip="The loss curve, with the distance between views and asset before and after each round."
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, splat, images, cameras, rounds, level, steps, fit_iterations, cfg, seed, preset, new_masks, masks=None, view_model=None,
        image=None, image_mask=None, model=None, positive=None, negative=None, vae=None,
    ) -> io.NodeOutput:  # fmt: skip
        from ..pipelines.fitting.perceptual import load_perceptual
        from ..pipelines.splats import fit as splat_fit
        from ..pipelines.splats import fit_settings
        from ..pipelines.splats.renoise import RenoiseLoop

        core = {"model": model, "positive": positive, "negative": negative, "vae": vae}
        check_generator(view_model, image, core)
        assets = count_assets(images.shape[0], cameras)
        with gradients.differentiable():
            starts = splats_in(splat)
            if len(starts) != assets:
                raise ValueError(f"The views show {assets} assets, but there are splats of {len(starts)}.")
            settings = splat_fit.with_changes(
                fit_settings.load_fit_preset(preset), steps=rounds * fit_iterations, sh_degree=max(one.degree for one in starts),
                # the generator sees the renders, so they stand on the colour it knows
                background=(1.0, 1.0, 1.0) if view_model is None else view_model.model.background,
            )  # fmt: skip
            views = images_in(images).clone()
            given = outlines_in(images, masks)
            outlines = None if given is None else given.clone()
            if core["model"] is not None:
                from .core.view_refiner import CoreRenoise

                generator = CoreRenoise(**core, cfg=cfg, steps=steps)
                if generator.is_video and assets > 1:
                    raise ValueError(
                        f"The views show {assets} assets, but the conditioning of SV3D and SVD holds the picture of one: refine them one "
                        "by one, or take an image model or a view model."
                    )
                generators: list[Redenoise] = [generator] * assets
            else:
                generators = view_generators(view_model, image, image_mask, assets, steps)
            height, width = views.shape[2:]
            memory.make_room(
                fit_settings.estimate_memory(cameras.n_views, height, width, settings, max(map(len, starts))),
                f"Fitting {cameras.n_views} views of {width} x {height} pixels",
                "Give smaller views (core's Upscale Image reduces them), or choose the preset fast.",
            )
            perceptual = load_perceptual(folders.model_folders(), memory.device())
            gradients.heal(perceptual.net)
            fits = splat_fit.asset_fits(
                views, outlines, cameras, start=starts, settings=settings, seed=seed, device=memory.device(), perceptual=perceptual
            )
            tick, results, curves, targets, new_outlines = progress.tick_for(cls), [], [], [], []
            for index, fit in enumerate(fits):
                row = slice(index * cameras.n_views, (index + 1) * cameras.n_views)
                loop = RenoiseLoop(
                    fit, views[row], None if outlines is None else outlines[row], cameras.of_asset(index), generators[index], perceptual,
                    mask_method=new_masks,
                )  # fmt: skip
                # Of a batch only the last asset may end early: the outputs hold every asset or none.
                with progress.keeps_result_on_cancel() if index == assets - 1 else nullcontext():
                    for number in range(rounds):
                        loop.round(level, fit_iterations, seed + index + number, part_of(tick, index * rounds + number, assets * rounds))
                results.append(fit.result())
                curves.append(loop.curve())
                targets.append(loop.images)
                new_outlines.append(torch.ones_like(loop.images[:, :1]) if loop.masks is None else loop.masks)
        return io.NodeOutput(
            to_core_splat([result.splats for result in results]),
            images_out(torch.cat(targets)),
            masks_out(torch.cat(new_outlines)),
            images_out(torch.stack([result.preview for result in results])),
            images_out(torch.stack(curves)),
        )


class LatheRenoiseViews(io.ComfyNode):
    """One round's noising and denoising by itself."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheRenoiseViews",
            display_name="Re-noise Views",
            category="3d/Lathe/Views",
            description="Noises views part of the way and denoises them with a view model, so that renders of an asset become likely "
            "pictures again; with the mini model half of each given view stays. With ComfyUI's own models, VAE Encode, KSampler with "
            "denoise below 1 and VAE Decode do the same.",
            search_aliases=["IM-3D", "sdedit", "img2img views", "denoise views", "refine views"],
            inputs=[
                VIEW_MODEL.Input("view_model", tooltip="The model, from Load View Model."),
                IMAGE.Input(
                    "images",
                    tooltip="Views at the cameras of Generate Views, asset by asset: for instance Render Views of fitted splats.",
                ),
                MASK.Input("masks", optional=True, tooltip="1 = object; without it outlines are found on the plain background."),
                IMAGE.Input("image", tooltip="The picture that shows the object; from Prepare Image. One for each asset."),
                MASK.Input("image_mask", optional=True, tooltip="The picture's mask, 1 = object."),
                level_input(),
                steps_input(),
                widget(
                    io.Float,
                    "guidance",
                    default=0.0,
                    min=0.0,
                    max=30.0,
                    step=0.1,
                    tooltip="How closely the views follow the picture; 0 takes the model's own. 1 is without guidance and half the work.",
                ),
                seed_input(),
            ],
            outputs=[
                IMAGE.Output(display_name="images", tooltip="The new views, of the same size."),
                MASK.Output(display_name="masks", tooltip="1 = object, found on the plain background; all 1 where nothing is."),
            ],
        )

    @classmethod
    def execute(cls, view_model, images, image, level, steps, guidance, seed, masks=None, image_mask=None) -> io.NodeOutput:
        from ..pipelines.view_generation.sampling import blend_on_background

        views, method = images_in(images), view_model.model.mask_method
        if masks is None:
            given = masks_of_views(views, method)
        else:
            given = object_masks_in(masks)
            views = blend_on_background(views, given, view_model.model.background)
        new = view_model.renoise(
            views, given, images_in(image), None if image_mask is None else object_masks_in(image_mask, "image_mask"),
            progress.tick_for(cls),
            level=level, steps=steps, guidance=guidance or None, seed=seed,
        )  # fmt: skip
        return io.NodeOutput(images_out(new), masks_out(masks_of_views(new, method)))


def check_generator(view_model: Any, image: Any, core: dict[str, Any]) -> None:
    """Refuses none, both, or half a generator.

    Raises:
        ValueError: what is wired, and what is needed.
    """
    wired = [name for name, value in core.items() if value is not None]
    if view_model is None and not wired:
        raise ValueError(f"Re-noise Refine has no generator: {GENERATORS}.")
    if view_model is not None and wired:
        raise ValueError(f"Re-noise Refine takes one generator, but view_model and {', '.join(wired)} are wired: {GENERATORS}.")
    if view_model is not None and image is None:
        raise ValueError("The view model needs `image`, the picture that its views were drawn from.")
    if wired and len(wired) < len(core):
        missing = [name for name in core if name not in wired]
        raise ValueError(f"The model as a generator needs {', '.join(missing)} as well: {GENERATORS}.")


def view_generators(view_model: LoadedViewModel, image: Tensor, image_mask: Tensor | None, assets: int, steps: int) -> list[Any]:
    """The view model with each asset's own picture.

    Raises:
        ValueError: another number of pictures than of assets.
    """
    pictures = images_in(image).clone()
    masks = None if image_mask is None else object_masks_in(image_mask, "image_mask").clone()
    if len(pictures) != assets or (masks is not None and len(masks) != assets):
        raise ValueError(f"The views show {assets} assets, but there are {len(pictures)} pictures in `image`: wire one with mask for each.")
    return [ViewRenoise(view_model, pictures[i : i + 1], None if masks is None else masks[i : i + 1], steps) for i in range(assets)]


NODES = [LatheRenoiseRefine, LatheRenoiseViews]
