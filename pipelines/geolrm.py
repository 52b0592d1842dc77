"""Posed views to an occupancy grid, and that to Gaussians: GeoLRM (Zhang et al. 2024) as two stages.

The networks see a z-up world in which cameras stand at a distance of 1.5 and the grid fills [-0.5, 0.5]^3. Here is the one place that
turns Lathe's world into theirs and back: axes go (x, y, z) <- (y, z, x), as InstantMesh's do, and lengths are scaled by 1.5 over the mean
distance of the cameras. The grid is therefore as large as the cameras say, and belongs to them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .cameras import count_assets
from .data.cameras import Cameras
from .data.progress import Tick, no_tick, part_of
from .data.splats import Splats
from .nets.attention import Attention, torch_attention
from .nets.geo_transformer import Form
from .nets.geolrm import HALF, GeoLRMConfig, ProposalNetwork, ReconstructionNetwork, cube_points
from .ops import camera_math

CAMERA_DISTANCE = 1.5
PATCH = 28  # sides of a view are multiples of DINOv2's patch (14) and of the fine map's cell (4)
MOST_VIEWS = 24
LEAST_OPACITY = 0.005  # the published writer drops what is fainter
SH_DC = 0.28209479177387814
VIEWS_AT_ONCE = 4  # through the image encoder
QUERIES_AT_ONCE = 4096  # through self-attention, between two looks at Cancel
SAME_EXTENT = 1e-4  # relative

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NetworkForm:
    """How one network is run.

    Attributes:
        form: which self-attention its weights expect (`nets.geo_transformer`).
        scale: half the side of its position grid in its own frame: 0.5 fills the grid, 1.0 its middle.
    """

    form: Form
    scale: float = HALF


@dataclass(frozen=True)
class GeoLRM:
    """Loaded networks. A file may hold only one of them; the other is None then.

    Attributes:
        proposal, reconstruction: the networks.
        propose_as, reconstruct_as: how they are run.
        name: for people.
        view_size: side in pixels to which views are resized, a multiple of 28.
        background: colour behind the object.
    """

    proposal: ProposalNetwork | None
    reconstruction: ReconstructionNetwork | None
    propose_as: NetworkForm = NetworkForm("tokens")
    reconstruct_as: NetworkForm = NetworkForm("tokens")
    name: str = "GeoLRM"
    view_size: int = 448
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class _How:
    """How the networks are computed."""

    dtype: torch.dtype
    attention: Attention
    free_memory: int
    tick: Tick


@dataclass(frozen=True)
class _Views:
    """One asset's views in the networks' frame: pictures (V, 3, S, S), poses (V, 4, 4), intrinsics (V, 3, 3), world units per net unit."""

    images: Tensor
    c2w: Tensor
    K: Tensor
    unit: float


def network_cameras(cameras: Cameras) -> tuple[Tensor, Tensor, float]:
    """The cameras of one asset in the networks' frame: c2w (V, 4, 4), K (V, 3, 3), and how many world units one of theirs is.

    Raises:
        ValueError: cameras at the centre of the world.
    """
    distance = float(cameras.c2w[:, :3, 3].norm(dim=-1).mean())
    if distance < 1e-6:
        raise ValueError("GeoLRM: the cameras stand in the middle of the object; its scale cannot be told.")
    unit = distance / CAMERA_DISTANCE
    c2w = cameras.c2w[:, [2, 0, 1, 3]].clone()  # net (x, y, z) = world (z, x, y)
    c2w[:, :3, 3] /= unit
    fx, fy, cx, cy = cameras.K.unbind(-1)
    K = torch.zeros(len(c2w), 3, 3)
    # The networks mirror u about the picture's middle; an off-centre principal point is mirrored here beforehand.
    K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2], K[:, 2, 2] = fx, fy, 1 - cx, cy, 1
    return c2w, K, unit


def to_world(points: Tensor, unit: float) -> Tensor:
    """(..., 3) points of the networks' frame -> world."""
    return points[..., [1, 2, 0]] * unit


def to_voxel(logits: Tensor) -> Tensor:
    """Occupancy logits (grid, grid, grid) indexed [x, y, z] of the networks -> probabilities indexed [Z, Y, X] of the world."""
    return logits.sigmoid().permute(0, 2, 1).contiguous()


