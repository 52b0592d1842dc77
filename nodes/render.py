"""Assets to views: images, masks, depth and normals at given cameras."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from comfy_api.latest import io

from ..pipelines.data.progress import Tick, part_of
from ..pipelines.data.views import match_cameras
from .core import memory, progress
from .core.images import images_out, masks_out
from .core.mesh import MESH_FILES, meshes_in
from .core.schema import CAMERAS, FIELD, IMAGE, MASK, MESH, SPLAT, asset_input, color_in, schema, widget
from .core.splat import SPLAT_FILES, splats_in

CATEGORY = "3d/Lathe/Render"
ASSETS = list(dict.fromkeys([MESH, FIELD, SPLAT, *MESH_FILES, *SPLAT_FILES]))
SPLAT_FORMATS = ("ply", "splat", "spz")


class LatheRenderViews(io.ComfyNode):
    """Pictures of an asset."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheRenderViews",
            display_name="Render Views",
            category=CATEGORY,
            description="Renders a mesh, splats or a field at every camera, unlit: pictures, masks, depth and normals. "
            "For turntables, ControlNet guides, comparisons.",
            search_aliases=["turntable", "render mesh", "render splats", "depth map", "normal map", "novel views", "rasterize"],
            inputs=[
                asset_input(
                    "asset",
                    *ASSETS,
                    tooltip="A mesh, splats, a field or a 3D file. Each asset of a batch is seen by every camera.",
                ),
                CAMERAS.Input("cameras", tooltip="From Orbit Cameras, Camera Preset or any other; one picture for each."),
                widget(io.Int, "width", default=512, min=16, max=4096, step=8, tooltip="Width of a picture in pixels."),
                widget(io.Int, "height", default=512, min=16, max=4096, step=8, tooltip="Height of a picture in pixels."),
                widget(
                    io.String,
                    "background",
                    default="#ffffff",
                    tooltip="Colour behind the object: #rrggbb, or white, grey, black.",
                ),
                widget(
                    io.Boolean,
                    "supersample",
                    default=True,
                    advanced=True,
                    tooltip="Four samples a pixel: smoother textures and edges, four times the work.",
                ),
                widget(
                    io.Int,
                    "samples",
                    default=64,
                    min=8,
                    max=512,
                    step=8,
                    advanced=True,
                    tooltip="Samples along each ray of a field; meshes and splats ignore it. More finds thinner parts.",
                ),
            ],
            outputs=[
                IMAGE.Output(display_name="images", tooltip="Albedo over the background, asset by asset."),
                MASK.Output(display_name="masks", tooltip="1 = object."),
                IMAGE.Output(display_name="depth", tooltip="Depth of each view from its nearest (white) to its farthest point."),
                IMAGE.Output(
                    display_name="normals", tooltip="Normals in camera space as colours: red right, green up, blue towards the camera."
                ),
            ],
        )

    @classmethod
    def execute(cls, asset, cameras, width, height, background, supersample, samples) -> io.NodeOutput:
        from ..pipelines.images import depth_and_normal_images

        color, factor = color_in(background), 2 if supersample else 1
        tick, views = progress.tick_for(cls), []
        draw, assets = _renderer(asset, samples, tick)
        if cameras.n_assets not in (None, len(assets)):
            raise ValueError(f"The cameras are posed for {cameras.n_assets} assets, but there are {len(assets)}.")
        cameras = match_cameras(cameras, height, width, stage="Render Views", advice="Set width and height to the cameras' proportions")
        for i, one in enumerate(assets):
            shared: dict[str, Any] = {"background": color, "supersample": factor, "device": memory.device()}
            views.append(draw(one, cameras.of_asset(i), height, width, tick=part_of(tick, i, len(assets)), **shared))
        images, masks, depths, normals = (torch.cat([getattr(v, name) for v in views]) for name in ("images", "masks", "depths", "normals"))
        return io.NodeOutput(
            images_out(images), masks_out(masks),
            images_out(depth_and_normal_images.depth_pictures(depths)), images_out(depth_and_normal_images.normal_pictures(normals)),
        )  # fmt: skip


def _renderer(asset: Any, samples: int, tick: Tick) -> tuple[Callable[..., Any], list[Any]]:
    """What draws this kind of asset, and the assets of the batch."""
    from ..pipelines.rendering import field, mesh, splats

    if isinstance(asset, list):
        return partial(field.render_field, samples=samples), asset
    if hasattr(asset, "positions") or getattr(asset, "format", "") in SPLAT_FORMATS:
        return splats.render_splats, splats_in(asset)
    return mesh.render_mesh, meshes_in(asset, tick)


NODES = [LatheRenderViews]
