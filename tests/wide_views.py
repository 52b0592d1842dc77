"""Pictures that are not square, of things whose size is known: drawn with intrinsics written down in pixels, not by any rule of Lathe's."""

from __future__ import annotations

import math

import torch
from lathe.pipelines.data.cameras import Cameras
from lathe.pipelines.data.mesh import Mesh
from torch import Tensor

FOV, DISTANCE, RADIUS = 30.0, 4.0, 0.5
SIZES = [(72, 128), (128, 72), (57, 100)]  # height, width
COLOR = (0.9, 0.3, 0.1)


def true_cameras(cameras: Cameras, height: int, width: int, fov: float = FOV) -> Cameras:
    """The same places, with the lens of square pixels and this vertical field of view."""
    focal = 0.5 * height / math.tan(math.radians(fov) / 2)  # pixels
    K = torch.tensor([[focal / width, focal / height, 0.5, 0.5]]).expand(*cameras.c2w.shape[:-2], 4)
    return Cameras(cameras.c2w, K.clone(), cameras.names)


def ball_pictures(c2w: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Pictures (V, 3, H, W) on white and masks (V, 1, H, W) of a ball of RADIUS at the origin, four samples a pixel."""
    focal = 0.5 * height / math.tan(math.radians(FOV) / 2)
    y, x = torch.meshgrid((torch.arange(2 * height) + 0.5) / 2, (torch.arange(2 * width) + 0.5) / 2, indexing="ij")
    ray = torch.stack([(x - width / 2) / focal, (height / 2 - y) / focal, -torch.ones_like(x)], dim=-1)
    ray = torch.nn.functional.normalize(torch.einsum("vij,hwj->vhwi", c2w[:, :3, :3], ray), dim=-1)
    eye = c2w[:, None, None, :3, 3]
    past = (eye - (eye * ray).sum(-1, keepdim=True) * ray).norm(dim=-1)
    masks = torch.nn.functional.avg_pool2d((past < RADIUS).float()[:, None], 2)
    return masks * torch.tensor(COLOR).view(1, 3, 1, 1) + (1 - masks), masks


def ball_mesh(rings: int = 24, radius: float = RADIUS) -> Mesh:
    """A ball in the colours of its places."""
    polar, around = torch.meshgrid(
        torch.linspace(0, math.pi, rings + 1), 2 * math.pi * torch.arange(2 * rings) / (2 * rings), indexing="ij"
    )
    vertices = radius * torch.stack([polar.sin() * around.sin(), polar.cos(), polar.sin() * around.cos()], dim=-1).reshape(-1, 3)
    row, column = torch.meshgrid(torch.arange(rings), torch.arange(2 * rings), indexing="ij")
    a, b = row * 2 * rings + column, row * 2 * rings + (column + 1) % (2 * rings)
    c, d = a + 2 * rings, b + 2 * rings
    faces = torch.cat([torch.stack([a, c, b], -1), torch.stack([b, c, d], -1)]).reshape(-1, 3)
    corners = vertices[faces]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1)
    return Mesh(vertices, faces[area > 1e-6], vertex_colors=0.5 + 0.5 * vertices / radius)


def box_of(masks: Tensor) -> tuple[int, int]:
    """Width and height in pixels of the first mask's object."""
    rows, columns = torch.nonzero(masks[0, 0] > 0.5, as_tuple=True)
    return int(columns.max() - columns.min()) + 1, int(rows.max() - rows.min()) + 1


def spike() -> Mesh:
    """A thing with three sides and a foot, which looks different from every height."""
    vertices = torch.tensor([[-0.6, -0.5, -0.2], [0.6, -0.5, -0.3], [0.1, -0.5, 0.6], [0.2, 0.7, 0.0]])
    return Mesh(vertices, torch.tensor([[0, 1, 2], [0, 1, 3], [1, 2, 3], [2, 0, 3]]))
