"""Meshes to pictures, unlit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.cameras import Cameras
from ..data.mesh import Mesh
from ..data.progress import Tick, no_tick
from ..ops import camera_math
from ..ops.color import linear_to_srgb
from ..ops.mesh_raster.dispatch import antialias, interpolate, rasterize_mesh
from ..ops.mesh_topology import Topology, make_topology, merged_faces
from ..ops.texture_sampling import sample_texture
from .views import RenderedViews, check_request, preview_of

NEUTRAL_GREY = 0.7  # of what is shown; fits start from the middle grey of `ops.mesh_colors`
LEAST_AGREEMENT = 0.1  # cosine between a smooth normal and its face's


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
    check_request(cameras, height, width, supersample)
    scene = _MeshScene(mesh, torch.device(device))
    matrices = camera_math.clip_matrices(cameras.c2w, cameras.K)
    views = []
    for index in range(cameras.n_views):
        fine = scene.draw(matrices[index], cameras.c2w[index], height * supersample, width * supersample, background)
        views.append([part.cpu() for part in to_pixels(fine, supersample)])
        tick(index + 1, cameras.n_views, preview_of(views[-1][0]))
    return RenderedViews(*(torch.cat(parts) for parts in zip(*views, strict=True)))


class _MeshScene:
    """What is the same in every view of a mesh."""

    def __init__(self, mesh: Mesh, device: torch.device) -> None:
        self.vertices, self.faces = mesh.vertices.to(device), mesh.faces.to(device)
        self.welded = merged_faces(self.vertices, self.faces)
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


def to_pixels(views: Sequence[Tensor], factor: int) -> Sequence[Tensor]:
    """Image, mask, depth, normals (1, C, factor x H, factor x W) to pixels. The last two average the object's samples, if at least half."""
    if factor == 1:
        return views
    image, mask, depth, normal = views
    share = F.avg_pool2d((depth > 0).to(depth.dtype), factor)
    depth = torch.where(share >= 0.5, F.avg_pool2d(depth, factor) / share.clamp(min=0.5), 0.0)
    normal = torch.where(share >= 0.5, F.normalize(F.avg_pool2d(normal, factor), dim=1), 0.0)
    return F.avg_pool2d(image, factor), F.avg_pool2d(mask, factor), depth, normal
