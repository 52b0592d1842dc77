"""Runs of distillation, saved and loaded."""

from __future__ import annotations

from comfy_api.latest import io

from .core import progress
from .core.files import asset_files, asset_path, file_stamp, output_files, relative_names
from .core.schema import schema, widget
from .distil import CATEGORY, RUN


class LatheSaveDistillation(io.ComfyNode):
    """A run into a file."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheSaveDistillation",
            display_name="Save Distillation",
            category=CATEGORY,
            description="Writes a run into the output folder: weights, optimiser, random numbers. Load Distillation lets it go on after a "
            "restart exactly where it was.",
            search_aliases=["checkpoint", "save run state", "resume"],
            is_output_node=True,
            inputs=[
                RUN.Input("run", tooltip="The run to keep, from Distil Field, Distil Mesh or Distil Splat."),
                widget(
                    io.String, "filename_prefix", default="lathe/distillation",
                    tooltip="Name of the file under the output folder; a number is added, nothing is overwritten.",
                ),
            ],
            outputs=[io.String.Output(display_name="path", tooltip="The file's name below the output folder.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, run, filename_prefix) -> io.NodeOutput:
        from ..pipelines.distillation.run_file import save_run

        files = output_files(filename_prefix, ".safetensors", 1)
        save_run(run, files[0].path)
        names = relative_names(files)
        return io.NodeOutput(names[0], ui={"text": names})


class LatheLoadDistillation(io.ComfyNode):
    """A run from a file."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheLoadDistillation",
            display_name="Load Distillation",
            category=CATEGORY,
            description="Reads a run that Save Distillation wrote; wire it into the node it came from to go on.",
            search_aliases=["checkpoint", "load run state", "resume"],
            inputs=[
                widget(
                    io.Combo, "file", options=asset_files(".safetensors"),
                    tooltip="A run in ComfyUI's input folder, or one saved below output/lathe (marked [output]).",
                )
            ],
            outputs=[RUN.Output(display_name="run", tooltip="The run.")],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, file):
        return file_stamp(file)

    @classmethod
    def execute(cls, file) -> io.NodeOutput:
        from ..pipelines.distillation.run_file import load_run

        return io.NodeOutput(load_run(asset_path(file), tick=progress.tick_for(cls)))


NODES = [LatheSaveDistillation, LatheLoadDistillation]
