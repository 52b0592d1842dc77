"""What a reconstruction must beat: the visual hull of the true views, the extruded silhouette, the mean training shape.

Each gives a coloured mesh in world space, so that it is scored exactly as a model's mesh is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..pipelines.data.cameras import Cameras
from ..pipelines.data.mesh import Mesh
from ..pipelines.ops import camera_math, visual_hull
from ..pipelines.ops.color import srgb_to_linear
from ..pipelines.ops.mesh_tools import vertex_normals
from ..pipelines.rendering.mesh import render_mesh

MEAN_SHAPE_FILE = Path(__file__).parent / "mean_shape.npz"
HULL_RESOLUTION = 96


def visual_hull_mesh(images: Tensor, masks: Tensor, cameras: Cameras, resolution: int = HULL_RESOLUTION) -> Mesh:
    """Marching cubes on the hull of V silhouettes, its vertices coloured from the views that see them.

    Args:
        images: (V, 3, H, W) on white.  masks: (V, 1, H, W), 1 = object.  cameras: the V views.

    Raises:
        ValueError: the silhouettes have no point in common.
    """
    occupancy, _ = visual_hull.hull_volume(images, masks, cameras, resolution)
    mesh = volume_to_mesh(occupancy, 0.5, "Visual hull: the silhouettes have no point of space in common.")
    return _with_colors(mesh, visible_colors(mesh, images, masks, cameras, tolerance=3 * 2 / resolution))


def extrusion_mesh(image: Tensor, mask: Tensor, camera: Cameras, *, depth_share: float = 0.5, resolution: int = HULL_RESOLUTION) -> Mesh:
    """The silhouette of one view, extruded along its viewing axis, and coloured by the picture through and through.

    The slab is centred on the origin; its thickness is `depth_share` times the square root of the silhouette's area (world units). One
    half gives the least Chamfer distance on 60 training objects, among 0.2, 0.3, ..., 0.7. It knows the view's true elevation.

    Args:
        image: (3, H, W) on white.  mask: (1, H, W), 1 = object.  camera: one view.

    Raises:
        ValueError: the mask is empty.
    """
    if not bool((mask > 0.5).any()):
        raise ValueError("Extrusion: the mask is empty, there is no silhouette to extrude.")
    distance = float(camera.c2w[0, :3, 3].norm())
    frame_width = distance / float(camera.K[0, 0])
    half = 0.5 * depth_share * float((mask > 0.5).float().mean().sqrt()) * frame_width
    points = visual_hull.cell_centres(resolution).reshape(-1, 3)
    silhouette = visual_hull.sample_views(points, mask[None], camera.c2w, camera.K)[0, :, 0]
    _, depth = camera_math.project(points, camera.c2w, camera.K)
    slab = (0.5 + (half - (depth[0] - distance).abs()) * resolution / 2).clamp(0, 1)
    occupancy = torch.minimum(silhouette, slab).reshape(resolution, resolution, resolution)
    mesh = volume_to_mesh(occupancy, 0.5, "Extrusion: the silhouette lies outside [-1, 1]^3.")
    sampled = _foreground_samples(mesh.vertices, image[None], mask[None], camera)[0]
    return _with_colors(mesh, sampled[:, :3] / sampled[:, 3:].clamp_min(1e-3))


def mean_shape_mesh(file: Path = MEAN_SHAPE_FILE) -> Mesh:
    """The mean occupancy of the training split cut at its threshold, with the mean colour of each place.

    Made by `bench/mean_shape.py`; the same mesh for every input.
    """
    with np.load(file) as data:
        occupancy = torch.from_numpy(data["occupancy"].astype(np.float32) / 255)
        color = torch.from_numpy(data["color"].astype(np.float32) / 255)
        threshold = float(data["threshold"])
    mesh = volume_to_mesh(occupancy, threshold, "Mean shape: nothing lies above the threshold.")
    volume = color.permute(3, 0, 1, 2)[None]
    sampled = torch.nn.functional.grid_sample(
        volume, mesh.vertices[None, None, None], mode="bilinear", padding_mode="border", align_corners=False
    )
    return _with_colors(mesh, sampled[0, :, 0, 0].T)


def volume_to_mesh(occupancy: Tensor, level: float, when_empty: str) -> Mesh:
    """Marching cubes on the cells (z, y, x) of [-1, 1]^3; closed at the border.

    Raises:
        ValueError: no cell lies above `level` (`when_empty` is the message).
    """
    from skimage.measure import marching_cubes

    if float(occupancy.max()) <= level:
        raise ValueError(when_empty)
    resolution = occupancy.shape[0]
    padded = np.pad(occupancy.double().numpy(), 1)
    vertices, faces, _, _ = marching_cubes(padded, level)
    world = (torch.from_numpy(vertices.copy()).float().flip(-1) - 0.5) * 2 / resolution - 1
    return Mesh(world, torch.from_numpy(faces.astype(np.int64)))


def visible_colors(mesh: Mesh, images: Tensor, masks: Tensor, cameras: Cameras, *, tolerance: float) -> Tensor:
    """sRGB colours (V, 3) of the mesh's vertices, averaged over the views that see them.

    A view weighs by the squared cosine between the surface and the direction to the camera; what no view sees takes the mean of all views.

    Args:
        tolerance: how far behind the first surface a vertex still counts as seen, world units.
    """
    depths = render_mesh(mesh, cameras, images.shape[2], images.shape[3]).depths
    # a vertex on an outline may project beside its own silhouette: look for the farthest first surface around it
    reach = torch.nn.functional.max_pool2d(depths, 3, stride=1, padding=1)
    _, depth = camera_math.project(mesh.vertices, cameras.c2w, cameras.K)
    seen = depth <= visual_hull.sample_views(mesh.vertices, reach, cameras.c2w, cameras.K)[..., 0] + tolerance
    to_camera = torch.nn.functional.normalize(cameras.c2w[:, None, :3, 3] - mesh.vertices, dim=-1)
    cosine = (to_camera * vertex_normals(mesh.vertices, mesh.faces)).sum(-1).clamp_min(0)
    sampled = _foreground_samples(mesh.vertices, images, masks, cameras)
    weight = (seen * cosine**2 + 1e-4)[..., None]
    total = (sampled * weight).sum(0)
    return total[:, :3] / total[:, 3:].clamp_min(1e-6)


def _foreground_samples(points: Tensor, images: Tensor, masks: Tensor, cameras: Cameras) -> Tensor:
    """(V, N, 4): the object's colour times coverage, and the coverage, with the white background taken out."""
    pictures = torch.cat([(images - (1 - masks)).clamp_min(0), masks], dim=1)
    return visual_hull.sample_views(points, pictures, cameras.c2w, cameras.K)


def _with_colors(mesh: Mesh, srgb: Tensor) -> Mesh:
    """The mesh with sRGB vertex colours, stored linear as `Mesh` wants them."""
    return Mesh(mesh.vertices, mesh.faces, vertex_colors=srgb_to_linear(srgb.clamp(0, 1)))
