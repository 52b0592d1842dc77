"""Splats to fields, and meshes fitted to views."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import torch
from comfy_api.latest import io

from ..pipelines.data.progress import part_of
from .core import folders, gradients, memory, progress
from .core.images import images_in, images_out, outlines_in
from .core.mesh import mesh_input, meshes_in, to_core_mesh
from .core.schema import CAMERAS, FIELD, IMAGE, MASK, MESH, color_in, schema, widget
from .core.splat import splat_input, splats_in

PRESETS = ["fast", "paper", "geolrm"]


class LatheSplatToField(io.ComfyNode):
    """Splats as density."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheSplatToField",
            display_name="Splat To Field",
            category="3d/Lathe/Splats",
            description="Reads Gaussian splats as a density with colours, solid inside: Field To Mesh makes a mesh of it, Bake Field "
            "Texture paints with it, Save Field keeps it.",
            search_aliases=["splat to mesh", "gaussians to mesh", "3dgs to mesh", "convert splat", "density field"],
            inputs=[
                splat_input("splat", tooltip="The splats; each asset of a batch makes a field."),
                widget(
                    io.Int, "resolution", default=128, min=16, max=512, step=8,
                    tooltip="Cells along the cube's edge that the mesh will have. Thinner Gaussians are thickened to about half a cell.",
                ),
                widget(
                    io.Float, "threshold", default=40.0, min=1.0, max=99.0, step=1.0,
                    tooltip="Density at the surface; one Gaussian of opacity 1 has 100 at its centre. Lower gives a fatter object and "
                    "closes holes, higher shows finer gaps.",
                ),
                widget(
                    io.Boolean, "fill_inside", default=True,
                    tooltip="Count what cannot be reached from outside as solid. Splats are a hollow shell: off, the mesh has an inner "
                    "wall as well.",
                ),
            ],
            outputs=[FIELD.Output(display_name="field", tooltip="One field for each asset, of density.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, splat, resolution, threshold, fill_inside) -> io.NodeOutput:
        from ..pipelines.splats.field import estimate_memory, splat_field

        splats, tick = splats_in(splat), progress.tick_for(cls)
        memory.make_room(
            estimate_memory(resolution, fill_inside, max(map(len, splats)), len(splats)),
            f"Reading splats as a field of {resolution} cells along the edge",
            f"Set `resolution` to {max(16, resolution // 16 * 8)} or less, or turn `fill_inside` off.",
            memory.MAIN_MEMORY,
        )
        fields = [
            splat_field(one, resolution=resolution, level=threshold, fill=fill_inside, tick=part_of(tick, i, len(splats)))
            for i, one in enumerate(splats)
        ]
        tick(1, 1)
        return io.NodeOutput(fields)


class LatheFitMesh(io.ComfyNode):
    """IM-3D's second step for meshes."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheFitMesh",
            display_name="Fit Mesh",
            category="3d/Lathe/Mesh",
            description="Moves the surface of a mesh, and paints its texture, until its renders look like posed views of the object: "
            "FlexiCubes and the losses of Fit Splats. Cancel keeps what was reached.",
            search_aliases=["optimize mesh", "refine mesh", "differentiable rendering", "flexicubes", "dmtet", "IM-3D", "views to mesh"],
            inputs=[
                mesh_input(
                    "mesh", tooltip="What to start from, best closed and near the truth: from Field To Mesh, or any. One for each asset.",
                ),
                IMAGE.Input("images", tooltip="Views of the object before a plain background, asset by asset."),
                CAMERAS.Input("cameras", tooltip="Where the views were taken from; one camera for each view."),
                MASK.Input(
                    "masks", optional=True,
                    tooltip="1 = object; from Mask Views. Without masks an alpha channel of the images serves; without both the outline is "
                    "fitted less sharply. Views with an empty mask are left out.",
                ),
                widget(
                    io.Combo, "preset", options=PRESETS, default="fast",
                    tooltip="fast: two views a step, perceptual loss at 128 pixels, a minute or two on a CPU. paper: IM-3D's losses, all "
                    "views a step at full size on a finer grid, for a GPU. geolrm: squared differences, for views rendered from splats.",
                ),
                widget(
                    io.Int, "seed", default=0, min=0, max=2**32 - 1, control_after_generate=True,
                    tooltip="The same seed gives the same mesh; on one CPU thread bit for bit.",
                ),
                widget(
                    io.Int, "steps", default=0, min=0, max=5000,
                    tooltip="How long to fit the surface; 0 takes the preset's number.",
                ),
                widget(
                    io.Int, "resolution", default=0, min=0, max=256, step=8,
                    tooltip="Cells of the grid along the cube's edge, at least 16; 0 takes the preset's. Finer shows thinner parts and "
                    "costs time and memory.",
                ),
                widget(
                    io.Int, "faces", default=0, min=0, max=200_000, step=1000,
                    tooltip="About how many triangles the textured mesh keeps; 0 takes the preset's number.",
                ),
                widget(
                    io.Combo, "texture_size", options=["512", "1024", "2048", "4096"], default="1024",
                    tooltip="Side of the texture in pixels.",
                ),
                widget(
                    io.Int, "image_size", default=512, min=0, max=4096, step=16,
                    tooltip="Larger views are reduced to this longest side; smaller ones stay as they are. 0 uses all views as given.",
                ),
                widget(
                    io.String, "background", default="#ffffff",
                    tooltip="Colour behind the object in the views: #rrggbb, or white, grey, black. Outside the masks it takes the place "
                    "of what is there.",
                ),
                widget(
                    io.Float, "smooth", default=1.0, min=0.0, max=100.0, step=0.1, advanced=True,
                    tooltip="How strongly the surface is kept smooth, times the preset's weight. More for views that disagree.",
                ),
            ],
            outputs=[
                MESH.Output(
                    display_name="mesh", tooltip="The fitted mesh of each asset with UVs and a texture; after Cancel with vertex colours.",
                ),
                IMAGE.Output(display_name="preview", tooltip="A few views of each asset above what its mesh shows from there."),
                IMAGE.Output(display_name="curve", tooltip="The loss curve of each asset: every term before its weight."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, mesh, images, cameras, preset, seed, steps, resolution, faces, texture_size, image_size, background, smooth, masks=None,
    ) -> io.NodeOutput:  # fmt: skip
        from ..pipelines.fitting.perceptual import load_perceptual
        from ..pipelines.fitting.targets import resized_views
        from ..pipelines.meshes import fit as mesh_fit
        from ..pipelines.meshes import fit_settings
        from ..pipelines.ops import losses

        settings = fit_settings.load_mesh_preset(preset)
        settings = replace(
            settings, steps=steps or settings.steps, resolution=resolution or settings.resolution, faces=faces or settings.faces,
            texture_size=int(texture_size), background=color_in(background),
            regularisers=replace(settings.regularisers, smooth=smooth * settings.regularisers.smooth),
        )  # fmt: skip
        meshes, alpha = meshes_in(mesh, progress.tick_for(cls)), outlines_in(images, masks)
        height, width = losses.fitting_size(images.shape[1], images.shape[2], image_size)
        memory.make_room(
            fit_settings.estimate_memory(cameras.n_views, height, width, settings),
            f"Fitting a mesh to {cameras.n_views} views of {width} x {height} pixels",
            f"Set `image_size` to {max(height, width) // 2} or less, choose the preset fast, or lower `resolution`.",
        )
        with gradients.differentiable():
            views, outlines = resized_views(images_in(images), alpha, image_size)
            perceptual = None
            if settings.weights.perceptual:
                perceptual = load_perceptual(folders.model_folders(), memory.device())
                gradients.heal(perceptual.net)
            fits = mesh_fit.asset_mesh_fits(
                meshes, views, outlines, cameras, settings=settings, seed=seed, device=memory.device(), perceptual=perceptual
            )
            tick, results = progress.tick_for(cls), []
            for index, fit in enumerate(fits):
                own, done = part_of(tick, index, len(meshes)), None
                # Of a batch only the last asset may end early: the outputs hold every asset or none.
                with progress.keeps_result_on_cancel() if index == len(meshes) - 1 else nullcontext():
                    fit.run(settings.steps, own)
                    done = fit.textured(own)
                results.append(fit.result(fit.mesh() if done is None else done))
        return io.NodeOutput(
            to_core_mesh([result.mesh for result in results]),
            images_out(torch.stack([result.preview for result in results])),
            images_out(torch.stack([result.curve for result in results])),
        )


NODES = [LatheSplatToField, LatheFitMesh]
