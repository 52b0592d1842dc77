"""Mesh rasteriser in plain PyTorch: the obvious form, on any device. Oracle of the tests and last resort.

Every step lists all its candidates (each face with each pixel of its box, each edge with each row it spans) and lets
scatter_reduce pick the winners; gradients are autograd's. Computes in float64 where the device has it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..mesh_topology import Topology

MINIMUM_W = 1e-8
MINIMUM_AREA = 1e-12
DEPTH_TOLERANCE = 2e-6
PAIRS_AT_ONCE = 1 << 22


def precise(tensor: Tensor) -> Tensor:
    """float64 where the device has it: differences of nearly equal screen coordinates lose digits."""
    return tensor if tensor.device.type == "mps" else tensor.double()


def screen(pos: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pixel coordinates x (right) and y (down), depth z/w and validity (w > 1e-8) of clip positions (..., 4)."""
    x, y, z, w = precise(pos).unbind(-1)
    valid = w > MINIMUM_W
    w = torch.where(valid, w, torch.ones_like(w))
    return (0.5 + 0.5 * x / w) * width, (0.5 - 0.5 * y / w) * height, z / w, valid


def expand(counts: Tensor) -> tuple[Tensor, Tensor]:
    """For counts (N,): the owner 0..N-1 of each of sum(counts) items, and the item's number within its owner."""
    owner = torch.repeat_interleave(counts)
    start = counts.cumsum(0) - counts
    return owner, torch.arange(len(owner), device=counts.device) - start[owner]


