"""The picture itself as one more view of the object imagined from it."""

from __future__ import annotations

import logging

import torch
from comfy_api.latest import io
from torch.nn.functional import interpolate

from ..pipelines.cameras import join_and_select
from ..pipelines.data.cameras import Cameras
from ..pipelines.data.views import count_assets, match_cameras, squeezed
from .core.images import images_in, images_out, masks_out, object_masks_in
from .core.schema import CAMERAS, IMAGE, MASK, schema, widget

CATEGORY = "3d/Lathe/Views"


class LatheAddPicture(io.ComfyNode):
    """A picture among its views."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheAddPicture",
            display_name="Add Picture To Views",
            category=CATEGORY,
            description="Adds the picture itself to the views imagined from it, so that the front is what the picture shows. Finds how "
            "large the object stands in the picture, and where, from the silhouettes.",
            search_aliases=["input view", "front view", "reference view", "align picture"],
            inputs=[
                IMAGE.Input("picture", tooltip="The picture the views were made from, one for each asset: from Prepare Image."),
                MASK.Input("picture_mask", tooltip="Its mask, 1 = object: from Prepare Image."),
                IMAGE.Input("images", tooltip="The views, one asset after the other: from Generate Views."),
                MASK.Input("masks", tooltip="The views' masks, 1 = object."),
                CAMERAS.Input("cameras", tooltip="The views' cameras."),
                widget(
                    io.Float,
                    "elevation",
                    default=15.0,
                    min=-89.0,
                    max=89.0,
                    step=1.0,
                    tooltip="How far the picture looks down on the object, in degrees. Photos of things on a table are near 15.",
                ),
            ],
            outputs=[
                IMAGE.Output(display_name="images", tooltip="The views and, last of each asset, its picture; all of one size."),
                MASK.Output(display_name="masks", tooltip="Their masks."),
                CAMERAS.Output(display_name="cameras", tooltip="Their cameras; the last one is the picture's."),
            ],
        )

    @classmethod
    def execute(cls, picture, picture_mask, images, masks, cameras, elevation) -> io.NodeOutput:
        from ..pipelines.cameras.picture_camera import place_picture

        pictures, silhouettes = images_in(picture), object_masks_in(picture_mask, "picture_mask")
        views, view_masks = images_in(images), object_masks_in(masks)
        n_assets = count_assets(len(views), cameras)
        if not len(pictures) == len(silhouettes) == n_assets or len(view_masks) != len(views):
            raise ValueError(
                f"Add Picture To Views needs one picture and one mask for each asset, and a mask for each view: got {len(pictures)} "
                f"pictures and {len(silhouettes)} masks for {n_assets} assets, and {len(view_masks)} masks for {len(views)} views."
            )
        for what, shown, outlines in (("picture", pictures, silhouettes), ("views", views, view_masks)):
            (height, width), (rows, columns) = shown.shape[2:], outlines.shape[2:]
            if squeezed(width * rows / (height * columns)):
                raise ValueError(
                    f"Add Picture To Views: the {what} and its mask differ in proportions, {width} x {height} and {columns} x {rows} "
                    "pixels: wire the mask that belongs to it."
                )
        match_cameras(cameras, *views.shape[2:], stage="Add Picture To Views")
        placed = [
            place_picture(silhouettes[b], view_masks[b * cameras.n_views :][: cameras.n_views], cameras.of_asset(b), elevation=elevation)
            for b in range(n_assets)
        ]
        single = Cameras(torch.stack([c.c2w for c in placed]), torch.stack([c.K for c in placed]), placed[0].names)
        height, width = pictures.shape[2:]
        if squeezed(views.shape[3] * height / (views.shape[2] * width)):
            logging.getLogger(__name__).warning(
                "Add Picture To Views: the picture is %d x %d pixels and the views are %d x %d; all are padded to squares on white, with "
                "their cameras.", width, height, views.shape[3], views.shape[2],
            )  # fmt: skip
            views, view_masks, cameras = join_and_select.on_squares(views, view_masks, cameras)
            pictures, silhouettes, single = join_and_select.on_squares(pictures, silhouettes, single)
        size = (max(views.shape[2], pictures.shape[2]), max(views.shape[3], pictures.shape[3]))
        frames = []
        for before, one in ((views, pictures), (view_masks, silhouettes)):
            before, one = (interpolate(x, size, mode="bicubic", antialias=True).clamp(0, 1) for x in (before, one))
            frames.append(join_and_select.join_frames(before, one, cameras, single))
        return io.NodeOutput(images_out(frames[0]), masks_out(frames[1]), join_and_select.join_cameras(cameras, single))


NODES = [LatheAddPicture]
