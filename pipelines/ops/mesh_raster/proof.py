"""Whether a form finds the faces, and computes what follows from them, as the PyTorch form does: the proof of `choose_backend`."""

from __future__ import annotations

import math
from itertools import product
from types import ModuleType

import torch
from torch import Tensor

from ..choose_backend import Disproved, must_be_close, must_be_equal
from ..mesh_topology import make_topology
from . import torch_form

WIDTH, HEIGHT = 61, 47
RINGS = 10
UNEXPLAINED = 0.002
"""Share of the pixels that may show a face the oracle does not see nearby, for forms that declare `SNAP`: where several edges meet."""
NEAR_EDGES = 0.02
"""Share of the pixels that may show another face at all. Corners moved to sixteenths of a pixel change 0.005 of them."""


def scene(cut: bool) -> tuple[Tensor, Tensor]:
    """Clip positions (2, V, 4) of a lumpy ball of 360 faces before a large triangle, and its faces (F, 3).

    Args:
        cut: also a face with a corner behind the eye, which is dropped whole (nvdiffrast would cut it), and one that pierces the ball.
    """
    around = 2 * RINGS
    polar = torch.arange(1, RINGS, dtype=torch.float64) / RINGS * math.pi
    p, a = torch.meshgrid(polar, torch.arange(around, dtype=torch.float64) / around * 2 * math.pi, indexing="ij")
    ball = torch.stack([p.sin() * a.sin(), p.cos(), p.sin() * a.cos()], dim=-1).reshape(-1, 3)
    ball = torch.cat([ball, torch.tensor([[0.0, 1, 0], [0, -1, 0]], dtype=torch.float64)])
    x, y, z = ball.unbind(-1)
    ball = ball * (0.75 + 0.12 * torch.sin(5 * x + 1) * torch.sin(6 * y) + 0.08 * torch.sin(4 * z + x))[:, None]
    row, column = torch.meshgrid(torch.arange(RINGS - 2), torch.arange(around), indexing="ij")
    i, j = (row * around + column).flatten(), (row * around + (column + 1) % around).flatten()
    c, top = torch.arange(around), len(ball) - 2
    last, after = (RINGS - 2) * around, (torch.arange(around) + 1) % around
    caps = [torch.stack([torch.full_like(c, top), c, after], -1), torch.stack([torch.full_like(c, top + 1), last + after, last + c], -1)]
    tri = torch.cat([torch.stack([i, i + around, j], -1), torch.stack([j, i + around, j + around], -1), *caps])
    far = [[-1.3, -1.4, -1.3], [1.5, -0.9, -1.2], [-0.2, 1.3, -1.4]]
    wrong = [[0.2, 0.1, 0.3], [0.9, 0.2, 7.0], [0.6, 0.9, 0.2], [-1.2, 0.3, 0.4], [0.9, 0.55, -0.3], [-0.3, -0.9, 0.5]] if cut else []
    extra = torch.tensor(far + wrong, dtype=torch.float64)
    tri = torch.cat([tri, len(ball) + torch.arange(len(extra)).view(-1, 3)])
    points = torch.cat([ball, extra])
    clip = []
    for azimuth, near, far_plane in ((0.4, 0.5, 9.0), (-2.1, 1.0, 8.0)):
        sine, cosine = math.sin(azimuth), math.cos(azimuth)
        turned = points @ torch.tensor([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]], dtype=torch.float64)
        depth = 3.1 - turned[:, 2]
        z = (depth * (far_plane + near) - 2 * far_plane * near) / (far_plane - near)
        clip.append(torch.stack([2.6 * turned[:, 0] + 0.1, 3.3 * turned[:, 1] - 0.05, z, depth], dim=-1))
    return torch.stack(clip).float(), tri


