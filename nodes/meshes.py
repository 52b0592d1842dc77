"""Meshes: cleaned, simplified, unwrapped, textured, loaded and saved."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..pipelines.data.mesh import Mesh
from ..pipelines.data.progress import Tick, part_of
from ..pipelines.data.views import count_assets, match_cameras
from .core import memory, progress
from .core.files import asset_files, asset_path, file_stamp, output_files, relative_names
from .core.images import images_in, object_masks_in
from .core.mesh import mesh_input, meshes_in, to_core_mesh
from .core.schema import CAMERAS, FIELD, IMAGE, MASK, MESH, schema, widget

CATEGORY = "3d/Lathe/Mesh"
MESH_SUFFIXES = (".glb", ".gltf", ".obj", ".stl", ".ply", ".off")
TEXTURE_SIZES = ["512", "1024", "2048", "4096"]


def _each(node, mesh, work) -> io.NodeOutput:
    """`work(mesh, tick)` for every mesh of a batch."""
    tick = progress.tick_for(node)
    meshes = meshes_in(mesh, tick)
    made = [work(one, part_of(tick, i, len(meshes))) for i, one in enumerate(meshes)]
    tick(1, 1)
    return io.NodeOutput(to_core_mesh(made))


class LatheCleanMesh(io.ComfyNode):
    """Crumbs, doubled faces and noise away."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheCleanMesh",
            display_name="Clean Mesh",
            category=CATEGORY,
            description="Welds equal vertices, drops broken faces and floating crumbs, and smooths if you like.",
            search_aliases=["remove floaters", "weld", "smooth mesh", "repair mesh", "taubin"],
            inputs=[
                mesh_input("mesh", tooltip="The mesh to clean; every one of a batch."),
                widget(
                    io.Float,
                    "min_component",
                    default=0.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Loose parts whose area is below this percentage of the whole are dropped. 0 keeps all.",
                ),
                widget(io.Boolean, "largest_only", default=False, tooltip="Keep only the largest connected part."),
                widget(
                    io.Int,
                    "smoothing",
                    default=0,
                    min=0,
                    max=100,
                    tooltip="Rounds of Taubin smoothing, which hardly shrinks the shape. 0 leaves vertices where they are.",
                ),
            ],
            outputs=[MESH.Output(display_name="mesh", tooltip="The clean mesh, with the colours it had.")],
        )

    @classmethod
    def execute(cls, mesh, min_component, largest_only, smoothing) -> io.NodeOutput:
        from ..pipelines.meshes import clean

        def work(one: Mesh, tick: Tick) -> Mesh:
            tick(0, 1)
            return clean.clean(one, min_component=min_component / 100, largest_only=largest_only, smoothing=smoothing)

        return _each(cls, mesh, work)


class LatheSimplifyMesh(io.ComfyNode):
    """Fewer faces."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheSimplifyMesh",
            display_name="Simplify Mesh",
            category=CATEGORY,
            description="Reduces a mesh to a number of faces by quadric edge collapse; do it before unwrapping, whose time grows fast.",
            search_aliases=["decimate", "reduce faces", "low poly", "polygon count"],
            inputs=[
                mesh_input(
                    "mesh",
                    tooltip="The mesh to simplify. A texture turns into vertex colours, other maps are lost: bake a texture afterwards.",
                ),
                widget(io.Int, "faces", default=20000, min=100, max=5_000_000, step=100, tooltip="How many triangles to keep, about."),
            ],
            outputs=[MESH.Output(display_name="mesh", tooltip="The simpler mesh; one with fewer faces stays as it is.")],
        )

    @classmethod
    def execute(cls, mesh, faces) -> io.NodeOutput:
        from ..pipelines.meshes import simplify

        def work(one: Mesh, tick: Tick) -> Mesh:
            tick(0, 1)
            return simplify.simplify(one, faces)

        return _each(cls, mesh, work)


class LatheUnwrapMesh(io.ComfyNode):
    """UV coordinates."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheUnwrapMesh",
            display_name="Unwrap Mesh",
            category=CATEGORY,
            description="Cuts a mesh into charts and lays them out as UVs (xatlas), which baking needs. Textures are resampled to them.",
            search_aliases=["uv unwrap", "xatlas", "uvs", "texture coordinates"],
            inputs=[
                mesh_input("mesh", tooltip="The mesh to unwrap, best with at most some ten thousand faces."),
                widget(
                    io.Combo,
                    "texture_size",
                    options=TEXTURE_SIZES,
                    default="1024",
                    tooltip="Side of the texture the charts are meant for: it sets the gaps between them, "
                    "and the size of resampled textures.",
                ),
            ],
            outputs=[MESH.Output(display_name="mesh", tooltip="The mesh with UVs; vertices on seams are doubled.")],
        )

    @classmethod
    def execute(cls, mesh, texture_size) -> io.NodeOutput:
        from ..pipelines.meshes import unwrap

        return _each(cls, mesh, lambda one, tick: unwrap.unwrap(one, texture_size=int(texture_size), tick=tick))


