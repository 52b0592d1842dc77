"""The tiny networks whose published outputs are in `goldens/instant_{mesh,nerf}_tiny.npz`."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from data.seeded_weights import seed_module_, seeded_input
from lathe.pipelines.nets.triplane_lrm import LRMConfig, TriplaneLRM

GOLDENS = Path(__file__).parent / "goldens"
TINY = LRMConfig(
    encoder_dim=32,
    encoder_layers=2,
    encoder_heads=2,
    encoder_mlp_dim=64,
    transformer_dim=64,
    transformer_layers=2,
    transformer_heads=4,
    triplane_low_res=8,
    triplane_dim=8,
    samples_per_ray=16,
    grid_res=16,
)


def golden(kind):
    """Published outputs of the tiny mesh or nerf network, as tensors."""
    with np.load(GOLDENS / f"instant_{kind}_tiny.npz") as file:
        return {k: torch.from_numpy(v.astype(np.int64) if v.dtype == np.uint64 else v) for k, v in file.items()}


def tiny_net(kind):
    """The network with the deterministic weights."""
    return seed_module_(TriplaneLRM(replace(TINY, kind=kind))).eval().requires_grad_(False)


def golden_images():
    """(1, 6, 3, 320, 320): the pictures the goldens were made from."""
    return seeded_input("images6", (1, 6, 3, 320, 320), "uniform")


def worst(got, expected):
    """Largest absolute difference of equal shapes."""
    assert got.shape == expected.shape
    return (got.double() - expected.double()).abs().max().item()
