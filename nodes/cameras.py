"""Cameras: presets, orbits, the 3D viewer's camera, files, and views joined and selected with their images."""

from __future__ import annotations

import logging

import torch
from comfy_api.latest import io

from ..pipelines.cameras import join_and_select, load3d_viewer, orbits, presets
from .core.files import asset_files, asset_path, file_stamp, output_files, relative_names
from .core.images import frames_in, masks_in
from .core.mesh import mesh_input, meshes_in
from .core.schema import CAMERAS, IMAGE, LOAD3D_CAMERA, LOAD3D_MODEL_INFO, MASK, NEWER_VIEWER, schema, widget

log = logging.getLogger(__name__)

CATEGORY = "3d/Lathe/Cameras"
VIEWERS = ["auto", "fitted", "own space"]


class LatheCameraPreset(io.ComfyNode):
    """A camera set by name."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheCameraPreset",
            display_name="Camera Preset",
            category=CATEGORY,
            description="The cameras a view model draws for, by name: Zero123++, SV3D, GeoLRM, IM-3D, or an evaluation orbit.",
            search_aliases=["zero123plus cameras", "sv3d cameras", "poses", "camera set", "orbit preset"],
            inputs=[
                widget(
                    io.Combo,
                    "preset",
                    options=list(presets.preset_names()),
                    default="zero123plus_v1.2",
                    tooltip="Which set. sv3d_p_core and sv3d_u_core are for frames sampled with ComfyUI's own SV3D nodes, "
                    "sv3d_sgm for frames of the published sampler.",
                ),
                widget(
                    io.Float,
                    "input_azimuth",
                    default=0.0,
                    min=-360.0,
                    max=360.0,
                    step=1.0,
                    tooltip="Azimuth of the picture in degrees: 0 shows the object's front, 90 its left side as it stands (towards +X). "
                    "Added to every view.",
                ),
                widget(
                    io.Float,
                    "elevation",
                    default=0.0,
                    min=-90.0,
                    max=90.0,
                    step=1.0,
                    tooltip="Degrees above the horizon. Only the SV3D and IM-3D sets use it: give what was given to their sampler; "
                    "the other sets have their own.",
                ),
                widget(
                    io.Float,
                    "radius",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    advanced=True,
                    tooltip="Camera distance from the origin; the object fits the cube from -1 to 1. 0 keeps the preset's own.",
                ),
            ],
            outputs=[
                CAMERAS.Output(
                    display_name="cameras",
                    tooltip="One camera for each view, named by azimuth and elevation. The field of view is vertical; pictures that are "
                    "not square bring their own proportions.",
                )
            ],
        )

    @classmethod
    def execute(cls, preset, input_azimuth, elevation, radius) -> io.NodeOutput:
        return io.NodeOutput(presets.preset_cameras(preset, input_azimuth=input_azimuth, elevation=elevation, radius=radius or None))


class LatheRandomElevation(io.ComfyNode):
    """One elevation, for the generator and for the cameras of what it draws."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheRandomElevation",
            display_name="Random Elevation",
            category=CATEGORY,
            description="An elevation drawn by a seed, for an orbit and for the model that draws it: IM-3D's is trained on orbits at a "
            "random one between 0 and 45 degrees.",
            search_aliases=["im3d orbit", "random orbit", "random pose", "sv3d elevation"],
            inputs=[
                widget(
                    io.Int, "seed", default=0, min=0, max=2**32 - 1, control_after_generate=True,
                    tooltip="The same seed gives the same elevation.",
                ),
                widget(io.Float, "lowest", default=0.0, min=-90.0, max=90.0, step=1.0, tooltip="Degrees above the horizon, at least."),
                widget(io.Float, "highest", default=45.0, min=-90.0, max=90.0, step=1.0, tooltip="Degrees above the horizon, at most."),
            ],
            outputs=[
                io.Float.Output(
                    display_name="elevation", tooltip="Degrees: for Camera Preset, Orbit Cameras, and core's SV3D conditioning alike."
                )
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, seed, lowest, highest) -> io.NodeOutput:
        return io.NodeOutput(orbits.random_elevation(seed, lowest, highest))