class LatheBakeFieldTexture(io.ComfyNode):
    """The field's colours as a texture."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheBakeFieldTexture",
            display_name="Bake Field Texture",
            category=CATEGORY,
            description="Paints a mesh's texture with the colours of the field it came from.",
            search_aliases=["texture from triplane", "bake texture", "color mesh"],
            inputs=[
                mesh_input("mesh", tooltip="The mesh, from Unwrap Mesh; without UVs it is unwrapped here."),
                FIELD.Input("field", tooltip="The field the mesh was made from: as many assets as meshes."),
                widget(io.Combo, "size", options=TEXTURE_SIZES, default="1024", tooltip="Side of the texture in pixels."),
            ],
            outputs=[
                MESH.Output(display_name="mesh", tooltip="The textured mesh."),
                IMAGE.Output(display_name="texture", tooltip="The texture itself, to edit or to look at."),
            ],
        )

    @classmethod
    def execute(cls, mesh, field, size) -> io.NodeOutput:
        from ..pipelines.meshes import bake_texture

        tick = progress.tick_for(cls)
        meshes = meshes_in(mesh, tick)
        if len(meshes) != len(field):
            raise ValueError(f"{len(meshes)} meshes and {len(field)} fields do not match: wire the field each mesh was made from.")
        baked = []
        for i, (one, its_field) in enumerate(zip(meshes, field, strict=True)):
            own_tick = part_of(tick, i, len(meshes))
            baked.append(bake_texture.bake_from_field(one, its_field, int(size), device=memory.device(), tick=own_tick))
        tick(1, 1)
        return io.NodeOutput(to_core_mesh(baked), _textures(baked))


def _textures(meshes: list[Mesh]) -> torch.Tensor:
    return torch.stack([m.texture[..., :3] for m in meshes if m.texture is not None])


class LatheBakeViewsTexture(io.ComfyNode):
    """Pictures as a texture."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheBakeViewsTexture",
            display_name="Bake Views Texture",
            category=CATEGORY,
            description="Projects posed pictures onto any mesh as its texture, weighted by how straight each sees the surface. "
            "Upscale or repaint the views first for a sharper texture.",
            search_aliases=["project texture", "texture from images", "multiview texture", "camera projection", "bake views"],
            inputs=[
                mesh_input("mesh", tooltip="The mesh, from Unwrap Mesh; without UVs it is unwrapped here."),
                IMAGE.Input("images", tooltip="The views, one asset after the other, of any size."),
                CAMERAS.Input("cameras", tooltip="Their cameras."),
                MASK.Input("masks", optional=True, tooltip="1 = object; keeps the background out of the texture."),
                widget(io.Combo, "size", options=TEXTURE_SIZES, default="1024", tooltip="Side of the texture in pixels."),
                widget(
                    io.String,
                    "view_weights",
                    default="",
                    advanced=True,
                    tooltip="How much each view counts, separated by commas, for example 1, 1, 0.5, 1, 0, 1. Empty: all the same.",
                ),
                widget(
                    io.Float,
                    "sharpness",
                    default=4.0,
                    min=0.0,
                    max=32.0,
                    step=0.5,
                    advanced=True,
                    tooltip="How much the straightest view is preferred: 1 blends broadly, 8 nearly takes one view alone.",
                ),
                widget(
                    io.Combo,
                    "unseen",
                    options=["what it had", "nearest colour"],
                    default="what it had",
                    advanced=True,
                    tooltip="What no view sees keeps the mesh's own texture or colours, or takes the nearest seen colour.",
                ),
            ],
            outputs=[
                MESH.Output(display_name="mesh", tooltip="The textured mesh."),
                IMAGE.Output(display_name="texture", tooltip="The texture itself."),
                MASK.Output(display_name="coverage", tooltip="1 where a view painted the texture, 0 where none saw the surface."),
            ],
        )

    @classmethod
    def execute(cls, mesh, images, cameras, size, view_weights, sharpness, unseen, masks=None) -> io.NodeOutput:
        from ..pipelines.meshes import bake_texture

        tick = progress.tick_for(cls)
        meshes = meshes_in(mesh, tick)
        pixels, mask = images_in(images), None if masks is None else object_masks_in(masks)
        if count_assets(len(pixels), cameras) != len(meshes):
            raise ValueError(f"{len(pixels)} images of {cameras.n_views} views are not {len(meshes)} assets: give each mesh its views.")
        if mask is not None and len(mask) != len(pixels):
            raise ValueError(f"Bake Views Texture: {len(pixels)} images need as many masks, not {len(mask)}.")
        cameras = match_cameras(cameras, *pixels.shape[2:], stage="Bake Views Texture")
        weights = _numbers(view_weights, cameras.n_views)
        baked, coverage = [], []
        for i, one in enumerate(meshes):
            rows = slice(i * cameras.n_views, (i + 1) * cameras.n_views)
            textured, seen = bake_texture.bake_from_views(
                one, pixels[rows], None if mask is None else mask[rows], cameras.of_asset(i), size=int(size), view_weights=weights,
                sharpness=sharpness, fill="existing" if unseen == "what it had" else "nearest", tick=part_of(tick, i, len(meshes)),
            )  # fmt: skip
            baked.append(textured)
            coverage.append(seen)
        tick(1, 1)
        return io.NodeOutput(to_core_mesh(baked), _textures(baked), torch.stack(coverage))