def anchors(occupancy: Tensor, threshold: float) -> Tensor:
    """Places of the cells above `threshold` of an occupancy (Z, Y, X), in the networks' frame and grid order, (n, 3)."""
    occupied = (occupancy > threshold).permute(0, 2, 1).flatten()
    return cube_points(occupancy.shape[0])[occupied.cpu()]


def grid_extents(grid: int, cameras: Cameras, assets: int) -> list[float]:
    """Half the side, in world units, of the cube that a network's cells tile, for each asset: their centres fill the network's own cube."""
    return [HALF * network_cameras(cameras.of_asset(asset))[2] * grid / (grid - 1) for asset in range(assets)]


def on_grid(occupancy: Tensor, extents: Sequence[float], grid: int, wanted: Sequence[float]) -> Tensor:
    """An occupancy on cells of other cubes, or of another number, brought onto a network's grid; what fits already comes back as it is.

    Args:
        occupancy: (B, Z, Y, X); its cells tile [-extent, extent]^3 of the world.
        extents: of each asset.
        grid, wanted: cells along a side, and the extents to bring it to.

    Returns:
        (B, grid, grid, grid): trilinear, 0 outside; of cells finer than the grid's the highest near each point.
    """
    made = []
    for volume, extent, target in zip(occupancy, extents, wanted, strict=True):
        if tuple(volume.shape) == (grid,) * 3 and abs(extent - target) <= SAME_EXTENT * target:
            made.append(volume)
            continue
        reach = int(target / grid / (extent / max(volume.shape)) / 2)
        fine = volume.float()[None, None]
        if reach > 0:
            fine = F.max_pool3d(fine, 2 * reach + 1, stride=1, padding=reach)
        axis = ((torch.arange(grid) + 0.5) / grid * 2 - 1) * (target / extent)
        z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
        points = torch.stack([x, y, z], dim=-1)[None]
        made.append(F.grid_sample(fine, points, mode="bilinear", padding_mode="zeros", align_corners=False)[0, 0])
    return torch.stack(made)


def propose(
    model: GeoLRM,
    images: Tensor,
    masks: Tensor | None,
    cameras: Cameras,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    attention: Attention = torch_attention,
    free_memory: int = 1 << 31,
    tick: Tick = no_tick,
) -> Tensor:
    """Where matter may be.

    Args:
        images: (B*V, 3, H, W) in [0, 1], asset by asset.  masks: (B*V, 1, H, W), 1 = object, or None for views on the model's background.
        cameras: of the V views.
        free_memory: bytes the cross-attention may work in.

    Returns:
        (B, Z, Y, X) probabilities on the CPU, cells of [-1, 1]^3 at sockets.

    Raises:
        ValueError: no proposal network in the model, or views that do not fit.
    """
    net = model.proposal
    if net is None:
        raise ValueError(f"{model.name} holds no proposal network (serializer.*): load a file that has one, or wire a VOXEL of your own.")
    assets = check_views(images, masks, cameras)
    check_cameras(cameras, assets)
    grids = []
    with torch.no_grad():
        for asset in range(assets):
            views = _views_of(model, images, masks, cameras, asset, device)
            how = _How(dtype, attention, free_memory, part_of(tick, asset, assets))
            latents = _run(net, net.points().to(device), views, model.propose_as, how)
            grids.append(to_voxel(net.occupancy(latents).float()).cpu())
    return torch.stack(grids)