class LatheOrbitCameras(io.ComfyNode):
    """Even steps of an orbit."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheOrbitCameras",
            display_name="Orbit Cameras",
            category=CATEGORY,
            description="Cameras at even steps around the object, for turntables or for your own views.",
            search_aliases=["turntable", "camera path", "orbit", "poses"],
            inputs=[
                widget(io.Int, "views", default=24, min=1, max=4096, tooltip="How many cameras."),
                widget(
                    io.Float,
                    "elevation",
                    default=15.0,
                    min=-90.0,
                    max=90.0,
                    step=1.0,
                    tooltip="Degrees above the horizon, the same for all.",
                ),
                widget(
                    io.Float,
                    "radius",
                    default=4.0,
                    min=0.01,
                    max=100.0,
                    step=0.1,
                    tooltip="Distance from the origin. The object fits the cube from -1 to 1, so 4 with a 30 degree lens shows it whole.",
                ),
                widget(
                    io.Float,
                    "fov",
                    default=30.0,
                    min=1.0,
                    max=170.0,
                    step=0.1,
                    tooltip="Vertical field of view in degrees. The width follows from the pictures' proportions where the cameras meet "
                    "pictures.",
                ),
                widget(
                    io.Float,
                    "start",
                    default=0.0,
                    min=-360.0,
                    max=360.0,
                    step=1.0,
                    tooltip="Azimuth of the first camera: 0 looks at the front.",
                ),
                widget(
                    io.Float,
                    "turn",
                    default=360.0,
                    min=-3600.0,
                    max=3600.0,
                    step=1.0,
                    advanced=True,
                    tooltip="How far the orbit goes, counter-clockwise seen from above; negative turns the other way.",
                ),
                widget(
                    io.Boolean,
                    "endpoint",
                    default=False,
                    advanced=True,
                    tooltip="Whether the last camera stands at the end of the turn. On a full turn it would repeat the first.",
                ),
            ],
            outputs=[CAMERAS.Output(display_name="cameras", tooltip="The orbit's cameras, in order.")],
        )

    @classmethod
    def execute(cls, views, elevation, radius, fov, start, turn, endpoint) -> io.NodeOutput:
        orbit = orbits.orbit_cameras(views, elevation=elevation, radius=radius, fov=fov, start=start, turn=turn, endpoint=endpoint)
        return io.NodeOutput(orbit)


def _bounds(mesh) -> tuple[torch.Tensor, torch.Tensor] | None:
    if mesh is None:
        return None
    vertices = meshes_in(mesh)[0].vertices
    if not len(vertices):
        raise ValueError("The mesh is empty, so its place in the viewer is unknown.")
    return vertices.amin(0), vertices.amax(0)


def _viewer_inputs() -> list:
    return [
        mesh_input(
            "mesh",
            optional=True,
            tooltip="The mesh the viewer shows, the first of a batch. Viewers that scale a model to their own size need it to undo that.",
        ),
        widget(
            io.Combo,
            "viewer",
            options=VIEWERS,
            default="auto",
            advanced=True,
            tooltip="How the viewer shows a model. fitted: scaled to size 5 and set on the floor, as ComfyUI's older viewer always does. "
            "own space: left where it is. auto goes by the age of the camera or of this ComfyUI.",
        ),
    ]


class LatheCamerasFromLoad3D(io.ComfyNode):
    """The viewer's camera as a Lathe camera."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheCamerasFromLoad3D",
            display_name="Cameras From 3D Viewer",
            category=CATEGORY,
            description="Turns the camera of ComfyUI's 3D viewer (Load 3D) into a Lathe camera, for Render Views or a picture made there.",
            search_aliases=["load3d camera", "viewer camera", "camera info"],
            inputs=[
                LOAD3D_CAMERA.Input(
                    "camera_info",
                    tooltip="The camera of Load 3D, or of core's Create Camera Info; a list of them, as core's Batch Cameras gives, "
                    "makes as many views.",
                ),
                *_viewer_inputs(),
                widget(
                    LOAD3D_MODEL_INFO,
                    "model_3d_info",
                    optional=True,
                    tooltip="Newer viewers say here how the model was moved and scaled; where wired, it decides.",
                ),
                widget(
                    io.Float,
                    "aspect",
                    default=1.0,
                    min=0.05,
                    max=20.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Width divided by height of the pictures this camera is for. 1 takes the proportions of whatever pictures it "
                    "meets.",
                ),
            ],
            outputs=[CAMERAS.Output(display_name="cameras", tooltip="One camera, or those of the list in its order.")],
        )

    @classmethod
    def execute(cls, camera_info, viewer, aspect, mesh=None, model_3d_info=None) -> io.NodeOutput:
        infos, bounds = load3d_viewer.camera_list(camera_info), _bounds(mesh)
        newer = ["fov" in info if viewer == "auto" else viewer == "own space" for info in infos]
        frames = [load3d_viewer.choose_frame(newer_viewer=new, bounds=bounds, model_info=model_3d_info) for new in newer]
        return io.NodeOutput(load3d_viewer.cameras_from_load3d(infos, frames, aspect))


