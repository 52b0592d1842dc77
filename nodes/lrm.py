"""Views to a field: the sparse-view reconstruction model."""

from __future__ import annotations

from comfy_api.latest import io

from . import host, sockets
from .sockets import schema

CATEGORY = "3d/Lathe/Reconstruct"


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
                sockets.LRM.Input("lrm", tooltip="The network, from Load LRM."),
                sockets.IMAGE.Input("images", tooltip="Views on a plain background, those of one asset after those of the other."),
                sockets.CAMERAS.Input("cameras", tooltip="The cameras of the views, from Generate Views, Camera Preset or Load Cameras."),
                sockets.MASK.Input(
                    "masks", optional=True,
                    tooltip="1 = object; from Mask Views. Puts the views on the background the network knows. "
                    "Without them the background must be white.",
                ),
            ],
            outputs=[sockets.FIELD.Output(display_name="field", tooltip="One continuous shape with colour for each asset.")],
        )

    @classmethod
    def execute(cls, lrm, images, cameras, masks=None) -> io.NodeOutput:
        pixels, mask = sockets.images_in(images), None if masks is None else sockets.masks_in(masks)
        return io.NodeOutput(lrm.reconstruct(pixels, mask, cameras, host.tick_for(cls)))


NODES = [LatheReconstruct]
