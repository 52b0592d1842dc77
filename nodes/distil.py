"""Distillation: a picture and priors to a field, a mesh or splats (Magic123)."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from .core import gradients, memory, progress
from .core.images import images_in, images_out, object_masks_in, outlines_in
from .core.mesh import MESH_FILES, from_core_mesh, meshes_in, to_core_mesh
from .core.schema import FIELD, IMAGE, MASK, MESH, PRIOR, SPLAT, asset_input, schema, widget
from .core.splat import from_core_splat, to_core_splat

if TYPE_CHECKING:
    from ..pipelines.data.progress import Tick
    from ..pipelines.distillation.cameras_and_shading import ReferenceView
    from ..pipelines.distillation.loop import Distillation
    from ..pipelines.distillation.run_file import RunState
    from ..pipelines.distillation.settings import LoopSettings

log = logging.getLogger(__name__)

CATEGORY = "3d/Lathe/Distil"
PRESETS = ["threestudio", "as_coded", "paper", "mini"]
RUN = io.Custom("LATHE_DISTILLATION")
TURNTABLE_VIEWS, TURNTABLE_SIDE = 12, 256


def prior_input() -> Any:
    """What judges the views."""
    return PRIOR.Input(
        "prior",
        tooltip="Says how the asset should look from elsewhere: a prior from a checkpoint, from Stable Zero123, from a view model, or "
        "Combine Priors.",
    )  # fmt: skip


def reference_inputs() -> list[Any]:
    """The picture, its mask and depth, and where it was taken from."""
    return [
        IMAGE.Input(
            "image", optional=True,
            tooltip="The picture that the asset is made of, square, the object before a plain background: from Prepare Image. Without one "
            "the priors alone decide, as in text to 3D.",
        ),
        MASK.Input(
            "mask", optional=True, tooltip="1 = object, of the picture's size. Without one its alpha channel serves, where it has one.",
        ),
        IMAGE.Input(
            "depth", optional=True,
            tooltip="Depth of the picture, near is white, of any scale: from a depth node. Counts in the presets as_coded and paper (in "
            "Distil Mesh in paper alone), and keeps the front from becoming flat or hollow.",
        ),
    ]  # fmt: skip


def reference_widgets() -> list[Any]:
    """Where the picture was taken from, and how much it counts."""
    return [
        widget(
            io.Float, "reference_weight", default=1.0, min=0.0, max=100.0, step=0.1,
            tooltip="How much the picture counts against the priors, times the preset's weights. 0 leaves it out.",
        ),
        widget(
            io.Float, "elevation", default=0.0, min=-80.0, max=80.0, step=1.0,
            tooltip="From how high the picture was taken, in degrees: 0 at the object's height. From Estimate Elevation, or your eye.",
        ),
        widget(
            io.Float, "radius", default=1.8, min=0.5, max=10.0, step=0.1, advanced=True,
            tooltip="Distance of the picture's camera from the centre. With the field of view it says how large the asset becomes: 1.8 at "
            "40 degrees gives a radius of about 0.6.",
        ),
        widget(
            io.Float, "fov", default=40.0, min=10.0, max=90.0, step=1.0, advanced=True,
            tooltip="Field of view of the picture's camera in degrees.",
        ),
    ]  # fmt: skip


def loop_widgets(preset_help: str) -> list[Any]:
    """Preset, seed, steps and size."""
    return [
        widget(io.Combo, "preset", options=PRESETS, default="threestudio", tooltip=preset_help),
        widget(
            io.Int, "seed", default=0, min=0, max=2**32 - 1, control_after_generate=True,
            tooltip="The same seed gives the same result; on one CPU thread bit for bit.",
        ),
        widget(
            io.Int, "steps", default=0, min=0, max=30_000,
            tooltip="Steps in all, those of a run that goes on included; 0 takes the preset's number.",
        ),
        widget(
            io.Int, "size", default=0, min=0, max=1024, step=8,
            tooltip="Side of the random views in pixels, at least 16; 0 takes the preset's. Halved once by itself where memory runs out.",
        ),
    ]  # fmt: skip


def run_input() -> Any:
    """A run to go on with."""
    return RUN.Input(
        "run", optional=True,
        tooltip="A run to go on with, from this node or Load Distillation: give the same preset and inputs, and more steps.",
    )  # fmt: skip


def run_outputs() -> list[Any]:
    """What every loop gives beside its asset."""
    return [
        IMAGE.Output(display_name="turntable", tooltip="Twelve views around the asset."),
        IMAGE.Output(display_name="curve", tooltip="The loss curve: every term before its weight."),
        RUN.Output(display_name="run", tooltip="The run as it is now: Save Distillation keeps it, and it can go on with more steps."),
    ]


class LatheDistilField(io.ComfyNode):
    """Magic123's coarse stage."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheDistilField",
            display_name="Distil Field",
            category=CATEGORY,
            description="Optimises a field until it looks like the picture from the front, and as the priors say from everywhere else: the "
            "coarse stage of Magic123. Cancel keeps what was reached.",
            search_aliases=["magic123", "image to 3d", "text to 3d", "SDS", "score distillation", "dreamfusion", "zero123", "nerf"],
            inputs=[
                prior_input(),
                *reference_inputs(),
                run_input(),
                *loop_widgets(
                    "threestudio: numbers that are known good in float32. as_coded and paper: Magic123's program and its paper. mini: "
                    "small views, few steps, about a minute on a CPU."
                ),
                *reference_widgets(),
            ],
            outputs=[
                FIELD.Output(display_name="field", tooltip="The field, of density: for Distil Mesh, or Field To Mesh."),
                *run_outputs(),
            ],
        )

    @classmethod
    def execute(
        cls, prior, preset, seed, steps, size, reference_weight, elevation, radius, fov, image=None, mask=None, depth=None, run=None,
    ) -> io.NodeOutput:  # fmt: skip
        from ..pipelines.distillation.field import DistilField
        from ..pipelines.distillation.settings import load_distil_preset

        settings = changed(load_distil_preset(preset).coarse, steps, size)
        with gradients.differentiable():
            reference = reference_in(image, mask, depth, elevation, radius, fov, reference_weight)
            loop = DistilField(reference, prior, settings, seed=seed, device=memory.device())
            go_on(loop, run, settings, progress.tick_for(cls))
            return io.NodeOutput([loop.field()], *reports(loop, reference))


