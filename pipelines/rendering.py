"""One door to the renderers: meshes, fields and splats into images, masks, depth and normals at given cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .data.cameras import Cameras
from .data.field import Field
from .data.mesh import Mesh
from .data.progress import Tick, no_tick
from .data.splats import Splats
from .ops import camera_math, field_rays
from .ops.color import linear_to_srgb
from .ops.mesh_raster import Topology, antialias, interpolate, make_topology, rasterize_mesh
from .ops.mesh_topology import weld
from .ops.sampling import sample_texture
from .ops.splat_projection import rotation_matrices
from .ops.splat_raster import render_gaussians, splat_cameras

NEUTRAL_GREY = 0.7
RAYS_AT_ONCE = 4096
LEAST_AGREEMENT = 0.1  # cosine between a smooth normal and its face's


@dataclass(frozen=True)
class RenderedViews:
    """V rendered views, on the CPU.

    Attributes:
        images: (V, 3, H, W) sRGB in [0, 1], over the background.
        masks: (V, 1, H, W) in [0, 1], 1 = object, with soft edges.
        depths: (V, 1, H, W) z-depth in world units, 0 on the background.
        normals: (V, 3, H, W) unit vectors in camera axes (x right, y up, z towards the camera), 0 on the background.
    """

    images: Tensor
    masks: Tensor
    depths: Tensor
    normals: Tensor


def render_mesh(
    mesh: Mesh,
    cameras: Cameras,
    height: int,
    width: int,
    *,
    background: Sequence[float] = (1.0, 1.0, 1.0),
    supersample: int = 1,
    device: torch.device | str = "cpu",
    tick: Tick = no_tick,
) -> RenderedViews:
    """Renders a mesh without lights: its texture, else its vertex colours, else a neutral grey.

    Normals are those of the vertices, weighted by face area, smooth across texture seams; a face seen from behind shows the
    opposite one. Silhouettes are antialiased; `supersample=2` also smooths fine textures. Differentiable with respect to the mesh's
    tensors. A mesh without faces gives the background.

    Args:
        cameras: V cameras of one asset.
        height, width: pixels.
        background: sRGB.
        supersample: 1 or 2 samples along each side of a pixel.
        device: where to work.
        tick: called after each view, with the view as preview.

    Raises:
        ValueError: cameras of several assets, a size below 1, a supersample other than 1 or 2.
    """
    _check(cameras, height, width, supersample)
    scene = _MeshScene(mesh, torch.device(device))
    matrices = camera_math.clip_matrices(cameras.c2w, cameras.K)
    views = []
    for index in range(cameras.n_views):
        fine = scene.draw(matrices[index], cameras.c2w[index], height * supersample, width * supersample, background)
        views.append([part.cpu() for part in _reduce(fine, supersample)])
        tick(index + 1, cameras.n_views, _preview(views[-1][0]))
    return RenderedViews(*(torch.cat(parts) for parts in zip(*views, strict=True)))


def render_field(
    field: Field,
    cameras: Cameras,
    height: int,
    width: int,
    *,
    background: Sequence[float] = (1.0, 1.0, 1.0),
    samples: int = 64,
    supersample: int = 1,
    device: torch.device | str = "cpu",
    tick: Tick = no_tick,
) -> RenderedViews:
    """Renders a field inside its cube.

    A density is integrated along each ray (`samples` even samples and as many where they matter); masks are the opacity, depth
    and normals are those of the mean depth where the opacity is at least 1/2. An sdf is searched for its first sign change in
    2 x `samples` even steps, which is then bisected: sharp, but parts thinner than a step can be missed, and masks are binary
    unless `supersample=2`. Not differentiable (for training see `ops.volume`).

    Args and errors: as for `render_mesh`; `tick` is called after each chunk of rays.
    """
    _check(cameras, height, width, supersample)
    device = torch.device(device)
    field = field.to(device)
    trace = field_rays.trace_density if field.kind == "density" else field_rays.trace_sdf
    rows, columns = height * supersample, width * supersample
    shade = torch.tensor(list(background), dtype=torch.float32, device=device)
    chunks = -(-rows * columns // RAYS_AT_ONCE)
    views = []
    with torch.no_grad():
        for index in range(cameras.n_views):
            one = cameras.select([index])
            origins, directions = camera_math.rays(one.c2w.to(device), one.K.to(device), rows, columns)
            parts = []
            pairs = zip(origins.reshape(-1, 3).split(RAYS_AT_ONCE), directions.reshape(-1, 3).split(RAYS_AT_ONCE), strict=True)
            for number, (o, d) in enumerate(pairs, start=1):
                parts.append(trace(field, o, d, samples))
                if number < chunks:
                    tick(index * chunks + number, cameras.n_views * chunks, None)
            color, alpha, depth, normal = (torch.cat(part) for part in zip(*parts, strict=True))
            alpha, depth = alpha[:, None], depth[:, None]
            picture = torch.cat([color + (1 - alpha) * shade, alpha, depth, normal @ one.c2w[0, :3, :3].to(device)], dim=-1)
            fine = picture.T.reshape(1, 8, rows, columns).split([3, 1, 1, 3], dim=1)
            views.append([part.cpu() for part in _reduce(fine, supersample)])
            tick((index + 1) * chunks, cameras.n_views * chunks, _preview(views[-1][0]))
    return RenderedViews(*(torch.cat(parts) for parts in zip(*views, strict=True)))


def render_splats(
    splats: Splats,
    cameras: Cameras,
    height: int,
    width: int,
    *,
    background: Sequence[float] = (1.0, 1.0, 1.0),
    supersample: int = 1,
    device: torch.device | str = "cpu",
    tick: Tick = no_tick,
) -> RenderedViews:
    """Renders 3D Gaussians; masks are their opacity.

    Depth is the mean of the Gaussians' centres, weighted as the colours are. The normal of a Gaussian is its shortest axis, turned to the
    camera; a pixel's is their weighted mean. Both are 0 where the opacity is below 1/2. Differentiable with respect to the splats' tensors.
    No Gaussians give the background.

    Args and errors: as for `render_mesh`.
    """
    _check(cameras, height, width, supersample)
    device = torch.device(device)
    rows, columns = height * supersample, width * supersample
    viewmats, Ks = splat_cameras(cameras, rows, columns)
    means, scales, quats = (part.to(device) for part in (splats.positions, splats.scales, splats.rotations))
    opacities, sh = splats.opacities.to(device), splats.sh.to(device)
    shortest = scales.argmin(dim=-1)[:, None, None].expand(-1, 3, 1)
    axis = rotation_matrices(quats).gather(-1, shortest)[..., 0]
    shade = torch.tensor(list(background), dtype=torch.float32, device=device)
    views = []
    for index in range(cameras.n_views):
        c2w = cameras.c2w[index].to(device)
        away = (axis * (means - c2w[:3, 3])).sum(-1, keepdim=True) > 0
        drawn = render_gaussians(
            means, quats, scales, opacities, sh, viewmats[index, None], Ks[index, None], columns, rows,
            sh_degree=splats.degree, extra=torch.where(away, -axis, axis) @ c2w[:3, :3], background=shade,
        )  # fmt: skip
        assert drawn.extra is not None
        solid = drawn.alpha >= 0.5
        depth = torch.where(solid, drawn.depth / drawn.alpha.clamp(min=0.5), 0.0)
        normal = torch.where(solid, F.normalize(drawn.extra, dim=-1), 0.0)
        fine = [part.permute(0, 3, 1, 2) for part in (drawn.color.clamp(0, 1), drawn.alpha.clamp(0, 1), depth, normal)]
        views.append([part.cpu() for part in _reduce(fine, supersample)])
        tick(index + 1, cameras.n_views, _preview(views[-1][0]))
    return RenderedViews(*(torch.cat(parts) for parts in zip(*views, strict=True)))


class _MeshScene:
    """What is the same in every view of a mesh."""

    def __init__(self, mesh: Mesh, device: torch.device) -> None:
        self.vertices, self.faces = mesh.vertices.to(device), mesh.faces.to(device)
        self.welded = weld(self.vertices, self.faces)
        self.topology: Topology = make_topology(self.welded)
        corners = self.vertices[self.welded]
        self.face_normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        summed = torch.zeros_like(self.vertices)
        for corner in self.welded.unbind(-1):
            summed = summed.index_add(0, corner, self.face_normals)
        self.normals = F.normalize(summed, dim=-1)
        self.texture = None if mesh.texture is None else mesh.texture.to(device)
        self.look: Tensor | None = mesh.uvs if mesh.texture is not None else mesh.vertex_colors
        self.look = None if self.look is None else self.look.to(device)

    def draw(
        self, matrix: Tensor, c2w: Tensor, height: int, width: int, background: Sequence[float]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Image, mask, depth and normals of one view, (1, C, H, W) each."""
        matrix, c2w = matrix.to(self.vertices), c2w.to(self.vertices)
        pos = (F.pad(self.vertices, (0, 1), value=1.0) @ matrix.T)[None]
        face, bary, zw = rasterize_mesh(pos, self.faces, (height, width))
        covered = (face >= 0)[..., None]
        depth_and_normal = torch.cat([pos[0, :, 3:], self.normals @ c2w[:3, :3]], dim=-1)
        depth, normal = interpolate(depth_and_normal, self.welded, face, bary).split([1, 3], dim=-1)
        if len(self.faces):
            normal = self._towards_eye(normal, face, c2w)
        shade = torch.tensor(list(background), dtype=pos.dtype, device=pos.device)
        picture = torch.cat([torch.where(covered, self._albedo(face, bary), shade), covered.to(pos.dtype)], dim=-1)
        picture = antialias(picture, pos, self.welded, face, zw, self.topology).clamp(0, 1)
        image, mask = picture.permute(0, 3, 1, 2).split([3, 1], dim=1)
        return image, mask, depth.permute(0, 3, 1, 2), normal.permute(0, 3, 1, 2)

    def _towards_eye(self, normal: Tensor, face: Tensor, c2w: Tensor) -> Tensor:
        """Smooth normals (1, H, W, 3) turned to the side of the face that is seen. Where faces of opposite winding cancelled in
        them, the face's own."""
        behind = (self.face_normals * (c2w[:3, 3] - self.vertices[self.faces[:, 0]])).sum(-1, keepdim=True) < 0
        sign = torch.where(behind, -1.0, 1.0)
        seen, covered = face.clamp(min=0), (face >= 0)[..., None]
        flat = (sign * F.normalize(self.face_normals, dim=-1) @ c2w[:3, :3])[seen]
        smooth = sign[seen] * F.normalize(normal, dim=-1)
        agree = (smooth * flat).sum(-1, keepdim=True) > LEAST_AGREEMENT
        return torch.where(covered, torch.where(agree, smooth, flat), torch.zeros_like(normal))

    def _albedo(self, face: Tensor, bary: Tensor) -> Tensor:
        """sRGB albedo (1, H, W, 3); of no meaning on the background."""
        if self.look is None:
            return bary.new_full((*face.shape, 3), NEUTRAL_GREY)
        look = interpolate(self.look, self.faces, face, bary)
        return linear_to_srgb(look) if self.texture is None else sample_texture(self.texture, look)


