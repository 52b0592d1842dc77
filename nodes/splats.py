"""Views to Gaussian splats."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from ..pipelines.data.progress import part_of
from ..pipelines.data.splats import Splats
from ..pipelines.data.views import count_assets
from .core import folders, gradients, memory, progress
from .core.images import images_in, images_out, outlines_in
from .core.mesh import from_core_mesh
from .core.schema import CAMERAS, IMAGE, MASK, MESH, SPLAT, VOXEL, asset_input, color_in, schema, widget
from .core.splat import from_core_splat, to_core_splat
from .core.voxel import voxels_in

if TYPE_CHECKING:
    from ..pipelines.splats.fit_settings import FitSettings

CATEGORY = "3d/Lathe/Splats"
PRESETS = ["fast", "paper", "pixel"]
VOXELS_USED = 50_000


def weight_input(term: str, what: str) -> Any:
    """A widget for the weight of a loss; -1 is the preset's."""
    return widget(
        io.Float, f"{term}_weight", default=-1.0, min=-1.0, max=1000.0, step=0.1, advanced=True,
        tooltip=f"Weight of {what}. -1 takes the preset's, 0 leaves it out.",
    )  # fmt: skip


class LatheFitSplats(io.ComfyNode):
    """IM-3D's fit."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheFitSplats",
            display_name="Fit Splats",
            category=CATEGORY,
            description="Fits 3D Gaussians to posed views of an object, on any machine: the fit of IM-3D, by losses that compare whole "
            "pictures and so bear views that do not quite agree. Cancel keeps what was reached.",
            search_aliases=["gaussian splatting", "3dgs", "IM-3D", "turntable to 3d", "views to splat", "train gaussians"],
            inputs=[
                IMAGE.Input("images", tooltip="Views of the object before a plain background, asset by asset."),
                CAMERAS.Input("cameras", tooltip="Where the views were taken from; one camera for each view."),
                MASK.Input(
                    "masks", optional=True,
                    tooltip="1 = object; from Mask Views. Without masks an alpha channel of the images serves; without both the outline is "
                    "fitted less sharply. Views with an empty mask are left out.",
                ),
                asset_input(
                    "start", MESH, VOXEL, SPLAT, optional=True,
                    tooltip="What to begin with instead of the preset's start: the surface of a mesh (its points, where it has no "
                    "faces), the occupied cells of a voxel grid, or splats to go on from.",
                ),
                widget(
                    io.Combo, "preset", options=PRESETS, default="fast",
                    tooltip="fast: one view a step, perceptual loss at 128 pixels, about a minute on a CPU. paper: IM-3D's recipe, all "
                    "views a step at full size, for a GPU. pixel: squared differences of pixels, for comparison; blurs where views "
                    "disagree.",
                ),
                widget(
                    io.Int, "seed", default=0, min=0, max=2**32 - 1, control_after_generate=True,
                    tooltip="The same seed gives the same splats; on one CPU thread bit for bit.",
                ),
                widget(
                    io.Int, "steps", default=0, min=0, max=30_000,
                    tooltip="How long to fit; 0 takes the preset's number. Twice as many take twice as long and gain a little sharpness.",
                ),
                widget(
                    io.Int, "resolution", default=512, min=0, max=4096, step=16,
                    tooltip="Larger views are reduced to this longest side; smaller ones stay as they are. 0 uses all views as given.",
                ),
                widget(
                    io.Int, "points", default=0, min=0, max=1_000_000, step=1000,
                    tooltip="Gaussians at the start, unless splats are given; 0 takes the preset's. More show finer detail and cost time.",
                ),
                widget(
                    io.Int, "sh_degree", default=0, min=0, max=3,
                    tooltip="Degree of the spherical harmonics: 0 is one colour a Gaussian, which every viewer shows; higher ones gleam.",
                ),
                widget(
                    io.String, "background", default="#ffffff",
                    tooltip="Colour behind the object in the views: #rrggbb, or white, grey, black. Outside the masks it takes "
                    "the place of what is there.",
                ),
                weight_input("perceptual", "the perceptual loss (LPIPS where its files are on disk, else the bundled network)"),
                weight_input("ms_ssim", "the multi-scale structural similarity; SSIM for views below 161 pixels"),
                weight_input("mask", "the difference between opacity and mask"),
                weight_input("l1", "the absolute difference of pixels"),
                weight_input("l2", "the squared difference of pixels"),
                widget(
                    io.Float, "voxel_threshold", default=0.6, min=0.0, max=1.0, step=0.01, advanced=True,
                    tooltip="Cells of a voxel grid at or above this are occupied. Only for a start from voxels.",
                ),
            ],
            outputs=[
                SPLAT.Output(display_name="splat", tooltip="The splats of each asset, faint Gaussians pruned."),
                IMAGE.Output(display_name="preview", tooltip="A few views of each asset above what its splats show from there."),
                IMAGE.Output(display_name="curve", tooltip="The loss curve of each asset: every term before its weight."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, images, cameras, preset, seed, steps, resolution, points, sh_degree, background,
        perceptual_weight, ms_ssim_weight, mask_weight, l1_weight, l2_weight, voxel_threshold, masks=None, start=None,
    ) -> io.NodeOutput:  # fmt: skip
        from ..pipelines.fitting import targets
        from ..pipelines.fitting.perceptual import load_perceptual
        from ..pipelines.ops import losses
        from ..pipelines.splats import fit as splat_fit
        from ..pipelines.splats import fit_settings

        asked = {
            "perceptual": perceptual_weight, "ms_ssim": ms_ssim_weight, "mask": mask_weight, "l1": l1_weight, "l2": l2_weight,
        }  # fmt: skip
        settings = fit_settings.load_fit_preset(preset)
        settings = splat_fit.with_changes(
            settings, weights={term: value for term, value in asked.items() if value >= 0}, sh_degree=sh_degree,
            steps=steps or settings.steps, points=points or settings.points, background=color_in(background),
        )  # fmt: skip
        assets = count_assets(images.shape[0], cameras)
        alpha = outlines_in(images, masks)
        with gradients.differentiable():
            starts = None if start is None else starts_in(start, assets, settings, seed, voxel_threshold)
            height, width = losses.fitting_size(images.shape[1], images.shape[2], resolution)
            memory.make_room(
                fit_settings.estimate_memory(cameras.n_views, height, width, settings, 0 if starts is None else max(map(len, starts))),
                f"Fitting {cameras.n_views} views of {width} x {height} pixels",
                f"Set `resolution` to {max(height, width) // 2} or less, or choose the preset fast.",
            )
            views, outlines = targets.resized_views(images_in(images), alpha, resolution)
            perceptual = None
            if settings.weights.perceptual:
                perceptual = load_perceptual(folders.model_folders(), memory.device())
                gradients.heal(perceptual.net)
            tick, results = progress.tick_for(cls), []
            fits = splat_fit.asset_fits(
                views, outlines, cameras, start=starts, settings=settings, seed=seed, device=memory.device(), perceptual=perceptual,
                tick=tick,
            )  # fmt: skip
            for index, fit in enumerate(fits):
                # Of a batch only the last asset may end early: the outputs hold every asset or none.
                with progress.keeps_result_on_cancel() if index == assets - 1 else nullcontext():
                    fit.run(settings.steps, part_of(tick, index, assets))
                results.append(fit.result())
        return io.NodeOutput(
            to_core_splat([result.splats for result in results]),
            images_out(torch.stack([result.preview for result in results])),
            images_out(torch.stack([result.curve for result in results])),
        )


def starts_in(start: Any, assets: int, settings: FitSettings, seed: int, voxel_threshold: float) -> list[Splats]:
    """What arrived at `start` (MESH, VOXEL or SPLAT) as Gaussians for each asset; one alone serves all.

    Raises:
        ValueError: another number of assets, or nothing to start from.
    """
    from ..pipelines.splats import start as splat_start

    if hasattr(start, "positions"):
        starts = from_core_splat(start)
    elif hasattr(start, "vertices"):
        starts = [splat_start.start_from_mesh(mesh, settings.points, seed) for mesh in from_core_mesh(start, points=True)]
    elif hasattr(start, "data"):
        volumes, extents = voxels_in(start)
        starts = [
            splat_start.start_from_voxel(volume, voxel_threshold, VOXELS_USED, seed, extent)
            for volume, extent in zip(volumes, extents, strict=True)
        ]
    else:
        raise ValueError(f"A fit starts from a MESH, a VOXEL or a SPLAT, not a {type(start).__name__}.")
    if len(starts) not in (1, assets):
        raise ValueError(f"The views show {assets} assets, but there are {len(starts)} to start from.")
    return starts * assets if len(starts) == 1 else starts


NODES = [LatheFitSplats]