def reconstruct(
    model: GeoLRM,
    occupancy: Tensor,
    images: Tensor,
    masks: Tensor | None,
    cameras: Cameras,
    *,
    threshold: float = 0.5,
    tokens: int = 16384,
    compatible: bool = False,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    attention: Attention = torch_attention,
    free_memory: int = 1 << 31,
    tick: Tick = no_tick,
) -> list[Splats]:
    """Occupied cells and views to Gaussians.

    Args:
        occupancy: (B, Z, Y, X) probabilities, as `propose` gives them.
        images, masks, cameras: as for `propose`; they may be other or more views.
        threshold: cells above it become tokens.
        tokens: at most so many; of more, a seeded random choice is taken.
        compatible: fills up to `tokens` with tokens in the centre, as the published code does; they become Gaussians there.

    Returns:
        B splats in the world, fainter ones than 0.005 dropped.

    Raises:
        ValueError: no reconstruction network, a grid of another size, no cell above the threshold, or views that do not fit.
    """
    net = model.reconstruction
    if net is None:
        raise ValueError(f"{model.name} holds no reconstruction network (lrm_generator.*): load a file that has one.")
    assets = check_views(images, masks, cameras)
    check_cameras(cameras, assets)
    if occupancy.ndim != 4 or len(occupancy) != assets or len(set(occupancy.shape[1:])) != 1:
        raise ValueError(f"{assets} assets need a VOXEL of shape ({assets}, R, R, R), not {tuple(occupancy.shape)}.")
    made = []
    with torch.no_grad():
        for asset in range(assets):
            xyz = choose_tokens(anchors(occupancy[asset], threshold), tokens, seed)
            if len(xyz) == 0:
                highest = float(occupancy[asset].max())
                raise ValueError(
                    f"No voxel of asset {asset + 1} is occupied: the highest probability is {highest:.3f} and the threshold {threshold:g}. "
                    "Lower the threshold, or check the views' masks and cameras."
                )
            if compatible and len(xyz) < tokens:
                xyz = torch.cat([xyz, xyz.new_zeros(tokens - len(xyz), 3)])
            views = _views_of(model, images, masks, cameras, asset, device)
            how = _How(dtype, attention, free_memory, part_of(tick, asset, assets))
            latents = _run(net, xyz.to(device), views, model.reconstruct_as, how)
            made.append(to_splats(net.renderer(latents, xyz.to(device)).float().cpu(), views.unit))
    return made


def choose_tokens(xyz: Tensor, tokens: int, seed: int) -> Tensor:
    """At most `tokens` of the points: all of them in their order, or a random choice in random order, as the networks were trained."""
    if len(xyz) <= tokens:
        return xyz
    return xyz[torch.randperm(len(xyz), generator=torch.Generator().manual_seed(seed))[:tokens]]


def to_splats(gaussians: Tensor, unit: float) -> Splats:
    """(N, 14) Gaussians of the networks (position, opacity, deviations, quaternion, RGB) as splats of the world."""
    position, opacity, scale, rotation, color = gaussians.split([3, 1, 3, 4, 3], dim=-1)
    w, x, y, z = rotation.unbind(-1)
    kept = opacity[:, 0] >= LEAST_OPACITY
    # The frames differ by a cyclic turn of the axes: the quaternion (1, -1, -1, -1) / 2 from the left.
    turned = torch.stack([w + x + y + z, x - w - z + y, y + z - w - x, z - y + x - w], dim=-1) / 2
    splats = Splats(to_world(position, unit), scale * unit, turned, opacity[:, 0], ((color - 0.5) / SH_DC)[:, None])
    return splats.select(kept)