def _reduce(views: Sequence[Tensor], factor: int) -> Sequence[Tensor]:
    """Image, mask, depth, normals (1, C, factor x H, factor x W) to pixels. The last two average the object's samples, if at least half."""
    if factor == 1:
        return views
    image, mask, depth, normal = views
    share = F.avg_pool2d((depth > 0).to(depth.dtype), factor)
    depth = torch.where(share >= 0.5, F.avg_pool2d(depth, factor) / share.clamp(min=0.5), 0.0)
    normal = torch.where(share >= 0.5, F.normalize(F.avg_pool2d(normal, factor), dim=1), 0.0)
    return F.avg_pool2d(image, factor), F.avg_pool2d(mask, factor), depth, normal


def _preview(image: Tensor) -> Tensor:
    return image[0].detach().permute(1, 2, 0)


def _check(cameras: Cameras, height: int, width: int, supersample: int) -> None:
    if cameras.n_assets is not None:
        raise ValueError(
            f"Rendering takes the cameras of one asset, not those of {cameras.n_assets}: render each with cameras.of_asset(index)."
        )
    if height < 1 or width < 1:
        raise ValueError(f"Rendering needs a picture of at least 1 x 1 pixels, not {width} x {height}.")
    if supersample not in (1, 2):
        raise ValueError(f"Rendering can supersample by 1 or 2, not {supersample}.")
