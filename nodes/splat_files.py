"""Splats loaded, saved, and shown in the page."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io

from ..pipelines.data.progress import Tick
from ..pipelines.data.splats import Splats
from .core import memory, progress
from .core.files import asset_files, asset_path, file_stamp, output_files, relative_names
from .core.images import images_out
from .core.schema import IMAGE, SPLAT, schema, widget
from .core.splat import splat_input, splats_in, to_core_splat

CATEGORY = "3d/Lathe/Splats"
PICTURE_PIXELS = 512
FIELD_OF_VIEW = 30.0
AZIMUTH, ELEVATION = 25.0, 15.0


class LatheLoadSplat(io.ComfyNode):
    """Splats from a file."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheLoadSplat",
            display_name="Load Splat",
            category=CATEGORY,
            description="Reads a .ply, .splat or .spz file of Gaussian splats as a SPLAT. The PLY that GeoLRM writes is recognised.",
            search_aliases=["import splat", "load gaussian", "load ply", "open gaussian splatting", "3dgs"],
            inputs=[
                widget(
                    io.Combo, "file", options=asset_files(".ply", ".splat", ".spz"),
                    tooltip="A .ply, .splat or .spz file in ComfyUI's input folder, or one saved below output/lathe (marked [output]).",
                ),
                widget(
                    io.Boolean, "fit", default=False,
                    tooltip="Centre the splats and scale them into the cube from -1 to 1, where Lathe's cameras look. "
                    "Leave it off for splats made with Lathe.",
                ),
            ],
            outputs=[SPLAT.Output(display_name="splat", tooltip="The splats, with all the colours the file keeps.")],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, file, fit):
        return file_stamp(file)

    @classmethod
    def execute(cls, file, fit) -> io.NodeOutput:
        from ..pipelines.formats.splats import load_splats
        from ..pipelines.ops.splat_bounds import fit_to_sphere

        splats = load_splats(asset_path(file), tick=progress.tick_for(cls))
        return io.NodeOutput(to_core_splat([fit_to_sphere(splats) if fit else splats]))


class LatheSaveSplat(io.ComfyNode):
    """Splats into files."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheSaveSplat",
            display_name="Save Splat",
            category=CATEGORY,
            description="Writes splats as .ply, .splat or .spz into the output folder, on every version of ComfyUI.",
            search_aliases=["export splat", "save gaussian", "save ply", "export ply", "3dgs"],
            is_output_node=True,
            inputs=[
                splat_input("splat", tooltip="The splats to save; one file for each of a batch."),
                widget(
                    io.String, "filename_prefix", default="lathe/splat",
                    tooltip="Name of the file under the output folder; a number is added, nothing is overwritten.",
                ),
                widget(
                    io.Combo, "format", options=["ply", "splat", "spz"], default="ply",
                    tooltip="ply: everything, read by every splat tool. spz: about a tenth of the size, hardly a visible difference. "
                    "splat: for older viewers; colours that change with the view are lost.",
                ),
            ],
            outputs=[io.String.Output(display_name="path", is_output_list=True, tooltip="The file's name below the output folder.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, splat, filename_prefix, format) -> io.NodeOutput:
        from ..pipelines.formats.splats import save_splats

        splats, tick = _some(splat), progress.tick_for(cls)
        files = output_files(filename_prefix, f".{format}", len(splats))
        for i, (one, file) in enumerate(zip(splats, files, strict=True)):
            tick(i, len(splats))
            save_splats(one, file.path)
        tick(1, 1)
        return io.NodeOutput(relative_names(files), ui={"3d": [file.result for file in files]})


class LathePreviewSplat(io.ComfyNode):
    """Splats in the page."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LathePreviewSplat",
            display_name="Preview Splat",
            category=CATEGORY,
            description="Shows splats on the node, to turn and to zoom, on every version of ComfyUI. Without WebGL 2 a picture is shown.",
            search_aliases=["view splat", "gaussian viewer", "show splats", "3dgs viewer"],
            is_output_node=True,
            inputs=[splat_input("splat", tooltip="The splats to show; arrows on the node go through a batch.")],
            outputs=[IMAGE.Output(display_name="images", tooltip="A picture of each asset, as the viewer first shows it.")],
        )

    @classmethod
    def execute(cls, splat) -> io.NodeOutput:
        splats, tick = _some(splat), progress.tick_for(cls)
        pictures, shown, posters = [], [], []

        def silent(step: int, total: int, preview: torch.Tensor | None = None) -> None:
            progress.check_cancelled()  # a moving preview would stay on the node, below the viewer

        for i, one in enumerate(splats):
            tick(i, len(splats))
            picture, view = _picture(one, silent)
            pictures.append(picture)
            name = f"lathe_{uuid.uuid4().hex[:16]}"
            shown.append({**_temp_file(name, ".spz", one), **view})
            posters.append(_temp_file(name, ".jpg", picture))
        tick(1, 1)
        return io.NodeOutput(images_out(torch.stack(pictures)), ui={"lathe_splats": shown, "lathe_posters": posters})


def _some(splat) -> list[Splats]:
    splats = splats_in(splat)
    if not splats or any(len(one) == 0 for one in splats):
        raise ValueError("There are no Gaussians to show or to save; the node before made none, or pruned them all.")
    return splats


def _picture(splats: Splats, tick: Tick) -> tuple[torch.Tensor, dict]:
    """(3, H, W) from a little above and beside the front, and where the viewer has to stand to see the same."""
    import math

    from ..pipelines.data.cameras import Cameras
    from ..pipelines.ops import camera_math
    from ..pipelines.ops.splat_bounds import bounding_sphere
    from ..pipelines.rendering.splats import render_splats

    centre, radius = bounding_sphere(splats)
    distance = 1.1 * radius / math.sin(math.radians(FIELD_OF_VIEW / 2))
    pose = camera_math.orbit(torch.tensor([AZIMUTH]), torch.tensor([ELEVATION]), distance).float()
    pose[:, :3, 3] += centre
    camera = Cameras(pose, camera_math.intrinsics(FIELD_OF_VIEW, 1), ("preview",))
    views = render_splats(splats, camera, PICTURE_PIXELS, PICTURE_PIXELS, device=memory.device(), tick=tick)
    view = {"target": centre.tolist(), "position": pose[0, :3, 3].tolist(), "fov": FIELD_OF_VIEW, "count": len(splats)}
    return views.images[0], view


def _temp_file(name: str, suffix: str, content: Splats | torch.Tensor) -> dict[str, str]:
    """Writes splats or a picture (3, H, W) where the page can fetch it until ComfyUI starts again."""
    from io import BytesIO

    from PIL import Image

    from ..pipelines.disk.atomic import write_files
    from ..pipelines.formats.splats import save_splats

    folder = Path(folder_paths.get_temp_directory())
    os.makedirs(folder, exist_ok=True)
    if isinstance(content, Splats):
        save_splats(content, folder / (name + suffix))
    else:
        data = BytesIO()
        Image.fromarray((content.movedim(0, -1) * 255).round().to(torch.uint8).numpy()).save(data, "JPEG", quality=90)
        write_files(folder, {name + suffix: data.getvalue()})
    return {"filename": name + suffix, "subfolder": "", "type": "temp"}


NODES = [LatheLoadSplat, LatheSaveSplat, LathePreviewSplat]