class LatheCamerasToLoad3D(io.ComfyNode):
    """One Lathe camera for the viewer."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheCamerasToLoad3D",
            display_name="Cameras To 3D Viewer",
            category=CATEGORY,
            description="One camera of a set as ComfyUI's viewer takes it (Preview 3D), to look at an asset through that camera.",
            search_aliases=["load3d camera", "preview3d camera", "camera info"],
            inputs=[
                CAMERAS.Input("cameras", tooltip="A set of cameras; the first asset's, where each asset has its own."),
                widget(io.Int, "view", default=0, min=0, max=4095, tooltip="Which camera of the set, counted from 0."),
                *_viewer_inputs(),
            ],
            outputs=[LOAD3D_CAMERA.Output(display_name="camera_info", tooltip="For Preview 3D and core's render nodes.")],
        )

    @classmethod
    def execute(cls, cameras, view, viewer, mesh=None) -> io.NodeOutput:
        if view >= cameras.n_views:
            raise ValueError(f"There is no view {view}: this set has {cameras.n_views} (0 to {cameras.n_views - 1}).")
        if cameras.n_assets not in (None, 1):
            log.warning("Cameras To Load3D: the cameras are posed for %d assets; those of the first are taken.", cameras.n_assets)
        newer = NEWER_VIEWER if viewer == "auto" else viewer == "own space"
        bounds = _bounds(mesh)
        frame = load3d_viewer.choose_frame(newer_viewer=newer, bounds=bounds)
        centre = None if bounds is None else (bounds[0] + bounds[1]) / 2
        return io.NodeOutput(load3d_viewer.to_load3d(cameras.of_asset(0), view, frame, centre, newer_viewer=newer))


class LatheLoadCameras(io.ComfyNode):
    """Cameras from a transforms.json."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheLoadCameras",
            display_name="Load Cameras",
            category=CATEGORY,
            description="Reads posed cameras from a transforms.json (the NeRF layout), for example of your own captured views.",
            search_aliases=["transforms.json", "nerf cameras", "import poses"],
            inputs=[
                widget(
                    io.Combo,
                    "file",
                    options=asset_files(".json"),
                    tooltip="A .json file in ComfyUI's input folder, or one saved by Save Cameras (marked [output]).",
                )
            ],
            outputs=[CAMERAS.Output(display_name="cameras", tooltip="The file's cameras, in its order.")],
        )

    @classmethod
    def fingerprint_inputs(cls, file):
        return file_stamp(file)

    @classmethod
    def execute(cls, file) -> io.NodeOutput:
        from ..pipelines.formats.cameras import load_cameras

        return io.NodeOutput(load_cameras(asset_path(file)))


