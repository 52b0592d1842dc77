"""Posed views to an occupancy grid, and that to Gaussians: GeoLRM (Zhang et al. 2024) as two stages.

The networks work in a frame of their own, which `views` turns Lathe's world into and back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...data.cameras import Cameras
from ...data.progress import Tick, no_tick, part_of
from ...data.splats import Splats
from ...data.views import match_cameras
from ...nets.attention import Attention, torch_attention
from ...nets.geo_transformer import Form
from ...nets.geolrm import HALF, GeoLRMConfig, ProposalNetwork, ReconstructionNetwork, cube_points
from ...ops.coordinate_frames.geolrm import (
    splats_from_geolrm,
)
from ...ops.spherical_harmonics import CONSTANT, OFFSET
from ...ops.square_pictures import warn_of_padding
from .views import NetworkViews, check_views, looking_away, network_views

PATCH = 28  # sides of a view are multiples of DINOv2's patch (14) and of the fine map's cell (4)
LEAST_OPACITY = 0.005  # the published writer drops what is fainter
VIEWS_AT_ONCE = 4  # through the image encoder
QUERIES_AT_ONCE = 4096  # through self-attention, between two looks at Cancel

_log = logging.getLogger(__name__)


class NotFinite(ValueError):
    """A network gave NaN or infinite numbers."""


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
        NotFinite: the network's numbers overflowed.
    """
    net = model.proposal
    if net is None:
        raise ValueError(f"{model.name} holds no proposal network (serializer.*): load a file that has one, or wire a VOXEL of your own.")
    assets = check_views(images, masks, cameras)
    cameras = match_cameras(cameras, *images.shape[2:], stage="GeoLRM")
    _warn_of_views(images, masks, cameras, assets)
    grids = []
    with torch.no_grad():
        for asset in range(assets):
            views = network_views(images, masks, cameras, asset, model.view_size, model.background, device)
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
        NotFinite: the network's numbers overflowed.
    """
    net = model.reconstruction
    if net is None:
        raise ValueError(f"{model.name} holds no reconstruction network (lrm_generator.*): load a file that has one.")
    assets = check_views(images, masks, cameras)
    cameras = match_cameras(cameras, *images.shape[2:], stage="GeoLRM")
    _warn_of_views(images, masks, cameras, assets)
    if occupancy.ndim != 4 or len(occupancy) != assets or len(set(occupancy.shape[1:])) != 1:
        raise ValueError(f"{assets} assets need a VOXEL of shape ({assets}, R, R, R), not {tuple(occupancy.shape)}.")
    token_counts(occupancy, threshold, tokens, compatible)
    made = []
    with torch.no_grad():
        for asset in range(assets):
            xyz = choose_tokens(anchors(occupancy[asset], threshold), tokens, seed)
            if compatible and len(xyz) < tokens:
                xyz = torch.cat([xyz, xyz.new_zeros(tokens - len(xyz), 3)])
            views = network_views(images, masks, cameras, asset, model.view_size, model.background, device)
            how = _How(dtype, attention, free_memory, part_of(tick, asset, assets))
            latents = _run(net, xyz.to(device), views, model.reconstruct_as, how)
            made.append(to_splats(net.renderer(latents, xyz.to(device)).float().cpu(), views.unit))
    return made


def token_counts(occupancy: Tensor, threshold: float, tokens: int, compatible: bool = False) -> list[int]:
    """How many tokens `reconstruct` makes of each asset.

    Raises:
        ValueError: an asset without a cell above the threshold.
    """
    counts = []
    for asset, volume in enumerate(occupancy, 1):
        count = int((volume > threshold).sum())
        if count == 0:
            raise ValueError(
                f"No voxel of asset {asset} is occupied: its highest probability is {float(volume.max()):.3f} and the threshold is "
                f"{threshold:g}. Lower the threshold, or check the views' masks and cameras."
            )
        counts.append(tokens if compatible else min(count, tokens))
    return counts


def choose_tokens(xyz: Tensor, tokens: int, seed: int) -> Tensor:
    """At most `tokens` of the points: all of them in their order, or a random choice in random order, as the networks were trained."""
    if len(xyz) <= tokens:
        return xyz
    return xyz[torch.randperm(len(xyz), generator=torch.Generator().manual_seed(seed))[:tokens]]


def to_splats(gaussians: Tensor, unit: float) -> Splats:
    """(N, 14) Gaussians of the networks (position, opacity, deviations, quaternion, RGB) as splats of the world."""
    position, opacity, scale, rotation, color = gaussians.split([3, 1, 3, 4, 3], dim=-1)
    kept = opacity[:, 0] >= LEAST_OPACITY
    if not kept.any():
        _log.warning("GeoLRM: every Gaussian is fainter than %g and was dropped: is this the form the weights expect?", LEAST_OPACITY)
    splats = Splats(position, scale, rotation, opacity[:, 0], ((color - OFFSET) / CONSTANT)[:, None])
    return splats_from_geolrm(splats.select(kept), unit)


def _warn_of_views(images: Tensor, masks: Tensor | None, cameras: Cameras, assets: int) -> None:
    warn_of_padding("GeoLRM", images, "Square views show the object larger, and finer.")
    count = cameras.n_views
    for asset, away in enumerate(looking_away(cameras, assets), 1):
        if away:
            _log.warning("GeoLRM, asset %d: %d of %d cameras look away: %s.", asset, len(away), count, ", ".join(away))
    for asset, own in enumerate(masks.split(count) if masks is not None else (), 1):
        empty = [name for name, mask in zip(cameras.names, own, strict=True) if not (mask > 0).any()]
        if empty:
            _log.warning(
                "GeoLRM, asset %d: %d of %d masks are empty: %s. These views say that nothing is there; leave them out with Select Views.",
                asset, len(empty), count, ", ".join(empty),
            )  # fmt: skip


def _run(net: ProposalNetwork | ReconstructionNetwork, xyz: Tensor, views: NetworkViews, run_as: NetworkForm, how: _How) -> Tensor:
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

    tick(*last)
    levels = _features(net, views, how, lambda done: tick(done, rounds * count))
    latents = net.latents(
        xyz, levels, views.c2w, views.K, form=run_as.form, scale=run_as.scale, dtype=how.dtype, attention=attention,
        chunk=net.transformer.chunk_for(how.free_memory),
        tick=lambda step, total, preview=None: tick(count + step, rounds * count),
    )  # fmt: skip
    if not torch.isfinite(latents).all():
        half = how.dtype == torch.float16
        remedy = "choose fp32 or bf16 as precision in Load GeoLRM" if half else "the file is damaged, or expects another form"
        raise NotFinite(f"GeoLRM's network gave NaN or infinite numbers in {str(how.dtype).removeprefix('torch.')}: {remedy}.")
    return latents


def _features(net: ProposalNetwork | ReconstructionNetwork, views: NetworkViews, how: _How, done: Callable[[int], None]) -> list[Tensor]:
    """The feature maps of all views, a few views at a time and never held twice; `done` is told how many views are."""
    count = len(views.images)
    levels: list[Tensor] = []
    for start in range(0, count, VIEWS_AT_ONCE):
        rows = slice(start, start + VIEWS_AT_ONCE)
        made = net.encoder(views.images[rows], views.c2w[rows], views.K[rows], how.dtype, how.attention)
        levels = levels or [part.new_empty(count, *part.shape[1:]) for part in made]
        for level, part in zip(levels, made, strict=True):
            level[rows] = part
        done(min(start + VIEWS_AT_ONCE, count))
    return levels


def memory_required(config: GeoLRMConfig, view_size: int, n_views: int, tokens: int, dtype: torch.dtype = torch.float32) -> int:
    """Bytes one network needs on its device beside its weights and the cross-attention's chunk (`free_memory`)."""
    size = torch.finfo(dtype).bits // 8
    patches = (view_size // 14) ** 2
    a_view = config.feature_dim * 4 * ((view_size // 4) ** 2 + (view_size // 7) ** 2)
    features = n_views * a_view
    vit = min(n_views, VIEWS_AT_ONCE) * (patches * config.vit[0] * (3 * 4 + 5 * size) + 2 * a_view)
    values = config.dim * (4 + size) * ((view_size // 4) ** 2 + (view_size // 7) ** 2)
    stream = tokens * config.dim * (4 * 4 + 8 * size)
    images = n_views * 3 * view_size**2 * 4 + min(n_views, VIEWS_AT_ONCE) * 12 * view_size**2 * 4
    return int(1.1 * (max(vit, values + stream) + features + images))