def check_views(images: Tensor, masks: Tensor | None, cameras: Cameras) -> int:
    """The number of assets.

    Raises:
        ValueError: images, masks and cameras that make none, in words.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"GeoLRM needs images of shape (N, 3, H, W), not {tuple(images.shape)}.")
    assets = count_assets(len(images), cameras)
    if cameras.n_views > MOST_VIEWS:
        raise ValueError(f"GeoLRM takes 1 to {MOST_VIEWS} views, not {cameras.n_views}: choose some with Select Views.")
    if not torch.isfinite(images).all():
        raise ValueError("The images hold NaN or infinite pixels: a stage before this one failed. Look at its output.")
    if masks is not None:
        expected = (len(images), 1, *images.shape[2:])
        if tuple(masks.shape) != expected:
            raise ValueError(f"Masks must have shape {expected} like the images, not {tuple(masks.shape)}.")
        for asset, own in enumerate(masks.split(cameras.n_views)):
            if not (own > 0).any():
                raise ValueError(f"All {cameras.n_views} masks of asset {asset + 1} are empty: 1 marks the object.")
    return assets


def check_cameras(cameras: Cameras, assets: int) -> None:
    """Warns of views that do not see the networks' cube.

    Raises:
        ValueError: no view of an asset does, or cameras at the centre of the world.
    """
    for asset in range(assets):
        own = cameras.of_asset(asset)
        corners = to_world(cube_points(8), network_cameras(own)[2])
        uv, depth = camera_math.project(corners, own.c2w, own.K)
        seen = ((depth > 0) & (uv >= 0).all(-1) & (uv <= 1).all(-1)).any(-1)
        away = [name for name, there in zip(own.names, seen.tolist(), strict=True) if not there]
        if len(away) == own.n_views:
            raise ValueError(
                f"The cameras of asset {asset + 1} look away: none of its {own.n_views} views sees the middle of the world, where the "
                "object is. Check that the cameras belong to these views and that their axes are OpenGL's (looking along -Z)."
            )
        if away:
            _log.warning("GeoLRM, asset %d: %d of %d cameras look away: %s.", asset + 1, len(away), own.n_views, ", ".join(away))


def _views_of(model: GeoLRM, images: Tensor, masks: Tensor | None, cameras: Cameras, asset: int, device: torch.device | str) -> _Views:
    own = cameras.of_asset(asset)
    rows = slice(asset * own.n_views, (asset + 1) * own.n_views)
    pictures = images[rows].float().clamp(0, 1)
    background = torch.tensor(model.background)[:, None, None]
    if masks is not None:
        pictures = pictures * masks[rows] + background * (1 - masks[rows])
    pictures, own = _squared(pictures, own, background)
    if pictures.shape[-1] != model.view_size:
        pictures = F.interpolate(pictures, (model.view_size, model.view_size), mode="bicubic", antialias=True).clamp(0, 1)
    c2w, K, unit = network_cameras(own)
    return _Views(pictures.to(device), c2w.to(device), K.to(device), unit)


def _squared(pictures: Tensor, cameras: Cameras, background: Tensor) -> tuple[Tensor, Cameras]:
    """Views on a square canvas, with the cameras that see it. The networks know one focal length for both axes."""
    height, width = pictures.shape[-2:]
    if height == width:
        return pictures, cameras
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    canvas = background.expand(3, side, side).repeat(len(pictures), 1, 1, 1)
    canvas[:, :, top : top + height, left : left + width] = pictures
    fx, fy, cx, cy = cameras.K.unbind(-1)
    K = torch.stack([fx * width / side, fy * height / side, (cx * width + left) / side, (cy * height + top) / side], dim=-1)
    return canvas, replace(cameras, K=K)


def _run(net: ProposalNetwork | ReconstructionNetwork, xyz: Tensor, views: _Views, run_as: NetworkForm, how: _How) -> Tensor:
    """Views and points to latents (N, dim). Ticks follow each few views of the encoder and each view in each layer."""
    count, rounds = len(views.images), 1 + len(net.transformer.layers)
    last = (0, rounds * count)

    def tick(step: int, total: int, preview: Tensor | None = None) -> None:
        nonlocal last
        last = (step, total)
        how.tick(*last)

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if q.shape[-2] <= QUERIES_AT_ONCE:
            return how.attention(q, k, v)
        parts = []
        for part in q.split(QUERIES_AT_ONCE, dim=-2):
            how.tick(*last)
            parts.append(how.attention(part, k, v))
        return torch.cat(parts, dim=-2)

    found = []
    tick(*last)
    for start in range(0, count, VIEWS_AT_ONCE):
        rows = slice(start, start + VIEWS_AT_ONCE)
        found.append(net.encoder(views.images[rows], views.c2w[rows], views.K[rows], how.dtype, how.attention))
        tick(min(start + VIEWS_AT_ONCE, count), rounds * count)
    return net.latents(
        xyz, [torch.cat(level) for level in zip(*found, strict=True)], views.c2w, views.K, form=run_as.form, scale=run_as.scale,
        dtype=how.dtype, attention=attention, chunk=net.transformer.chunk_for(how.free_memory),
        tick=lambda step, total, preview=None: tick(count + step, rounds * count),
    )  # fmt: skip


def memory_required(config: GeoLRMConfig, view_size: int, n_views: int, tokens: int, dtype: torch.dtype = torch.float32) -> int:
    """Bytes one network needs on its device beside its weights and the cross-attention's chunk (`free_memory`)."""
    size = torch.finfo(dtype).bits // 8
    patches = (view_size // 14) ** 2
    features = n_views * config.feature_dim * 4 * ((view_size // 4) ** 2 + (view_size // 7) ** 2)
    vit = min(n_views, VIEWS_AT_ONCE) * patches * config.vit[0] * (3 * 4 + 5 * size)
    values = config.dim * size * ((view_size // 4) ** 2 + (view_size // 7) ** 2)
    stream = tokens * config.dim * (4 * 4 + 8 * size)
    images = n_views * 3 * view_size**2 * 4 + min(n_views, VIEWS_AT_ONCE) * 12 * view_size**2 * 4
    return int(1.1 * (max(vit, values + stream) + features + images))