def _visible(pos: Tensor, tri: Tensor, height: int, width: int, behind: Tensor | None) -> Tensor:
    x, y, z, valid = screen(pos, height, width)
    x, y, z = x[tri], y[tri], z[tri]
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])
    columns = torch.stack([(x.amin(1) - 0.5).ceil().clamp(0, width), (x.amax(1) - 0.5).floor().clamp(-1, width - 1)]).long()
    rows = torch.stack([(y.amin(1) - 0.5).ceil().clamp(0, height), (y.amax(1) - 0.5).floor().clamp(-1, height - 1)]).long()
    n_columns, n_rows = (columns[1] - columns[0] + 1).clamp(min=0), (rows[1] - rows[0] + 1).clamp(min=0)
    counts = torch.where(valid[tri].all(1) & (area.abs() >= MINIMUM_AREA), n_columns * n_rows, 0)

    floor = torch.full((height * width,), -1.0, dtype=x.dtype, device=pos.device)
    if behind is not None:
        floor = behind.reshape(-1).to(floor)
    nearest = torch.ones(height * width, dtype=x.dtype, device=pos.device)
    winner = torch.full((height * width,), -1, device=pos.device)
    chunks = ((counts.cumsum(0) - 1).clamp(min=0) // PAIRS_AT_ONCE).unique_consecutive(return_counts=True)[1].tolist()
    start = 0
    for length in chunks:
        owner, item = expand(counts[start : start + length])
        face = owner + start
        start += length
        column = columns[0][face] + item % n_columns[face]
        row = rows[0][face] + torch.div(item, n_columns[face], rounding_mode="floor")
        fx, fy, sign = x[face], y[face], area[face].sign()[:, None]
        # Edge functions of the edges opposite each corner, as A x + B y + C: neighbours get exactly opposite values.
        x1, x2, y1, y2 = fx.roll(-1, 1), fx.roll(-2, 1), fy.roll(-1, 1), fy.roll(-2, 1)
        edge = sign * (y1 - y2) * (column[:, None] + 0.5) + (sign * (x2 - x1) * (row[:, None] + 0.5) + sign * (x1 * y2 - x2 * y1))
        depth = (edge * z[face]).sum(1) / area[face].abs()
        pixel = row * width + column
        inside = (edge >= 0).all(1) & (depth >= floor[pixel])
        pixel, depth, face = pixel[inside], depth[inside], face[inside]
        before = nearest.clone()
        nearest.scatter_reduce_(0, pixel, depth, "amin")
        wins = (depth == nearest[pixel]) & (depth < before[pixel])
        first = torch.full_like(winner, len(tri)).scatter_reduce_(0, pixel[wins], face[wins], "amin")
        winner = torch.where(first < len(tri), first, winner)
    return winner.view(height, width)


def visibility(pos: Tensor, tri: Tensor, height: int, width: int, behind: Tensor | None = None) -> Tensor:
    """Nearest face at each pixel centre: (B, V, 4) clip positions, (F, 3) faces -> (B, H, W) int64, -1 where there is none. `behind`
    (B, H, W): the least depth z/w that counts."""
    if not len(tri):
        return torch.full((len(pos), height, width), -1, device=pos.device)
    floors = [None] * len(pos) if behind is None else list(behind)
    return torch.stack([_visible(p, tri, height, width, floor) for p, floor in zip(pos.detach(), floors, strict=True)])


def _corners(values: Tensor, tri: Tensor, face: Tensor) -> Tensor:
    """Values (B, V, A) at the three corners of the faces (B, ...) -> (B, ..., 3, A); face 0 stands in for the background."""
    batch = torch.arange(len(face), device=face.device).view(-1, *[1] * face.ndim)
    return values[batch, tri[face.clamp(min=0)]]


def barycentrics(pos: Tensor, tri: Tensor, face: Tensor) -> tuple[Tensor, Tensor]:
    """Perspective-correct barycentrics (B, H, W, 3) and depth z/w (B, H, W) of the given faces at the pixel centres.

    The point sum u_i P_i projects to the pixel (px, py) when sum u_i (x_i - px w_i) = 0 and the same in y, so u is
    proportional to the cross products of those differences.
    """
    height, width = face.shape[1:]
    if not len(tri):
        return pos.new_zeros(*face.shape, 3), pos.new_zeros(face.shape)
    x, y, z, w = _corners(precise(pos), tri, face).unbind(-1)
    px = ((torch.arange(width, device=pos.device, dtype=x.dtype) + 0.5) / width * 2 - 1)[:, None]
    py = (1 - (torch.arange(height, device=pos.device, dtype=x.dtype) + 0.5) / height * 2)[:, None, None]
    x, y = x - px * w, y - py * w
    cross = x.roll(-1, -1) * y.roll(-2, -1) - x.roll(-2, -1) * y.roll(-1, -1)
    covered = (face >= 0)[..., None]
    cross = torch.where(covered, cross, torch.ones_like(cross))
    bary = cross / cross.sum(-1, keepdim=True)
    zw = (bary * z).sum(-1) / torch.where(covered, bary * w, torch.ones_like(w)).sum(-1)
    return (bary * covered).to(pos.dtype), (zw * covered[..., 0]).to(pos.dtype)


def interpolate(attr: Tensor, tri: Tensor, face: Tensor, bary: Tensor) -> Tensor:
    """Vertex attributes (B, V, A) or (V, A) at the pixels: (B, H, W, A), zero on the background."""
    if not len(tri):
        return attr.new_zeros(*face.shape, attr.shape[-1])
    corners = attr[tri[face.clamp(min=0)]] if attr.ndim == 2 else _corners(attr, tri, face)
    return (corners * bary[..., None]).sum(-2)


def _crossings(pos: Tensor, tri: Tensor, face: Tensor, zw: Tensor, topology: Topology) -> Tensor:
    height, width = face.shape
    x, y, z, valid = screen(pos, height, width)
    a, b = topology.edges.unbind(-1)
    third, owner = topology.opposite, torch.repeat_interleave(topology.offsets.diff())
    side = (x[b] - x[a])[owner] * (y[third] - y[a][owner]) - (y[b] - y[a])[owner] * (x[third] - x[a][owner])
    side = torch.where(valid[third], side, torch.zeros_like(side))
    zero = torch.zeros(len(a), dtype=torch.bool, device=pos.device)
    positive, negative = zero.clone(), zero.clone()
    positive[owner[side > 0]] = True
    negative[owner[side < 0]] = True
    keep = (positive != negative) & valid[a] & valid[b]
    edge = torch.nonzero(keep)[:, 0]
    a, b, positive = a[edge], b[edge], positive[edge]

    found = []
    steep = (y[b] - y[a]).abs() >= (x[b] - x[a]).abs()
    for axis in (0, 1):  # 0: steep edges between the pixels of a row; 1: flat edges between the pixels of a column
        along, across, length, lines = (x, y, width, height) if axis == 0 else (y, x, height, width)
        chosen = torch.nonzero(steep if axis == 0 else ~steep)[:, 0]
        ea, eb = a[chosen], b[chosen]
        first = (torch.minimum(across[ea], across[eb]) - 0.5).ceil().clamp(0, lines).long()
        last = (torch.maximum(across[ea], across[eb]) - 0.5).ceil().clamp(0, lines).long()
        item, step = expand((last - first).clamp(min=0))
        line, ea, eb, source = first[item] + step, ea[item], eb[item], chosen[item]
        s = (line + 0.5 - across[ea]) / (across[eb] - across[ea])
        crossing, depth = along[ea] + s * (along[eb] - along[ea]), z[ea] + s * (z[eb] - z[ea])
        low = (crossing - 0.5).floor().long()
        inside = (low >= 0) & (low + 1 < length)
        line, low, source, crossing, depth = line[inside], low[inside], source[inside], crossing[inside], depth[inside]
        run = across[b[source]] - across[a[source]]
        inner_is_high = (positive[source] == (run < 0)) if axis == 0 else (positive[source] == (run > 0))
        inner, outer = low + inner_is_high.long(), low + 1 - inner_is_high.long()
        distance = (crossing - 0.5 - inner).abs()
        inner, outer = (line * width + inner, line * width + outer) if axis == 0 else (inner * width + line, outer * width + line)

        at = (crossing, line + 0.5) if axis == 0 else (line + 0.5, crossing)
        face_in, face_out = face.view(-1)[inner], face.view(-1)[outer]
        z_in = _nearer(precise(zw).view(-1)[inner], _plane_depth(x, y, z, tri, face_in, *at))
        z_out = _nearer(precise(zw).view(-1)[outer], _plane_depth(x, y, z, tri, face_out, *at))
        behind = (z_out - depth > DEPTH_TOLERANCE) & (z_in - depth < 0.5 * (z_out - depth))
        good = (face_in >= 0) & ((face_out < 0) | behind)
        inner, outer, source, distance = inner[good], outer[good], source[good], distance[good]

        pair = torch.minimum(inner, outer)
        farthest = torch.full((height * width,), -1.0, dtype=distance.dtype, device=pos.device)
        farthest.scatter_reduce_(0, pair, distance, "amax")
        wins = distance == farthest[pair]
        lowest = torch.full((height * width,), len(edge), device=pos.device)
        lowest.scatter_reduce_(0, pair[wins], source[wins], "amin")
        wins &= source == lowest[pair]
        order = pair[wins].argsort()
        columns = (inner, outer, a[source], b[source])
        found.append(torch.stack([c[wins][order] for c in columns] + [torch.full_like(order, axis)], dim=-1))
    return torch.cat(found)


def _plane_depth(x: Tensor, y: Tensor, z: Tensor, tri: Tensor, face: Tensor, px: Tensor, py: Tensor) -> Tensor:
    """Depth z/w of the faces' planes at screen points (N,); z/w is affine on the screen."""
    corners = tri[face.clamp(min=0)]
    x, y, z = x[corners] - px[:, None], y[corners] - py[:, None], z[corners]
    cross = x.roll(-1, -1) * y.roll(-2, -1) - x.roll(-2, -1) * y.roll(-1, -1)
    return (cross * z).sum(-1) / cross.sum(-1)


def _nearer(depth: Tensor, other: Tensor) -> Tensor:
    return torch.where(other < depth, other, depth)


def crossings(pos: Tensor, tri: Tensor, face: Tensor, zw: Tensor, topology: Topology) -> Tensor:
    """Where visible silhouette edges pass between the centres of neighbouring pixels, at most one crossing per pair.

    Returns:
        (N, 6) int64 rows (image, inner pixel, outer pixel, edge's first vertex, second vertex, axis). Pixels count row by
        row within the image; inner is the one on the edge's surface; axis 0 is a pair in a row, 1 a pair in a column.
        Ordered by image, axis, pixel.
    """
    rows = []
    for index in range(len(pos)):
        one = _crossings(pos[index].detach(), tri, face[index], zw[index].detach(), topology)
        rows.append(torch.cat([torch.full_like(one[:, :1], index), one], dim=1))
    return torch.cat(rows)
