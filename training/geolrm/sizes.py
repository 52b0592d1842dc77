"""Sizes of the GeoLRMs trained here, and how their weights begin."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import nn

from ...pipelines.nets.geo_transformer import LEVELS, DeformableAttention
from ...pipelines.nets.geolrm import GeoLRMConfig, ProposalNetwork, ReconstructionNetwork, _Network


@dataclass(frozen=True)
class Size:
    """One size of both networks, the side in pixels of the views they see, and how many views judge a reconstruction in a step."""

    view_size: int
    targets: int
    proposal: GeoLRMConfig
    reconstruction: GeoLRMConfig


def _size(view_size: int, targets: int, dim: int, layers: int, heads: int, features: int, grid: int, gaussians: int) -> Size:
    shared = GeoLRMConfig(dim, layers, heads, vit=(dim, layers - 1, heads), feature_dim=features, samples=4, grid=grid, token_cells=4)
    cell = 1 / grid
    return Size(view_size, targets, shared, replace(shared, gaussians=gaussians, offset_max=2 * cell, scale_max=cell))


SIZES = {
    "mini": _size(112, targets=3, dim=96, layers=3, heads=4, features=96, grid=40, gaussians=8),
    "tiny": _size(56, targets=1, dim=48, layers=2, heads=2, features=32, grid=16, gaussians=8),
}


def new_proposal(config: GeoLRMConfig) -> ProposalNetwork:
    """A proposal network before training; nearly all cells begin empty, as they are."""
    net = ProposalNetwork(config)
    _begin(net)
    nn.init.normal_(net.upsample.weight, std=0.02)
    nn.init.constant_(net.upsample.bias, -3.0)
    return net


def new_reconstruction(config: GeoLRMConfig) -> ReconstructionNetwork:
    """A reconstruction network before training: a token's Gaussians begin apart, half transparent, grey."""
    net = ReconstructionNetwork(config)
    _begin(net)
    last = net.renderer.latent_decoder[2]
    nn.init.normal_(last.weight, std=0.02)
    bias = torch.zeros(config.gaussians, 14)
    bias[:, :3] = torch.randn(config.gaussians, 3)
    bias[:, 4:7] = -0.5
    bias[:, 7] = 1.0
    with torch.no_grad():
        last.bias.copy_(bias.flatten())
    return net


def _begin(net: _Network) -> None:
    """Image features pass unchanged where they can; each sample of a head begins in a direction of its own (Zhu et al. 2021)."""
    nn.init.trunc_normal_(net.encoder.model.embeddings.position_embeddings, std=0.02)
    for module in net.modules():
        if isinstance(module, DeformableAttention):
            angle = torch.arange(module.heads) * (2 * math.pi / module.heads)
            direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
            reach = torch.arange(module.samples) / 2  # the first sample looks at the projection itself
            nn.init.zeros_(module.sampling_offsets.weight)
            with torch.no_grad():
                offsets = direction[:, None, None] * reach[:, None]
                module.sampling_offsets.bias.copy_(offsets.expand(-1, LEVELS, -1, -1).flatten())
            nn.init.zeros_(module.attention_weights.weight)
            nn.init.zeros_(module.attention_weights.bias)


def keep_statistics(net: nn.Module) -> None:
    """Batch normalisation stays the affine map it is at inference: a batch is the views of one asset, and its statistics are theirs."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