class LatheSaveCameras(io.ComfyNode):
    """Cameras into a transforms.json."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheSaveCameras",
            display_name="Save Cameras",
            category=CATEGORY,
            description="Writes cameras as a transforms.json (the NeRF layout) into the output folder, one file for each asset.",
            search_aliases=["transforms.json", "export cameras", "nerf cameras"],
            is_output_node=True,
            inputs=[
                CAMERAS.Input(
                    "cameras",
                    tooltip="The cameras to write. Those of Orbit Cameras and Camera Preset are written for square pictures.",
                ),
                widget(
                    io.String,
                    "filename_prefix",
                    default="lathe/cameras",
                    tooltip="Name of the file under the output folder; a number is added, nothing is overwritten.",
                ),
            ],
            outputs=[io.String.Output(display_name="path", is_output_list=True, tooltip="The file's name below the output folder.")],
        )

    @classmethod
    def execute(cls, cameras, filename_prefix) -> io.NodeOutput:
        from ..pipelines.formats.cameras import save_cameras

        files = output_files(filename_prefix, ".json", cameras.n_assets or 1)
        for i, file in enumerate(files):
            save_cameras(cameras.of_asset(i), file.path)
        return io.NodeOutput(relative_names(files), ui={"text": [str(file.path) for file in files]})


class LatheJoinViews(io.ComfyNode):
    """Two view sets as one."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheJoinViews",
            display_name="Join Views",
            category=CATEGORY,
            description="Puts two sets of views together, cameras with their images and masks, asset by asset. Chain it for more sets.",
            search_aliases=["merge views", "combine cameras", "more views"],
            inputs=[
                CAMERAS.Input("cameras_1", tooltip="The first set of cameras."),
                CAMERAS.Input("cameras_2", tooltip="The second set; its views come after the first's."),
                IMAGE.Input("images_1", optional=True, tooltip="The first set's images, one asset after the other."),
                IMAGE.Input("images_2", optional=True, tooltip="The second set's images, of the same assets and the same size."),
                MASK.Input("masks_1", optional=True, tooltip="The first set's masks, where it has any."),
                MASK.Input("masks_2", optional=True, tooltip="The second set's masks, where it has any."),
            ],
            outputs=[
                CAMERAS.Output(display_name="cameras", tooltip="All cameras."),
                IMAGE.Output(display_name="images", tooltip="All images, asset by asset; nothing where none came in."),
                MASK.Output(display_name="masks", tooltip="All masks; nothing where none came in."),
            ],
        )

    @classmethod
    def execute(cls, cameras_1, cameras_2, images_1=None, images_2=None, masks_1=None, masks_2=None) -> io.NodeOutput:
        def joined(first, second, what):
            if first is None and second is None:
                return None
            if first is None or second is None:
                raise ValueError(f"Join Views has {what} of only one set: wire both, or neither.")
            return join_and_select.join_frames(first, second, cameras_1, cameras_2)

        first, second = (None if images is None else frames_in(images) for images in (images_1, images_2))
        images = joined(first, second, "images")
        first, second = (None if masks is None else masks_in(masks)[:, 0] for masks in (masks_1, masks_2))
        return io.NodeOutput(join_and_select.join_cameras(cameras_1, cameras_2), images, joined(first, second, "masks"))


class LatheSelectViews(io.ComfyNode):
    """Some views of a set."""

    @classmethod
    def define_schema(cls):
        return schema(
            node_id="LatheSelectViews",
            display_name="Select Views",
            category=CATEGORY,
            description="Keeps some views of a set, in the order you name them, with their images and masks.",
            search_aliases=["pick views", "filter views", "drop view", "reorder views"],
            inputs=[
                CAMERAS.Input("cameras", tooltip="The cameras of the set."),
                widget(
                    io.String,
                    "views",
                    default="0, 2, 4, 5",
                    tooltip="Numbers counted from 0, and ranges: 0, 2, 4-5. Negative numbers count from the end.",
                ),
                IMAGE.Input("images", optional=True, tooltip="The set's images, one asset after the other."),
                MASK.Input("masks", optional=True, tooltip="The set's masks."),
            ],
            outputs=[
                CAMERAS.Output(display_name="cameras", tooltip="The chosen cameras."),
                IMAGE.Output(display_name="images", tooltip="The chosen views of every asset; nothing where none came in."),
                MASK.Output(display_name="masks", tooltip="Their masks; nothing where none came in."),
            ],
        )

    @classmethod
    def execute(cls, cameras, views, images=None, masks=None) -> io.NodeOutput:
        chosen = join_and_select.parse_views(views, cameras.n_views)
        kept = [None if frames is None else join_and_select.select_frames(frames, cameras, chosen) for frames in (images, masks)]
        return io.NodeOutput(cameras.select(chosen), *kept)


NODES = [
    LatheCameraPreset,
    LatheRandomElevation,
    LatheOrbitCameras,
    LatheCamerasFromLoad3D,
    LatheCamerasToLoad3D,
    LatheLoadCameras,
    LatheSaveCameras,
    LatheJoinViews,
    LatheSelectViews,
]