def _faces_near_edges(pos: Tensor, tri: Tensor, face: Tensor, true: Tensor, distance: float) -> None:
    """Other faces than the oracle's only where the oracle sees them within `distance` pixels, but for a few pixels."""
    explained = torch.zeros_like(true, dtype=torch.bool)
    for right, up in product((-distance, 0.0, distance), repeat=2):
        moved = pos.clone()
        moved[..., 0] += 2 * right / WIDTH * pos[..., 3]
        moved[..., 1] += 2 * up / HEIGHT * pos[..., 3]
        explained |= torch_form.visibility(moved, tri, HEIGHT, WIDTH) == face
    other, wrong = float((face != true).double().mean()), float((~explained).double().mean())
    if other > NEAR_EDGES or wrong > UNEXPLAINED:
        raise Disproved(f"faces: {other:.2%} of the pixels show another, {wrong:.2%} one that is not within {distance} pixels")


def _check_visibility(form: ModuleType, device: torch.device, snap: float) -> None:
    pos, tri = scene(cut=not snap)
    size = (HEIGHT, WIDTH)
    true = torch_form.visibility(pos, tri, *size)
    face = form.visibility(pos.to(device), tri.to(device), *size).cpu()
    if face.shape != true.shape or face.dtype != true.dtype:
        raise Disproved(f"faces: {face.dtype} {tuple(face.shape)}, expected {true.dtype} {tuple(true.shape)}")
    if snap:
        _faces_near_edges(pos, tri, face, true, snap)
    else:
        must_be_equal("faces", face, true)
    again = form.visibility(pos.to(device), tri.to(device), *size)
    must_be_equal("faces of a second run", again, face)
    behind = torch_form.barycentrics(pos, tri, true)[1] + 1e-3
    second = torch_form.visibility(pos, tri, *size, behind)
    must_be_equal("faces behind others", form.visibility(pos.to(device), tri.to(device), *size, behind.to(device)), second)


def _values_and_gradients(form: ModuleType, device: torch.device, pos: Tensor, tri: Tensor, face: Tensor) -> dict[str, Tensor]:
    """Barycentrics, depth and attributes of the seen faces, and the gradients of a sum of them weighted at random."""
    draws = torch.Generator().manual_seed(3)
    attributes = torch.rand(pos.shape[1], 4, generator=draws)
    weights = torch.randn(*face.shape, 8, generator=draws).to(device)
    pos, attr = (part.to(device).requires_grad_() for part in (pos, attributes))
    tri, face = tri.to(device), face.to(device)
    bary, zw = form.barycentrics(pos, tri, face)
    shared = form.interpolate(attr, tri, face, bary)
    own = form.interpolate(attr[None, :, :1] * pos[..., :1], tri, face, bary)
    numbers = torch.cat([bary[..., :2], zw[..., None], shared, own], dim=-1)
    g_pos, g_attr = torch.autograd.grad((numbers * weights).sum(), [pos, attr])
    made = {"barycentrics": bary, "depths": zw, "attributes": shared, "attributes of each picture": own}
    return {**made, "gradient of positions": g_pos, "gradient of attributes": g_attr}


def prove(form: ModuleType, device: torch.device) -> None:
    """Faces of two pictures, with and without a depth behind which to look; what the form computes from the oracle's faces itself.

    Faces must be the oracle's, exactly. A form that declares `SNAP` may show another face where that face is within so many pixels.

    Raises:
        Disproved: other faces or crossings, other bits at a second run, or values or gradients off by more than 1e-3 of their norm.
    """
    _check_visibility(form, device, getattr(form, "SNAP", 0.0))
    pos, tri = scene(cut=False)
    face = torch_form.visibility(pos, tri, HEIGHT, WIDTH)
    if form.barycentrics is not torch_form.barycentrics or form.interpolate is not torch_form.interpolate:
        true = _values_and_gradients(torch_form, torch.device("cpu"), pos, tri, face)
        made = _values_and_gradients(form, device, pos, tri, face)
        again = _values_and_gradients(form, device, pos, tri, face)
        for name, expected in true.items():
            must_be_close(name, made[name], expected)
            must_be_equal(f"a second run's {name}", again[name], made[name])
    if form.crossings is not torch_form.crossings:
        zw, topology = torch_form.barycentrics(pos, tri, face)[1], make_topology(tri)
        expected = torch_form.crossings(pos, tri, face, zw, topology)
        placed = [part.to(device) for part in (pos, tri, face, zw)]
        must_be_equal("crossings", form.crossings(*placed, topology.to(device)), expected)
