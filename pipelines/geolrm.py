"""Posed views to an occupancy grid, and that to Gaussians: GeoLRM (Zhang et al. 2024) as two stages.

The networks see a z-up world in which cameras stand at a distance of 1.5 and the grid fills [-0.5, 0.5]^3. Here is the one place that
turns Lathe's world into theirs and back: axes go (x, y, z) <- (y, z, x), as InstantMesh's do, and lengths are scaled by 1.5 over the mean
distance of the cameras. The grid is therefore as large as the cameras say, and belongs to them.
"""

from __future__ import annotations

from dataclasses import dataclass

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

CAMERA_DISTANCE = 1.5
PATCH = 28  # sides of a view are multiples of DINOv2's patch (14) and of the fine map's cell (4)
MOST_VIEWS = 24
LEAST_OPACITY = 0.005  # the published writer drops what is fainter
SH_DC = 0.28209479177387814


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
    grids = []
    with torch.no_grad():
        for asset in range(assets):
            views = _views_of(model, images, masks, cameras, asset, device)
            levels = net.encoder(views.images, views.c2w, views.K, dtype, attention)
            latents = net.latents(
                net.points().to(device), levels, views.c2w, views.K, form=model.propose_as.form, scale=model.propose_as.scale, dtype=dtype,
                attention=attention, chunk=net.transformer.chunk_for(free_memory), tick=part_of(tick, asset, assets),
            )  # fmt: skip
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
    if occupancy.ndim != 4 or len(occupancy) != assets or len(set(occupancy.shape[1:])) != 1:
        raise ValueError(f"{assets} assets need a VOXEL of shape ({assets}, R, R, R), not {tuple(occupancy.shape)}.")
    made = []
    with torch.no_grad():
        for asset in range(assets):
            xyz = choose_tokens(anchors(occupancy[asset], threshold), tokens, seed + asset)
            if len(xyz) == 0:
                highest = float(occupancy[asset].max())
                raise ValueError(
                    f"No voxel of asset {asset + 1} is occupied: the highest probability is {highest:.3f} and the threshold {threshold:g}. "
                    "Lower the threshold, or check the views' masks and cameras."
                )
            if compatible and len(xyz) < tokens:
                xyz = torch.cat([xyz, xyz.new_zeros(tokens - len(xyz), 3)])
            views = _views_of(model, images, masks, cameras, asset, device)
            levels = net.encoder(views.images, views.c2w, views.K, dtype, attention)
            latents = net.latents(
                xyz.to(device), levels, views.c2w, views.K, form=model.reconstruct_as.form, scale=model.reconstruct_as.scale, dtype=dtype,
                attention=attention, chunk=net.transformer.chunk_for(free_memory), tick=part_of(tick, asset, assets),
            )  # fmt: skip
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


def _views_of(model: GeoLRM, images: Tensor, masks: Tensor | None, cameras: Cameras, asset: int, device: torch.device | str) -> _Views:
    own = cameras.of_asset(asset)
    rows = slice(asset * own.n_views, (asset + 1) * own.n_views)
    pictures = images[rows].float().clamp(0, 1)
    if masks is not None:
        pictures = pictures * masks[rows] + torch.tensor(model.background)[:, None, None] * (1 - masks[rows])
    if pictures.shape[-2:] != (model.view_size, model.view_size):
        pictures = F.interpolate(pictures, (model.view_size, model.view_size), mode="bicubic", antialias=True).clamp(0, 1)
    c2w, K, unit = network_cameras(own)
    return _Views(pictures.to(device), c2w.to(device), K.to(device), unit)


def memory_required(config: GeoLRMConfig, view_size: int, n_views: int, tokens: int, dtype: torch.dtype = torch.float32) -> int:
    """Bytes one network needs on its device beside its weights and the cross-attention's chunk (`free_memory`)."""
    size = torch.finfo(dtype).bits // 8
    patches = (view_size // 14) ** 2
    features = n_views * config.feature_dim * 4 * ((view_size // 4) ** 2 + (view_size // 7) ** 2)
    vit = n_views * patches * config.vit[0] * (3 * 4 + 5 * size)
    values = config.dim * size * ((view_size // 4) ** 2 + (view_size // 7) ** 2)
    stream = tokens * config.dim * (4 * 4 + 8 * size)
    return int(1.1 * (max(vit, values + stream) + features + n_views * 12 * view_size**2 * 4))
