"""Where a fit of Gaussians starts: at the centre, on a mesh, in voxels, at points, or on the visual hull of the masks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.cameras import Cameras
from ..data.mesh import Mesh
from ..data.progress import Tick, no_tick
from ..data.splats import Splats
from ..ops.color import linear_to_srgb
from ..ops.mesh_colors import BARE, colors_on_faces
from ..ops.mesh_sampling import sample_faces
from ..ops.spherical_harmonics import CONSTANT, OFFSET
from ..ops.visual_hull import cell_centres, sample_views

CENTRE_RADIUS = 0.5
FAINT, SOLID = 0.1, 0.7  # opacities of points that may lie anywhere, and of points on a surface
FLATNESS = 0.3  # thickness of a disc on a surface, as a share of its radius
NEIGHBOURS = 3
POINTS_AT_ONCE = 131072


def start_at_centre(count: int, seed: int) -> Splats:
    """`count` faint grey Gaussians in a ball at the centre (IM-3D, appendix A.1)."""
    generator = torch.Generator().manual_seed(seed)
    direction = F.normalize(torch.randn(count, 3, generator=generator), dim=1)
    radius = CENTRE_RADIUS * torch.rand(count, 1, generator=generator) ** (1 / 3)
    return start_from_points(direction * radius, torch.full((count, 3), BARE), opacity=FAINT)


def start_from_points(points: Tensor, colors: Tensor, *, normals: Tensor | None = None, opacity: float = SOLID) -> Splats:
    """Gaussians as large as the points are apart: round, or discs where normals are given.

    Args:
        points: (N, 3) in [-1, 1]^3.  colors: (N, 3) sRGB in [0, 1].  normals: (N, 3) of any length above 0.

    Raises:
        ValueError: no points, or points that are not finite.
    """
    if len(points) == 0 or not bool(torch.isfinite(points).all()):
        raise ValueError("A fit cannot start from points that are none, NaN or infinite.")
    from scipy.spatial import cKDTree

    among = min(NEIGHBOURS + 1, len(points))
    distance = torch.as_tensor(cKDTree(points.double().numpy()).query(points.double().numpy(), k=among)[0]).reshape(len(points), -1)
    size = (distance[:, 1:].square().mean(1).sqrt() if among > 1 else torch.full((len(points),), 0.1)).float().clamp(1e-4, 0.5)
    scales = size[:, None].repeat(1, 3)
    rotations = torch.tensor([1.0, 0, 0, 0]).repeat(len(points), 1)
    if normals is not None:
        scales[:, 2] *= FLATNESS
        rotations = turns_of_z(normals)
    sh = ((colors.float().clamp(0, 1) - OFFSET) / CONSTANT)[:, None]
    return Splats(points.float().clone(), scales, rotations, torch.full((len(points),), opacity), sh)


def turns_of_z(directions: Tensor) -> Tensor:
    """Unit quaternions (N, 4), w first, that turn +Z towards directions (N, 3)."""
    x, y, z = F.normalize(directions.float(), dim=1).unbind(1)
    half = torch.stack([1 + z, -y, x, torch.zeros_like(x)], dim=1)
    behind = torch.tensor([0.0, 1, 0, 0]).expand_as(half)  # straight back: half a turn about X
    return F.normalize(torch.where(z[:, None] < -1 + 1e-6, behind, half), dim=1)


def start_from_mesh(mesh: Mesh, count: int, seed: int) -> Splats:
    """`count` discs spread by area over a mesh, in its texture's or vertices' colours, else grey.

    A mesh without faces is a cloud of points: a round Gaussian at each, of more than `count` at so many of them by chance.

    Raises:
        ValueError: the mesh has no surface and no points.
    """
    if len(mesh.faces) == 0:
        chosen = torch.randperm(len(mesh.vertices), generator=torch.Generator().manual_seed(seed))[:count].sort().values
        points = mesh.vertices[chosen]
        return start_from_points(
            points, torch.full_like(points, BARE) if mesh.vertex_colors is None else linear_to_srgb(mesh.vertex_colors[chosen, :3])
        )
    points, face, weights = sample_faces(mesh, count, seed)
    a, b, c = mesh.vertices[mesh.faces[face]].unbind(1)
    return start_from_points(points, colors_on_faces(mesh, face, weights), normals=torch.linalg.cross(b - a, c - a))


def start_from_voxel(volume: Tensor, threshold: float, most: int, seed: int, extent: float = 1.0) -> Splats:
    """A grey Gaussian in each cell that is occupied; where more than `most` are, that many of them at random.

    Args:
        volume: (Z, Y, X) probabilities on cells that tile [-extent, extent]^3.
        threshold: cells at or above it are occupied.

    Raises:
        ValueError: another shape, NaN, or no occupied cell.
    """
    if volume.ndim != 3 or not bool(torch.isfinite(volume).all()):
        raise ValueError(f"A VOXEL of shape (Z, Y, X) with finite numbers is expected, this one is {tuple(volume.shape)}.")
    cells = (volume >= threshold).nonzero()
    if len(cells) == 0:
        raise ValueError(f"No cell of the VOXEL reaches {threshold:g}; its largest is {float(volume.max()):g}. Lower the threshold.")
    if len(cells) > most:
        chosen = torch.randperm(len(cells), generator=torch.Generator().manual_seed(seed))[:most]
        cells = cells[chosen.sort().values]
    edge = 2 * extent / torch.tensor(volume.shape, dtype=torch.float32)
    points = ((cells + 0.5) * edge - extent).flip(1)
    round_ones = start_from_points(points, torch.full((len(points), 3), 0.5), opacity=0.5)
    scales = (edge.flip(0) / 2).expand(len(points), 3).clone()
    return Splats(round_ones.positions, scales, round_ones.rotations, round_ones.opacities, round_ones.sh)


def start_from_hull(
    images: Tensor, masks: Tensor, cameras: Cameras, count: int, seed: int, *, resolution: int = 128, tick: Tick = no_tick
) -> Splats:
    """`count` discs spread over the surface of the masks' visual hull, in the colours of the views that face them.

    Views whose mask is empty do not count. Where masks contradict each other so much that next to nothing is left, a point may be
    outside of one of them, then of two, and so on.

    Args:
        images: (V, 3, H, W).  masks: (V, 1, H, W), 1 = object.  cameras: V views of one asset.
        tick: called for each part of the space that the masks are asked about.

    Raises:
        ValueError: even a quarter of the masks left out does not make the others meet anywhere.
    """
    useful = (masks.flatten(1).amax(1) > 0.5).nonzero()[:, 0].tolist()
    images, masks = images[useful].float(), masks[useful].float()
    cameras = cameras.select(useful).for_pictures(*masks.shape[2:])
    centres = cell_centres(resolution).reshape(-1, 3)
    excluded = _exclusions(centres, masks, cameras, tick).reshape(resolution, resolution, resolution)
    for misses in range(len(useful) // 4 + 1):
        surface, normals = _surface(excluded <= misses)
        if len(surface) >= min(100, count):
            break
    else:
        raise ValueError("The masks of these views do not meet in space: do these cameras belong to these views, and is the object white?")
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(surface), (count,), generator=generator) if len(surface) < count else torch.randperm(
        len(surface), generator=generator)[:count]  # fmt: skip
    jitter = (torch.rand(count, 3, generator=generator) - 0.5) * (2 / resolution)
    points, normals = centres[surface[chosen]] + jitter, normals[chosen]
    return start_from_points(points, _facing_colors(points, normals, images, masks, cameras), normals=normals)


def _exclusions(points: Tensor, masks: Tensor, cameras: Cameras, tick: Tick) -> Tensor:
    """(N,) how many of the V masks each point lies outside of; V + 1 where fewer than half of the pictures show it.

    What lies outside a picture is unknown to it; a point outside half of them is outside the object.
    """
    pictures = torch.cat([masks, torch.ones_like(masks)], dim=1)
    found: list[Tensor] = []
    parts = points.split(POINTS_AT_ONCE)
    for part in parts:
        mask, inside = sample_views(part, pictures, cameras.c2w, cameras.K).unbind(-1)
        outside = (mask + 1 - inside <= 0.5).sum(0)
        found.append(torch.where(inside.mean(0) >= 0.5, outside, len(masks) + 1))
        tick(len(found), len(parts))
    return torch.cat(found)


def _surface(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """Flat indices (S,) of the occupied cells next to an empty one, and directions (S, 3) out of the object there."""
    inside = occupied.float()[None, None]
    shell = (inside > 0) & (-F.max_pool3d(-F.pad(inside, (1,) * 6), 3, stride=1) < 0.5)
    cells = shell[0, 0].flatten().nonzero()[:, 0]
    smooth = inside
    for _ in range(2):
        smooth = F.avg_pool3d(smooth, 3, stride=1, padding=1)
    slope = torch.gradient(smooth[0, 0])
    normals = -torch.stack([axis.flatten()[cells] for axis in reversed(slope)], dim=1)
    flat = normals.norm(dim=1, keepdim=True) < 1e-6
    return cells, torch.where(flat, torch.tensor([0.0, 1.0, 0.0]), normals)


def _facing_colors(points: Tensor, normals: Tensor, images: Tensor, masks: Tensor, cameras: Cameras) -> Tensor:
    """(N, 3) colours of the views at the points, those that look at the surface straight counting most; occlusion is not considered."""
    sampled = sample_views(points, torch.cat([images, masks], dim=1), cameras.c2w, cameras.K)
    towards = F.normalize(cameras.c2w[:, None, :3, 3] - points, dim=-1)
    facing = (towards * F.normalize(normals, dim=1)).sum(-1, keepdim=True).clamp_min(0.01) ** 4
    weight = facing * sampled[..., 3:].clamp_min(1e-3)
    return (sampled[..., :3] * weight).sum(0) / weight.sum(0)
