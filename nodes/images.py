"""Pictures and views before and after the models: sheets, masks, the object cut out."""

from __future__ import annotations

from comfy_api.latest import io

from ..pipelines import sheets
from . import sockets
from .sockets import schema, widget

CATEGORY = "3d/Lathe/Images"


class LatheTileViews(io.ComfyNode):
    """A batch of views to a sheet, or back."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheTileViews",
            display_name="Tile Views",
            category=CATEGORY,
            description="Lays a batch of views out as a sheet, row by row, or cuts a sheet into its views: 3 rows and 2 columns are "
            "Zero123++'s grid.",
            search_aliases=["image grid", "contact sheet", "split grid", "views from grid", "zero123plus grid"],
            inputs=[
                sockets.IMAGE.Input("images", tooltip="Views to lay out, or sheets to cut."),
                widget(
                    io.Combo, "direction", options=["views to sheet", "sheet to views"], default="views to sheet",
                    tooltip="views to sheet lays a batch out; sheet to views cuts each image of the batch.",
                ),
                widget(io.Int, "columns", default=2, min=1, max=64, tooltip="Views side by side."),
                widget(
                    io.Int, "rows", default=3, min=0, max=64,
                    tooltip="Views one above the other. 0, for sheets only: one sheet with as many rows as the batch needs.",
                ),
                sockets.MASK.Input("masks", optional=True, tooltip="Masks of the images, laid out or cut in the same way."),
            ],
            outputs=[
                sockets.IMAGE.Output(display_name="images", tooltip="The sheets, or the views row by row."),
                sockets.MASK.Output(display_name="masks", tooltip="Their masks; nothing where none came in."),
            ],
        )

    @classmethod
    def execute(cls, images, direction, columns, rows, masks=None) -> io.NodeOutput:
        pixels, mask = sockets.images_in(images), None if masks is None else sockets.masks_in(masks)
        if direction == "sheet to views":
            made, made_masks = sheets.split(pixels, columns, rows), None if mask is None else sheets.split(mask, columns, rows)
        else:
            made, made_masks = sheets.tile(pixels, columns, rows), None if mask is None else sheets.tile(mask, columns, rows, fill=0.0)
        return io.NodeOutput(sockets.images_out(made), None if made_masks is None else sockets.masks_out(made_masks))


NODES = [LatheTileViews]
