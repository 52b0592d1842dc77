"""Assets to views: images, masks, depth and normals at given cameras."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from comfy_api.latest import io

from ..pipelines.data.progress import part_of
from . import host, sockets, splat_sockets
from .sockets import schema, widget

CATEGORY = "3d/Lathe/Render"
ASSETS = list(dict.fromkeys([sockets.MESH, sockets.FIELD, sockets.SPLAT, *sockets.MESH_FILES, *splat_sockets.SPLAT_FILES]))
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
                sockets.asset_input(
                    "asset", *ASSETS,
                    tooltip="A mesh, splats, a field or a 3D file. Each asset of a batch is seen by every camera.",
                ),
                sockets.CAMERAS.Input("cameras", tooltip="From Orbit Cameras, Camera Preset or any other; one picture for each."),
                widget(io.Int, "width", default=512, min=16, max=4096, step=8, tooltip="Width of a picture in pixels."),
                widget(io.Int, "height", default=512, min=16, max=4096, step=8, tooltip="Height of a picture in pixels."),
                widget(
                    io.String, "background", default="#ffffff",
                    tooltip="Colour behind the object: #rrggbb, or white, grey, black.",
                ),
                widget(
                    io.Boolean, "supersample", default=True, advanced=True,
                    tooltip="Four samples a pixel: smoother textures and edges, four times the work.",
                ),
                widget(
                    io.Int, "samples", default=64, min=8, max=512, step=8, advanced=True,
                    tooltip="Samples along each ray of a field; meshes and splats ignore it. More finds thinner parts.",
                ),
            ],
            outputs=[
                sockets.IMAGE.Output(display_name="images", tooltip="Albedo over the background, asset by asset."),
                sockets.MASK.Output(display_name="masks", tooltip="1 = object."),
                sockets.IMAGE.Output(display_name="depth", tooltip="Depth of each view from its nearest (white) to its farthest point."),
                sockets.IMAGE.Output(
                    display_name="normals", tooltip="Normals in camera space as colours: red right, green up, blue towards the camera."
                ),
            ],
        )

    @classmethod
    def execute(cls, asset, cameras, width, height, background, supersample, samples) -> io.NodeOutput:
        from ..pipelines import pictures

        color, factor = sockets.color_in(background), 2 if supersample else 1
        draw, assets = _renderer(asset, samples)
        if cameras.n_assets not in (None, len(assets)):
            raise ValueError(f"The cameras are posed for {cameras.n_assets} assets, but there are {len(assets)}.")
        tick, views = host.tick_for(cls), []
        for i, one in enumerate(assets):
            shared: dict[str, Any] = {"background": color, "supersample": factor, "device": host.device()}
            views.append(draw(one, cameras.of_asset(i), height, width, tick=part_of(tick, i, len(assets)), **shared))
        images, masks, depths, normals = (torch.cat([getattr(v, name) for v in views]) for name in ("images", "masks", "depths", "normals"))
        return io.NodeOutput(
            sockets.images_out(images), sockets.masks_out(masks),
            sockets.images_out(pictures.depth_pictures(depths)), sockets.images_out(pictures.normal_pictures(normals)),
        )  # fmt: skip


def _renderer(asset: Any, samples: int) -> tuple[Callable[..., Any], list[Any]]:
    """What draws this kind of asset, and the assets of the batch."""
    from ..pipelines import rendering

    if isinstance(asset, list):
        return partial(rendering.render_field, samples=samples), asset
    if hasattr(asset, "positions") or getattr(asset, "format", "") in SPLAT_FORMATS:
        return rendering.render_splats, splat_sockets.splats_in(asset)
    return rendering.render_mesh, sockets.meshes_in(asset)


NODES = [LatheRenderViews]
