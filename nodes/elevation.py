"""The elevation at which an orbit of pictures was taken."""

from __future__ import annotations

import logging

import torch
from comfy_api.latest import io

from .core import progress
from .core.images import images_in, images_out, object_masks_in
from .core.schema import CAMERAS, IMAGE, MASK, schema, widget

CATEGORY = "3d/Lathe/Cameras"


class LatheEstimateElevation(io.ComfyNode):
    """An orbit's elevation from its pictures."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheEstimateElevation",
            display_name="Estimate Elevation",
            category=CATEGORY,
            description="Finds how far an orbit of views looks down on its object, and puts the cameras there. For turntables and for view "
            "models that choose their elevation themselves; azimuths, distance and lens must be known.",
            search_aliases=["camera elevation", "turntable elevation", "pose estimation", "im-3d elevation", "camera height"],
            inputs=[
                IMAGE.Input("images", tooltip="The views of an orbit around the object, one asset after the other."),
                MASK.Input("masks", tooltip="Their masks, 1 = object: from Mask Views. A view whose mask is empty is left out."),
                CAMERAS.Input(
                    "cameras",
                    tooltip="The orbit: Orbit Cameras, or a preset such as im3d_orbit. Azimuths, distance and lens are taken from here; "
                    "the elevation they stand at does not matter.",
                ),
                widget(
                    io.Combo,
                    "method",
                    options=["auto", "silhouettes", "learned"],
                    default="auto",
                    tooltip="silhouettes: where the masks agree best on one shape, to a degree for most objects. learned: a small network, "
                    "coarse. auto: silhouettes, and the network where an object looks alike from all sides.",
                ),
                widget(
                    io.Float,
                    "lowest",
                    default=-20.0,
                    min=-90.0,
                    max=90.0,
                    step=1.0,
                    advanced=True,
                    tooltip="The silhouettes' elevation is looked for from here, in degrees above the horizon.",
                ),
                widget(
                    io.Float,
                    "highest",
                    default=70.0,
                    min=-90.0,
                    max=90.0,
                    step=1.0,
                    advanced=True,
                    tooltip="The silhouettes' elevation is looked for up to here, in degrees above the horizon.",
                ),
            ],
            outputs=[
                CAMERAS.Output(
                    display_name="cameras", tooltip="The cameras at the estimated elevation; each asset's own where there are several."
                ),
                io.Float.Output(
                    display_name="elevation",
                    is_output_list=True,
                    tooltip="Degrees above the horizon, one number for each asset. A node they are wired to runs once for each.",
                ),
                io.Float.Output(
                    display_name="confidence",
                    is_output_list=True,
                    tooltip="For each asset: near 1 the elevation is known to a degree, at 0 no better than a guess between 0 and 45.",
                ),
                IMAGE.Output(
                    display_name="curve",
                    tooltip="For each asset, by how much its silhouettes miss each other at every elevation, and the estimate in red.",
                ),
            ],
        )

    @classmethod
    def execute(cls, images, masks, cameras, method, lowest, highest) -> io.NodeOutput:
        from ..pipelines.cameras import elevation
        from ..pipelines.plots.elevation import estimate_picture
        from ..pipelines.weights import mini_models

        pixels, silhouettes = images_in(images), object_masks_in(masks)
        elevation.check_frames(pixels, silhouettes, cameras)
        net = None if method == "silhouettes" else mini_models.load_elevation()
        estimates = elevation.estimate_elevation(
            pixels, silhouettes, cameras, method=method, net=net, lowest=lowest, highest=highest, tick=progress.tick_for(cls)
        )
        for number, estimate in enumerate(estimates, 1):
            advice = elevation.describe(estimate)
            if advice is not None:
                logging.getLogger(__name__).warning("Estimate Elevation, asset %d, %.1f degrees: %s.", number, estimate.elevation, advice)
        return io.NodeOutput(
            elevation.pose(cameras, estimates),
            [estimate.elevation for estimate in estimates],
            [estimate.confidence for estimate in estimates],
            images_out(torch.stack([estimate_picture(estimate) for estimate in estimates])),
        )


NODES = [LatheEstimateElevation]