class LatheDistilMesh(io.ComfyNode):
    """Magic123's fine stage."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheDistilMesh",
            display_name="Distil Mesh",
            category=CATEGORY,
            description="Refines a mesh or a field's surface at high resolution, by the picture and the priors, and gives it UVs and a "
            "texture: the fine stage of Magic123, and a refiner for a mesh of any other route. Cancel keeps what was reached.",
            search_aliases=["magic123", "refine mesh", "dmtet", "deep marching tetrahedra", "flexicubes", "retexture", "SDS"],
            inputs=[
                asset_input(
                    "start", FIELD, MESH, *MESH_FILES,
                    tooltip="What to refine: the field of Distil Field, any other field, or a mesh of any route, best closed.",
                ),
                prior_input(),
                *reference_inputs(),
                run_input(),
                *loop_widgets(
                    "threestudio: numbers that are known good in float32. as_coded and paper: Magic123's program and its paper, views of "
                    "1024 pixels. mini: views of 192 pixels, some minutes on a CPU."
                ),
                widget(
                    io.Combo, "surface", options=["dmtet", "flexicubes"], default="dmtet",
                    tooltip="dmtet is Magic123's: tetrahedra, sure to be closed. flexicubes gives evener triangles and sharper edges.",
                ),
                widget(
                    io.Int, "grid", default=0, min=0, max=256, step=8,
                    tooltip="Cells of the surface's grid along an edge, at least 8; 0 takes the preset's.",
                ),
                widget(
                    io.Int, "faces", default=0, min=0, max=200_000, step=1000,
                    tooltip="About how many triangles the textured mesh keeps; 0 takes the preset's number.",
                ),
                widget(
                    io.Combo, "texture_size", options=["512", "1024", "2048", "4096"], default="1024",
                    tooltip="Side of the texture in pixels.",
                ),
                *reference_widgets(),
            ],
            outputs=[
                MESH.Output(display_name="mesh", tooltip="The mesh with UVs and a texture; after Cancel with vertex colours."),
                *run_outputs(),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, start, prior, preset, seed, steps, size, surface, grid, faces, texture_size, reference_weight, elevation, radius, fov,
        image=None, mask=None, depth=None, run=None,
    ) -> io.NodeOutput:  # fmt: skip
        from ..pipelines.distillation.mesh import DistilMesh, SurfaceLost
        from ..pipelines.distillation.settings import load_distil_preset

        settings = changed(load_distil_preset(preset).fine, steps, size)
        settings = replace(settings, surface=surface, grid=grid or settings.grid, faces=faces or settings.faces, texture=int(texture_size))
        tick, words, done = progress.tick_for(cls), [], None
        first = one_asset(start if isinstance(start, list) else meshes_in(start, tick), "start")
        with gradients.differentiable():
            reference = reference_in(image, mask, depth, elevation, radius, fov, reference_weight)
            loop = DistilMesh(first, reference, prior, settings, seed=seed, device=memory.device(), tick=tick)
            with progress.keeps_result_on_cancel():
                try:
                    go_on(loop, run, settings, tick, cancel_ends=True)
                except SurfaceLost as error:
                    log.warning("%s", error)
                    words.append(str(error))
                done = loop.textured(tick)
            mesh = loop.mesh() if done is None else done
            return io.NodeOutput(to_core_mesh([mesh]), *reports(loop, reference), ui={"text": words} if words else None)


class LatheDistilSplat(io.ComfyNode):
    """Magic123's loop on splats."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheDistilSplat",
            display_name="Distil Splat",
            category=CATEGORY,
            description="Optimises Gaussian splats by the picture and the priors: Magic123's loop on splats, for speed. Cancel keeps what "
            "was reached.",
            search_aliases=["dreamgaussian", "magic123", "gaussian splatting", "3dgs", "SDS", "image to splat", "text to splat"],
            inputs=[
                prior_input(),
                asset_input(
                    "start", SPLAT, MESH, optional=True,
                    tooltip="Splats to begin with, or a mesh whose surface they start on. Without it they start as a ball at the centre.",
                ),
                *reference_inputs(),
                run_input(),
                *loop_widgets(
                    "threestudio, as_coded and paper: the losses and views of those presets of Distil Field. mini: small views, few steps, "
                    "for a CPU."
                ),
                widget(
                    io.Int, "points", default=0, min=0, max=1_000_000, step=1000,
                    tooltip="Splats at the start, unless splats are given; 0 takes the preset's number.",
                ),
                *reference_widgets(),
            ],
            outputs=[SPLAT.Output(display_name="splat", tooltip="The splats, faint ones pruned."), *run_outputs()],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, prior, preset, seed, steps, size, points, reference_weight, elevation, radius, fov, start=None, image=None, mask=None,
        depth=None, run=None,
    ) -> io.NodeOutput:  # fmt: skip
        from ..pipelines.distillation.settings import load_distil_preset
        from ..pipelines.distillation.splat import DistilSplat
        from ..pipelines.splats.start import start_from_mesh

        settings = changed(load_distil_preset(preset).splat, steps, size)
        settings = replace(settings, points=points or settings.points)
        with gradients.differentiable():
            first = None
            if start is not None and hasattr(start, "positions"):
                first = one_asset(from_core_splat(start), "start")
            elif start is not None:
                first = start_from_mesh(one_asset(from_core_mesh(start), "start"), settings.points, seed)
            reference = reference_in(image, mask, depth, elevation, radius, fov, reference_weight)
            loop = DistilSplat(first, reference, prior, settings, seed=seed, device=memory.device())
            go_on(loop, run, settings, progress.tick_for(cls))
            return io.NodeOutput(to_core_splat([loop.splats()]), *reports(loop, reference))


