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
from ..ops.mesh_colors import base_color
from ..ops.mesh_raster.dispatch import antialias, interpolate, rasterize_mesh
from ..ops.mesh_topology import Topology, make_topology, merged_faces
from ..ops.texture_sampling import sample_texture
from .views import RenderedViews, preview_of, requested_cameras

NEUTRAL_GREY = 0.7  # of what is shown; fits start from the middle grey of `ops.mesh_colors`
MOST_LAYERS = 16  # of see-through surfaces behind each other
LAYER_STEP = 1e-6  # in z/w, between a surface and what lies behind it
LEAST_AGREEMENT = 0.1  # cosine between a smooth normal and its face's


Raster = tuple[Tensor, Tensor, Tensor]
"""Face (1, H, W), barycentrics (1, H, W, 3) and depth z/w (1, H, W), as `rasterize_mesh` returns them."""


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
    """Renders a mesh without lights: its texture times its vertex colours, or a neutral grey without either.

    Where its material's alpha counts, what is see-through shows what lies behind (16 layers at most); depth and normal are then
    those of the first that is more than half opaque. Normals are the mesh's own, else those of the vertices, weighted by face area,
    smooth across texture seams; a face seen from behind shows the opposite one. Silhouettes are antialiased; `supersample=2` also
    smooths fine textures. Differentiable with respect to the mesh's tensors. A mesh without faces gives the background.

    Args:
        cameras: V cameras of one asset; those of a square frame take the proportions of the pictures.
        height, width: pixels.
        background: sRGB.
        supersample: 1 or 2 samples along each side of a pixel.
        device: where to work.
        tick: called after each view, with the view as preview.

    Raises:
        ValueError: cameras of several assets, a size below 1, a supersample other than 1 or 2.
    """
    cameras = requested_cameras(cameras, height, width, supersample)
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
        self.own_normals = None if mesh.normals is None else mesh.normals.to(device)
        self.texture, self.uvs, self.colors = (
            None if part is None else part.to(device) for part in (mesh.texture, mesh.uvs, mesh.vertex_colors)
        )
        self.material = mesh.material
        alpha = any(part is not None and part.shape[-1] == 4 for part in (self.texture, self.colors))
        self.see_through = alpha and mesh.material.alpha_mode != "OPAQUE"

    def draw(
        self, matrix: Tensor, c2w: Tensor, height: int, width: int, background: Sequence[float]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Image, mask, depth and normals of one view, (1, C, H, W) each."""
        matrix, c2w = matrix.to(self.vertices), c2w.to(self.vertices)
        pos = (F.pad(self.vertices, (0, 1), value=1.0) @ matrix.T)[None]
        front = rasterize_mesh(pos, self.faces, (height, width))
        shade = torch.tensor(list(background), dtype=pos.dtype, device=pos.device)
        if self.see_through:
            picture, solid = self._layers(pos, front, shade)
        else:
            covered = (front[0] >= 0)[..., None]
            picture, solid = (
                torch.cat([torch.where(covered, self._albedo(*front[:2])[..., :3], shade), covered.to(pos.dtype)], dim=-1),
                front,
            )
        face, bary, _ = solid
        depth = interpolate(pos[0, :, 3:], self.welded, face, bary)
        picture = antialias(picture, pos, self.welded, front[0], front[2], self.topology).clamp(0, 1)
        image, mask = picture.permute(0, 3, 1, 2).split([3, 1], dim=1)
        return image, mask, depth.permute(0, 3, 1, 2), self._normal(face, bary, c2w).permute(0, 3, 1, 2)

    def _layers(self, pos: Tensor, front: Raster, shade: Tensor) -> tuple[Tensor, Raster]:
        """Colours and mask (1, H, W, 4) of what is seen through the layers in front, and the first solid layer of each pixel."""
        layer = front
        face, bary, zw = (torch.full_like(front[0], -1), torch.zeros_like(front[1]), torch.zeros_like(front[2]))
        left = torch.ones_like(front[2])[..., None]
        picture = torch.zeros_like(left)
        for _ in range(MOST_LAYERS):
            there = (layer[0] >= 0)[..., None]
            color = self._albedo(*layer[:2])
            alpha = (color[..., 3:] >= self.material.alpha_cutoff).to(color) if self.material.alpha_mode == "MASK" else color[..., 3:]
            alpha = torch.where(there, alpha, 0.0)
            picture = picture + left * alpha * F.pad(color[..., :3], (0, 1), value=1.0)
            solid = (face < 0) & (alpha[..., 0] > 0.5)
            face, zw = torch.where(solid, layer[0], face), torch.where(solid, layer[2], zw)
            bary = torch.where(solid[..., None], layer[1], bary)
            left = left * (1 - alpha)
            if not bool((there & (left > 1 / 512)).any()):
                break
            behind = torch.where(there[..., 0], layer[2].detach() + LAYER_STEP, 1.0)
            layer = rasterize_mesh(pos, self.faces, tuple(front[0].shape[1:]), behind)  # type: ignore[arg-type]
        return picture + left * F.pad(shade, (0, 1)), (face, bary, zw)

    def _normal(self, face: Tensor, bary: Tensor, c2w: Tensor) -> Tensor:
        """(1, H, W, 3) in the camera's axes, towards the eye; 0 on the background."""
        own = self.own_normals
        normal = interpolate((self.normals if own is None else own) @ c2w[:3, :3], self.welded if own is None else self.faces, face, bary)
        return self._towards_eye(normal, face, c2w) if len(self.faces) else normal

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
        """sRGB albedo (1, H, W, 3), or with alpha (1, H, W, 4); of no meaning on the background."""

        def read(attribute: Tensor | None) -> Tensor | None:
            return None if attribute is None else interpolate(attribute, self.faces, face, bary)

        uv = read(self.uvs) if self.texture is not None else None
        color = base_color(None if uv is None or self.texture is None else sample_texture(self.texture, uv), read(self.colors))
        return bary.new_full((*face.shape, 3), NEUTRAL_GREY) if color is None else color


def to_pixels(views: Sequence[Tensor], factor: int) -> Sequence[Tensor]:
    """Image, mask, depth, normals (1, C, factor x H, factor x W) to pixels. The last two average the object's samples, if at least half."""
    if factor == 1:
        return views
    image, mask, depth, normal = views
    share = F.avg_pool2d((depth > 0).to(depth.dtype), factor)
    depth = torch.where(share >= 0.5, F.avg_pool2d(depth, factor) / share.clamp(min=0.5), 0.0)
    normal = torch.where(share >= 0.5, F.normalize(F.avg_pool2d(normal, factor), dim=1), 0.0)
    return F.avg_pool2d(image, factor), F.avg_pool2d(mask, factor), depth, normal
