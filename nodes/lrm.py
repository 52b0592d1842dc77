"""Views to a field: the sparse-view reconstruction model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io
from torch import Tensor

from .core import folders, memory, nets, progress
from .core.images import images_in, object_masks_in
from .core.schema import CAMERAS, FIELD, IMAGE, LRM, MASK, download_input, precision_input, schema, widget

if TYPE_CHECKING:
    from ..pipelines.data.cameras import Cameras
    from ..pipelines.data.field import Field
    from ..pipelines.data.progress import Tick
    from ..pipelines.reconstruction.lrm import LRM

CATEGORY = "3d/Lathe/Reconstruct"


class LoadedLRM:
    """A reconstruction network under ComfyUI's memory management: what a LATHE_LRM socket carries.

    Args:
        build: makes the stage's `LRM` on the CPU, in the precision it shall run in.
    """

    def __init__(self, build: Callable[[], LRM]) -> None:
        with torch.inference_mode(False):
            self.lrm = build()
        self.net = nets.LoadedNet(lambda: self.lrm.net)

    def reconstruct(self, images: Tensor, masks: Tensor | None, cameras: Cameras, tick: Tick) -> list[Field]:
        """The stage on ComfyUI's device; bad input is told before any weight moves."""
        from ..pipelines.reconstruction import lrm as stage

        stage.check_views(images, masks, cameras)
        tick(0, 1)
        with self.net.use(stage.estimate_memory(self.lrm.config, cameras.n_views, self.net.dtype)):
            return stage.reconstruct(self.lrm, images, masks, cameras, device=memory.device(), attention=memory.attention(), tick=tick)


class LatheLoadLRM(io.ComfyNode):
    """The reconstruction network from disk."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheLoadLRM",
            display_name="Load LRM",
            category=CATEGORY,
            description="Loads a reconstruction network: the bundled mini model, or one of InstantMesh's four published variants.",
            search_aliases=["instantmesh", "load reconstruction model", "large reconstruction model"],
            inputs=[
                widget(
                    io.Combo,
                    "model",
                    options=folders.weight_choices("lrm", ".ckpt", ".safetensors"),
                    default=folders.MINI,
                    tooltip="mini needs no download and no GPU. base and large are InstantMesh's; mesh variants give sharper surfaces, "
                    "nerf variants a density. Files in models/lathe are offered by their name.",
                ),
                precision_input(),
                download_input(),
            ],
            outputs=[LRM.Output(display_name="lrm", tooltip="For Reconstruct.")],
        )

    @classmethod
    def execute(cls, model, precision, download) -> io.NodeOutput:
        def build() -> LRM:
            if model == folders.MINI:
                from ..pipelines.weights import mini_models

                return mini_models.load_lrm()
            from ..pipelines.weights.instantmesh import load_lrm

            path = folders.weights_path("lrm", model, download, progress.tick_for(cls))
            return load_lrm(path, variant=folders.catalogue_name("lrm", model), dtype=memory.precision(precision))

        return io.NodeOutput(LoadedLRM(build))


class LatheReconstruct(io.ComfyNode):
    """Posed views to a field."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheReconstruct",
            display_name="Reconstruct",
            category=CATEGORY,
            description="Turns posed views of an object into a field: any number of views, any cameras, one asset after the other.",
            search_aliases=["instantmesh", "lrm", "large reconstruction model", "views to 3d", "multiview to mesh"],
            inputs=[
                LRM.Input("lrm", tooltip="The network, from Load LRM."),
                IMAGE.Input("images", tooltip="Views on a plain background, those of one asset after those of the other."),
                CAMERAS.Input("cameras", tooltip="The cameras of the views, from Generate Views, Camera Preset or Load Cameras."),
                MASK.Input(
                    "masks",
                    optional=True,
                    tooltip="1 = object; from Mask Views. Puts the views on the background the network knows. "
                    "The mini model needs them; without them the background must be white.",
                ),
            ],
            outputs=[FIELD.Output(display_name="field", tooltip="One continuous shape with colour for each asset.")],
        )

    @classmethod
    def execute(cls, lrm, images, cameras, masks=None) -> io.NodeOutput:
        pixels, mask = images_in(images), None if masks is None else object_masks_in(masks)
        return io.NodeOutput(lrm.reconstruct(pixels, mask, cameras, progress.tick_for(cls)))


NODES = [LatheLoadLRM, LatheReconstruct]