# ---- what the loops share --------------------------------------------------------------------------------------------


def changed(settings: Any, steps: int, size: int) -> Any:
    """A preset's settings with the widgets' steps and size, where those are not 0.

    Raises:
        ValueError: views that are too small.
    """
    changes: dict[str, int] = {"steps": steps or settings.steps}
    if size:
        changes["size"] = size
        changes["first_size"] = min(settings.first_size, size) if settings.first_size else 0
    return replace(settings, **changes)


def reference_in(image: Any, mask: Any, depth: Any, elevation: float, radius: float, fov: float, weight: float) -> ReferenceView:
    """The reference view from its sockets and widgets.

    Raises:
        ValueError: several pictures, or parts that do not belong together.
    """
    from ..pipelines.distillation.cameras_and_shading import ReferenceView

    picture = outline = distance = None
    if image is not None:
        picture = images_in(image).clone()
        outline = outlines_in(image, mask, "mask", "image")
        outline = None if outline is None else outline.clone()
    elif mask is not None:
        outline = object_masks_in(mask, "mask").clone()
    if depth is not None:
        distance = 1 - images_in(depth).mean(1, keepdim=True)
    for name, part in (("pictures", picture), ("masks", outline), ("depths", distance)):
        if part is not None and len(part) != 1:
            raise ValueError(f"Distillation works on one asset at a time, but {len(part)} {name} arrived: choose one, for instance with "
                             "core's ImageFromBatch, and queue the others after it.")  # fmt: skip
    if picture is not None and distance is not None and distance.shape[2:] != picture.shape[2:]:
        distance = torch.nn.functional.interpolate(distance, size=tuple(picture.shape[2:]), mode="bilinear", align_corners=False)
    return ReferenceView(picture, outline, distance, elevation, radius, fov, weight)


