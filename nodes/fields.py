"""Fields: saved, loaded, and turned into meshes."""

from __future__ import annotations

from comfy_api.latest import io

from ..pipelines.data.progress import part_of
from .core import memory, progress
from .core.files import asset_files, asset_path, file_stamp, output_files, relative_names
from .core.mesh import to_core_mesh
from .core.schema import FIELD, MESH, schema, widget

CATEGORY = "3d/Lathe/Field"


class LatheFieldToMesh(io.ComfyNode):
    """The surface of a field."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheFieldToMesh",
            display_name="Field To Mesh",
            category=CATEGORY,
            description="Extracts the surface of a field as a mesh with vertex colours, by FlexiCubes or marching cubes.",
            search_aliases=["extract mesh", "flexicubes", "marching cubes", "isosurface", "meshing"],
            inputs=[
                FIELD.Input("field", tooltip="What Reconstruct or Load Field gives; each asset of a batch makes a mesh."),
                widget(
                    io.Combo,
                    "method",
                    options=["flexicubes", "marching cubes"],
                    default="flexicubes",
                    tooltip="flexicubes keeps sharp edges and uses what the network says of each cell; "
                    "marching cubes takes the distance or density alone.",
                ),
                widget(
                    io.Int,
                    "resolution",
                    default=0,
                    min=0,
                    max=512,
                    step=8,
                    tooltip="Cells along an edge of the cube; 0 takes what the field was made for. Memory and faces grow fast with it.",
                ),
                widget(
                    io.Float,
                    "threshold",
                    default=0.0,
                    min=0.0,
                    max=1000.0,
                    step=0.5,
                    advanced=True,
                    tooltip="Density at the surface, for fields made of density (the NeRF variants): lower gives a fatter object. "
                    "0 takes the field's own. Signed distances ignore it.",
                ),
            ],
            outputs=[MESH.Output(display_name="mesh", tooltip="One mesh for each asset, with vertex colours, facing +Z.")],
        )

    @classmethod
    def execute(cls, field, method, resolution, threshold) -> io.NodeOutput:
        from ..pipelines.meshes import extract

        tick = progress.tick_for(cls)
        meshes = [
            extract.field_to_mesh(
                one, "flexicubes" if method == "flexicubes" else "marching_cubes", resolution or None, level=threshold or None,
                device=memory.device(), tick=part_of(tick, i, len(field)),
            )
            for i, one in enumerate(field)
        ]  # fmt: skip
        tick(1, 1)
        return io.NodeOutput(to_core_mesh(meshes))


class LatheSaveField(io.ComfyNode):
    """Fields into files."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheSaveField",
            display_name="Save Field",
            category=CATEGORY,
            description="Writes a field into the output folder, so that a reconstruction survives a restart. One file for each asset.",
            search_aliases=["export field", "save triplane", "keep reconstruction"],
            is_output_node=True,
            inputs=[
                FIELD.Input("field", tooltip="The field to keep."),
                widget(
                    io.String,
                    "filename_prefix",
                    default="lathe/field",
                    tooltip="Name of the file under the output folder; a number is added, nothing is overwritten.",
                ),
            ],
            outputs=[io.String.Output(display_name="path", is_output_list=True, tooltip="The file's name below the output folder.")],
        )

    @classmethod
    def execute(cls, field, filename_prefix) -> io.NodeOutput:
        from ..pipelines.formats.fields import save_field

        files = output_files(filename_prefix, ".safetensors", len(field))
        for one, file in zip(field, files, strict=True):
            save_field(one, file.path)
        return io.NodeOutput(relative_names(files), ui={"text": relative_names(files)})


class LatheLoadField(io.ComfyNode):
    """A field from a file."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheLoadField",
            display_name="Load Field",
            category=CATEGORY,
            description="Reads a field that Save Field wrote.",
            search_aliases=["import field", "load triplane", "reuse reconstruction"],
            inputs=[
                widget(
                    io.Combo,
                    "file",
                    options=asset_files(".safetensors"),
                    tooltip="A field in ComfyUI's input folder, or one saved below output/lathe (marked [output]).",
                )
            ],
            outputs=[FIELD.Output(display_name="field", tooltip="The field, as one asset.")],
        )

    @classmethod
    def fingerprint_inputs(cls, file):
        return file_stamp(file)

    @classmethod
    def execute(cls, file) -> io.NodeOutput:
        from ..pipelines.formats.fields import load_field

        return io.NodeOutput([load_field(asset_path(file), tick=progress.tick_for(cls))])


NODES = [LatheFieldToMesh, LatheSaveField, LatheLoadField]
