"""Pictures and views before and after the models: sheets, masks, the object cut out."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..pipelines.images import sheets
from .core import folders, progress
from .core.images import images_in, images_out, masks_in, masks_out, outlines_in
from .core.schema import IMAGE, MASK, color_in, schema, widget

CATEGORY = "3d/Lathe/Images"


def _remover(wish: str):
    """The background-removal network: "plain background" wants none, "auto" takes one that is on disk, else it must be there."""
    from ..pipelines.images import background_removal

    if wish == "plain background" or (wish == "auto" and background_removal.available(folders.model_folders()) is None):
        return None
    return background_removal.load(folders.model_folders())


class LathePrepareImage(io.ComfyNode):
    """The object cut out, centred, on a plain colour."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LathePrepareImage",
            display_name="Prepare Image",
            category=CATEGORY,
            description="Cuts the object out of a picture, centres it on a square and lays it on a plain colour, as view models want it. "
            "It is found by the mask, else by the picture's alpha, else by background removal or a key on a plain background.",
            search_aliases=["remove background", "recenter", "crop object", "foreground ratio", "rembg", "preprocess image"],
            inputs=[
                IMAGE.Input("image", tooltip="One picture for each asset."),
                MASK.Input(
                    "mask", optional=True, tooltip="Where the object is: one mask for all pictures or one for each, Load Image's too."
                ),
                widget(
                    io.Combo,
                    "mask_is",
                    options=["transparency", "object"],
                    default="transparency",
                    tooltip="What 1 means in the mask. transparency: see-through, as Load Image gives it (its empty mask counts as none). "
                    "object: the object, as segmentation nodes and Lathe give it.",
                ),
                widget(
                    io.Combo,
                    "cut_out",
                    options=["auto", "plain background", "background removal"],
                    default="auto",
                    tooltip="How to find the object where there is no mask and no alpha. auto uses the background-removal network "
                    "if it is on disk (isnet*.onnx in models/lathe), else the colour of a plain background.",
                ),
                widget(
                    io.Float,
                    "foreground_ratio",
                    default=0.85,
                    min=0.1,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of the square the object's longer side takes. The models were trained with about 0.85.",
                ),
                widget(io.Int, "size", default=512, min=64, max=4096, step=8, tooltip="Side of the square in pixels."),
                widget(
                    io.String,
                    "background",
                    default="#ffffff",
                    tooltip="Colour behind the object: #rrggbb, or white, grey, black. The models here want white.",
                ),
            ],
            outputs=[
                IMAGE.Output(display_name="image", tooltip="The object on the plain colour, one square for each picture."),
                MASK.Output(display_name="mask", tooltip="1 = object."),
            ],
        )

    @classmethod
    def execute(cls, image, mask_is, cut_out, foreground_ratio, size, background, mask=None) -> io.NodeOutput:
        from ..pipelines.images import foreground

        if mask is not None and len(mask) not in (1, len(image)):
            raise ValueError(f"{len(image)} images need one mask or as many, got {len(mask)}.")
        color, tick, prepared = color_in(background), progress.tick_for(cls), []
        objects = None if mask is None else [foreground.mask_from_socket(one, mask_is) for one in mask]
        for i, picture in enumerate(image):
            tick(i, len(image))
            where = None if objects is None else objects[i % len(objects)]
            remover = _remover(cut_out) if where is None else None
            prepared.append(
                foreground.prepare(
                    picture.movedim(-1, 0), where, size=size, foreground_ratio=foreground_ratio, background=color, remover=remover
                )
            )
        tick(1, 1)
        _tell_inverted(image, objects, mask_is)
        images, masks = (torch.stack(part) for part in zip(*prepared, strict=True))
        return io.NodeOutput(images_out(images), masks_out(masks))


def _tell_inverted(image, objects, mask_is: str) -> None:
    """Warns of masks, or of alpha channels where they decide, that seem to be 1 on the background."""
    from ..pipelines.images.mask_polarity import tell_inverted

    given = [one for one in objects or () if one is not None]
    if given:
        other = "object" if mask_is == "transparency" else "transparency"
        tell_inverted(torch.stack(given)[:, None], "mask", f"set `mask_is` to {other}", kind="mask")
    if len(given) < len(objects or [None]):
        outlines_in(image, None, images_socket="image")


class LatheMaskViews(io.ComfyNode):
    """Masks of views, in place."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheMaskViews",
            display_name="Mask Views",
            category=CATEGORY,
            description="Finds the object in each view of a batch. Nothing is moved or resized, so the cameras stay true.",
            search_aliases=["segment views", "remove background", "key background", "alpha to mask", "multiview masks"],
            inputs=[
                IMAGE.Input("images", tooltip="The views."),
                widget(
                    io.Combo,
                    "method",
                    options=["plain background", "half contrast", "background removal", "alpha"],
                    default="plain background",
                    tooltip="plain background keys the colour around the object; half contrast is for the soft views of the mini model; "
                    "background removal needs its network on disk (isnet*.onnx in models/lathe); alpha takes the images' fourth channel.",
                ),
            ],
            outputs=[MASK.Output(display_name="masks", tooltip="1 = object, one for each view.")],
        )

    @classmethod
    def execute(cls, images, method) -> io.NodeOutput:
        from ..pipelines.images import foreground

        remover = _remover(method) if method == "background removal" else None
        tick, masks = progress.tick_for(cls), []
        for i, view in enumerate(images):
            tick(i, len(images))
            try:
                masks.append(foreground.mask_views(view.movedim(-1, 0)[None], method.replace(" ", "_"), remover))
            except ValueError as error:
                raise ValueError(str(error).replace("View 0:", f"View {i}:")) from None
        tick(1, 1)
        if method == "alpha":
            outlines_in(images, None)
        return io.NodeOutput(masks_out(torch.cat(masks)))


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
                IMAGE.Input("images", tooltip="Views to lay out, or sheets to cut."),
                widget(
                    io.Combo,
                    "direction",
                    options=["views to sheet", "sheet to views"],
                    default="views to sheet",
                    tooltip="views to sheet lays a batch out; sheet to views cuts each image of the batch.",
                ),
                widget(io.Int, "columns", default=2, min=1, max=64, tooltip="Views side by side."),
                widget(
                    io.Int,
                    "rows",
                    default=3,
                    min=0,
                    max=64,
                    tooltip="Views one above the other. 0, for sheets only: one sheet with as many rows as the batch needs.",
                ),
                MASK.Input("masks", optional=True, tooltip="Masks of the images, laid out or cut in the same way."),
            ],
            outputs=[
                IMAGE.Output(display_name="images", tooltip="The sheets, or the views row by row."),
                MASK.Output(display_name="masks", tooltip="Their masks; nothing where none came in."),
            ],
        )

    @classmethod
    def execute(cls, images, direction, columns, rows, masks=None) -> io.NodeOutput:
        pixels, mask = images_in(images), None if masks is None else masks_in(masks)
        if direction == "sheet to views":
            made, made_masks = sheets.split(pixels, columns, rows), None if mask is None else sheets.split(mask, columns, rows)
        else:
            made, made_masks = sheets.tile(pixels, columns, rows), None if mask is None else sheets.tile(mask, columns, rows, fill=0.0)
        return io.NodeOutput(images_out(made), None if made_masks is None else masks_out(made_masks))


NODES = [LathePrepareImage, LatheMaskViews, LatheTileViews]
