"""Small GeoLRM networks: those of the published tiny outputs, and random ones that say nothing sensible but run fast."""

import os
from pathlib import Path

import numpy as np
import torch
from data.seeded_weights import seed_module_, seeded_input
from lathe.pipelines.nets.geolrm import GeoLRMConfig, ProposalNetwork, ReconstructionNetwork
from lathe.pipelines.reconstruction.geolrm.stages import GeoLRM, NetworkForm

PROPOSAL = GeoLRMConfig(dim=48, layers=2, heads=4, vit=(32, 2, 2), feature_dim=16, samples=4, grid=16, token_cells=4)
RECONSTRUCTION = GeoLRMConfig(dim=96, layers=2, heads=4, vit=(32, 2, 2), feature_dim=16, samples=4, grid=16, gaussians=4)
PREFIXES = {"proposal": "serializer.", "reconstruction": "lrm_generator."}


def tiny_nets():
    """Both networks of the published tiny outputs, with the deterministic weights."""
    nets = ProposalNetwork(PROPOSAL), ReconstructionNetwork(RECONSTRUCTION)
    for net, prefix in zip(nets, PREFIXES.values(), strict=True):
        seed_module_(net, prefix=prefix)
        net.eval().requires_grad_(False)
    return nets


def tiny_model(form="tokens", **changes):
    """The tiny networks as a model of the stages."""
    proposal, reconstruction = tiny_nets()
    parts = {"proposal": proposal, "reconstruction": reconstruction, "view_size": 112, **changes}
    return GeoLRM(propose_as=NetworkForm(form), reconstruct_as=NetworkForm(form), **parts)


def tiny_state(*parts):
    """The flat state dict of the published file at the tiny size; of both networks, or of those named."""
    nets = dict(zip(PREFIXES, tiny_nets(), strict=True))
    return {PREFIXES[part] + key: value for part in parts or PREFIXES for key, value in nets[part].state_dict().items()}


def golden_images():
    """(6, 3, 112, 112): the pictures the tiny outputs were made from."""
    return torch.as_tensor(seeded_input("geo_images", (1, 6, 3, 112, 112), "uniform"))[0]


def golden():
    """Published outputs of the tiny networks, as tensors: those in the repository, or all where LATHE_REFERENCE points."""
    reference = os.environ.get("LATHE_REFERENCE")
    whole = Path(reference or "") / "goldens" / "geolrm_tiny.npz"
    path = whole if reference and whole.is_file() else Path(__file__).parent / "goldens" / "geolrm_tiny_core.npz"
    with np.load(path) as file:
        return {key: torch.from_numpy(value) for key, value in file.items()}
