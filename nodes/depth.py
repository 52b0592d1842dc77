"""Depth of a picture."""

from __future__ import annotations

from pathlib import Path

import torch
from comfy_api.latest import io

from .core import folders, nets, progress
from .core.images import images_in, images_out, outlines_in
from .core.schema import IMAGE, MASK, Names, schema, widget

AUTO = "first found"


class LatheEstimateDepth(io.ComfyNode):
    """Magic123's depth of the reference picture."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheEstimateDepth",
            display_name="Estimate Depth",
            category="3d/Lathe/Images",
            description="Depth of pictures by DPT (MiDaS), the network Magic123 uses, where its files are in models/lathe: near is white. "
            "Any other depth node serves Distil Field as well.",
            search_aliases=["midas", "dpt", "depth map", "monocular depth"],
            inputs=[
                IMAGE.Input("images", tooltip="The pictures."),
                widget(
                    io.Combo, "model", options=Names([AUTO, *(path.name for path in _models())]), default=AUTO,
                    tooltip="A folder in models/lathe with a DPT or Depth Anything model as transformers saves it.",
                ),
                MASK.Input(
                    "masks", optional=True, tooltip="1 = object: depth is stretched over the object alone, black elsewhere.",
                ),
            ],
            outputs=[IMAGE.Output(display_name="depth", tooltip="Near is white, each picture stretched to black and white.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, images, model, masks=None) -> io.NodeOutput:
        from ..pipelines.images.depth_estimation import HOW_TO_GET, DepthEstimator

        found = [path for path in _models() if model in (AUTO, path.name)]
        if not found:
            raise ValueError(HOW_TO_GET.format(folders=", ".join(map(str, folders.model_folders()))))
        pixels = images_in(images)
        outlines = outlines_in(images, masks)
        if outlines is not None and outlines.shape != (len(pixels), 1, *pixels.shape[2:]):
            raise ValueError(f"Estimate Depth: {len(pixels)} pictures need as many masks of their size, not {tuple(outlines.shape)}.")
        loaded = nets.LoadedNet(lambda: DepthEstimator(found[0]), lambda estimator: [estimator.net])
        tick, made = progress.tick_for(cls), []
        with loaded.use() as estimator:
            for index, picture in enumerate(pixels):
                tick(index, len(pixels))
                made.append(estimator(picture, None if outlines is None else outlines[index]))
        tick(1, 1)
        return io.NodeOutput(images_out(torch.stack(made).expand(-1, 3, -1, -1)))


def _models() -> list[Path]:
    from ..pipelines.images.depth_estimation import available

    return available(folders.model_folders())


NODES = [LatheEstimateDepth]