def one_asset(assets: list[Any], name: str) -> Any:
    """The only one.

    Raises:
        ValueError: none, or several.
    """
    if len(assets) != 1:
        raise ValueError(f"Distillation works on one asset at a time, but {len(assets)} arrived at {name}: give one.")
    return assets[0]


def go_on(loop: Distillation, run: RunState | None, settings: LoopSettings, tick: Tick, cancel_ends: bool = False) -> None:
    """All steps, or those that a run that goes on still lacks. `cancel_ends`: Cancel leaves the caller, not only this loop.

    A prior that worked and then fails for good ends the run with what was reached; one that never worked is an error.
    """
    from ..pipelines.fitting.failed_steps import FitBroken

    if run is not None:
        loop.restore(run.tensors, run.about)
    left, before = settings.steps - loop.steps_done, loop.steps_done

    def shifted(step: int, total: int, preview: torch.Tensor | None = None) -> None:
        tick(before + step, settings.steps, preview)

    if left <= 0:
        log.warning("%s: the run has all of its %d steps already; ask for more to go on.", loop.stage, before)
        return
    try:
        with contextlib.nullcontext() if cancel_ends else progress.keeps_result_on_cancel():
            loop.run(left, shifted)
    except FitBroken as error:
        if not loop.worth_keeping and run is None:
            raise
        log.error("%s What was reached before is kept.", error)


def reports(loop: Distillation, reference: ReferenceView) -> tuple[Any, ...]:
    """The outputs beside the asset: turntable, curve and run."""
    from ..pipelines.cameras.orbits import orbit_cameras
    from ..pipelines.distillation.cameras_and_shading import PLAIN
    from ..pipelines.distillation.run_file import state_of
    from ..pipelines.plots.loss_curve import loss_curve

    cameras = orbit_cameras(TURNTABLE_VIEWS, elevation=15.0, radius=reference.radius, fov=reference.fov)
    white = torch.ones(3, device=loop.device)
    side = min(max(loop.fitting.size, 64), TURNTABLE_SIDE)
    if loop.skipped:
        log.warning("%s: %d of %d steps were skipped, their numbers were not finite.", loop.stage, loop.skipped, loop.steps_done)
    frames = [loop.draw(cameras.select([view]), side, [PLAIN], white, False).images.cpu() for view in range(cameras.n_views)]
    curve = loss_curve(loop.losses, title=f"{loop.stage}: losses before their weights")[None]
    return images_out(torch.cat(frames)), images_out(curve), state_of(loop)


NODES = [LatheDistilField, LatheDistilMesh, LatheDistilSplat]