def _numbers(text: str, count: int) -> list[float] | None:
    if not text.strip():
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"View weights are numbers separated by commas, not {text!r}.") from None
    if len(numbers) != count or min(numbers) < 0 or max(numbers) == 0:
        raise ValueError(f"{count} views need {count} weights of 0 or more, one of them above 0; these are {numbers}.")
    return numbers


class LatheLoadMesh(io.ComfyNode):
    """A mesh from a file."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheLoadMesh",
            display_name="Load Mesh",
            category=CATEGORY,
            description="Reads a mesh file (GLB, glTF, OBJ, PLY, STL, OFF) with its textures, colours and material as a MESH.",
            search_aliases=["import mesh", "load glb", "load gltf", "load obj", "load stl", "load ply", "open 3d model"],
            inputs=[
                widget(
                    io.Combo,
                    "file",
                    options=asset_files(*MESH_SUFFIXES),
                    tooltip="A mesh file in ComfyUI's input folder, or one saved below output/lathe (marked [output]).",
                ),
                widget(
                    io.Boolean,
                    "fit",
                    default=False,
                    tooltip="Centre the mesh and scale it into the cube from -1 to 1, where Lathe's cameras look. "
                    "Leave it off for meshes made with Lathe.",
                ),
            ],
            outputs=[MESH.Output(display_name="mesh", tooltip="The mesh, with the UVs, textures, colours and material of the file.")],
        )

    @classmethod
    def fingerprint_inputs(cls, file, fit):
        return file_stamp(file)

    @classmethod
    def execute(cls, file, fit) -> io.NodeOutput:
        from ..pipelines.formats.meshes import load_mesh

        return io.NodeOutput(to_core_mesh([load_mesh(asset_path(file), fit=fit, tick=progress.tick_for(cls))]))


class LatheSaveMesh(io.ComfyNode):
    """Meshes into files."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheSaveMesh",
            display_name="Save Mesh",
            category=CATEGORY,
            description="Writes a mesh with UVs, textures, colours and material as GLB or OBJ into the output folder, on every version of "
            "ComfyUI. Wire the path to Preview 3D to look at it.",
            search_aliases=["export glb", "export obj", "save glb", "save 3d model"],
            is_output_node=True,
            inputs=[
                mesh_input("mesh", tooltip="The mesh to save; one file for each of a batch."),
                widget(
                    io.String,
                    "filename_prefix",
                    default="lathe/mesh",
                    tooltip="Name of the file under the output folder; a number is added, nothing is overwritten.",
                ),
                widget(
                    io.Combo,
                    "format",
                    options=["glb", "obj"],
                    default="glb",
                    tooltip="glb: one file with everything in it. "
                    "obj: with an .mtl and pictures beside it; what an OBJ cannot hold is said.",
                ),
            ],
            outputs=[io.String.Output(display_name="path", is_output_list=True, tooltip="The file's name below the output folder.")],
        )

    @classmethod
    def execute(cls, mesh, filename_prefix, format) -> io.NodeOutput:
        from ..pipelines.formats.meshes import save_mesh

        meshes = meshes_in(mesh, progress.tick_for(cls))
        files = output_files(filename_prefix, f".{format}", len(meshes))
        for one, file in zip(meshes, files, strict=True):
            save_mesh(one, file.path)
        return io.NodeOutput(relative_names(files), ui={"3d": [file.result for file in files]})


NODES = [
    LatheCleanMesh,
    LatheSimplifyMesh,
    LatheUnwrapMesh,
    LatheBakeFieldTexture,
    LatheBakeViewsTexture,
    LatheLoadMesh,
    LatheSaveMesh,
]
