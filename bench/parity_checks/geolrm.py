"""GeoLRM: encoders, the transformer in both forms of self-attention, occupancy and Gaussians, at a tiny size and at the published sizes.

Everything here is in the networks' own frame. `fp32_*` are the published code's outputs in single precision (form "heads"), `flash_*` those
of its other branch (form "tokens"). Sets of occupied cells are not compared, only their logits: rounding may turn a sign.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ...pipelines.cameras.presets import preset_cameras
from ...pipelines.nets import geolrm as nets
from ...pipelines.nets.attention import torch_attention
from ...pipelines.nets.dino import IMAGE_MEAN, IMAGE_STD
from ...pipelines.nets.geo_transformer import Form, Geometry
from ...pipelines.ops.coordinate_frames.geolrm import geolrm_cameras
from ...pipelines.ops.rotary import rotate
from ...pipelines.reconstruction.geolrm.stages import choose_tokens
from .goldens import Outputs, find_manifest, seed_module, seeded
from .instantmesh import statistics

Net = TypeVar("Net", bound=nn.Module)
Golden = dict[str, np.ndarray]
SLAB = [60, 61]  # two layers of the grid, across x
FORMS: tuple[tuple[str, Form], ...] = (("fp32", "heads"), ("flash", "tokens"))


def proposal(tiny: bool) -> nets.ProposalNetwork:
    """The proposal network with the deterministic weights."""
    with torch.device("meta"):
        net = nets.ProposalNetwork(_config("serializer", tiny))
    return _seeded(net, "serializer.")


def reconstruction(tiny: bool) -> nets.ReconstructionNetwork:
    """The reconstruction network with the deterministic weights."""
    with torch.device("meta"):
        net = nets.ReconstructionNetwork(_config("lrm_generator", tiny))
    return _seeded(net, "lrm_generator.")


def _seeded(net: Net, prefix: str) -> Net:
    net = net.to_empty(device="cpu")
    for name, value in net.state_dict(keep_vars=True).items():
        if name.endswith("num_batches_tracked"):
            value.zero_()
    seed_module(net, lambda name: prefix + name)
    return net


def _config(part: str, tiny: bool) -> nets.GeoLRMConfig:
    manifest = find_manifest("geolrm_tiny" if tiny else "geolrm")
    given, vit = manifest[f"{part}_config"], manifest.get("dinov2")
    sizes = {
        "dim": given["transformer_dim"], "layers": given["transformer_layers"], "heads": given["transformer_heads"],
        "feature_dim": given["encoder_feat_dim"], "samples": given["num_deform_points"], "grid": given["grid_size"],
        "vit": (vit["hidden_size"], vit["num_hidden_layers"], vit["num_attention_heads"]) if vit else (768, 12, 12),
    }  # fmt: skip
    if "token_res" in given:
        return nets.GeoLRMConfig(**sizes, token_cells=given["token_res"])
    return nets.GeoLRMConfig(**sizes, gaussians=given["gs_per_token"], offset_max=given["offset_max"], scale_max=given["scale_max"])


def outputs(name: str, golden: Golden) -> Outputs:
    """Every stage the golden holds."""
    want = {key: torch.from_numpy(value) for key, value in golden.items()}
    c2w, K, _ = geolrm_cameras(preset_cameras("zero123plus_v1.2"))
    yield "input_c2ws", c2w[None]
    yield "input_Ks", K[None]
    views = (want["input_c2ws"][0], want["input_Ks"][0])
    with torch.no_grad():
        yield from _tiny(want, *views) if name == "geolrm_tiny" else _full(want, *views)


def _tiny(want: dict[str, Tensor], c2w: Tensor, K: Tensor) -> Outputs:
    images = seeded().seeded_input("geo_images", (1, 6, 3, 112, 112), "uniform")[0]
    yield "images_first_values", images.flatten()[:16]
    yield "rope_out", rotate(want["rope_in"].transpose(1, 2), want["rope_pos"]).transpose(1, 2)
    yield "ray_embedding_stride8", nets.image_rays(c2w, K, 112, 112)[:, :, ::8, ::8]
    srl, lrm = proposal(tiny=True), reconstruction(tiny=True)
    seen = {}
    for part, net in (("srl", srl), ("lrm", lrm)):
        seen[part] = net.encoder(images, c2w, K)
        yield from _encoder(part, net, images, seen[part])
    points, fixed = srl.points(), want["fixed_xyzs"][0]
    yield "srl_xyzs", points
    yield "srl_xyzs_idx", nets.grid_indices(points, 16, 0.5)
    yield "proj_matrix", (K @ torch.linalg.inv(c2w)[:, :3])[None]
    yield "srl_uv", nets.project(points, c2w, K)[None]
    yield "lrm_uv_fixed", nets.project(fixed, c2w, K)[None]
    yield "l0_xyzs_idx_infer", nets.grid_indices(fixed, 16, 1.0)[None]
    for prefix, form in FORMS:
        logits = srl.occupancy(srl.latents(points, seen["srl"], c2w, K, form=form, scale=0.5))
        yield f"{prefix}_occ_logits", logits[None]
        occupied = nets.cube_points(16)[want[f"{prefix}_occ_logits"][0].flatten() > 0]
        yield f"{prefix}_xyzs", choose_tokens(occupied, 256, 42)[None]
        yield from _layer(prefix, form, lrm, Geometry(fixed, nets.grid_indices(fixed, 16, 1.0), nets.project(fixed, c2w, K), seen["lrm"]))
        for run, xyz, scale in (("infer_scale1", fixed, 1.0), ("train_scale0p5", fixed, 0.5), ("selected", want[f"{prefix}_xyzs"][0], 1.0)):
            latents = lrm.latents(xyz, seen["lrm"], c2w, K, form=form, scale=scale)
            yield f"{prefix}_{run}_latents", latents[None]
            yield f"{prefix}_{run}_gaussians", lrm.renderer(latents, xyz)[None]


def _encoder(part: str, net: nets._Network, images: Tensor, levels: list[Tensor]) -> Outputs:
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGE_MEAN, IMAGE_STD))
    pixels, model = (images - mean) / std, net.encoder.model
    yield f"{part}_dino_pos_interp", model.embeddings.positions(8, 8)
    yield f"{part}_dino_embeddings_view0", model.embeddings(pixels[:1])[0]
    yield f"{part}_dino_feature_map", model(pixels)
    yield f"{part}_low_level", levels[0]
    yield f"{part}_deconv", levels[1]
    yield f"{part}_image_feats", _tokens(levels)[None]
    yield f"{part}_spatial_shapes", torch.tensor([level.shape[-2:] for level in levels])


def _tokens(levels: list[Tensor]) -> Tensor:
    """Feature maps (V, C, H_l, W_l) in a row, (V, sum of H_l W_l, C)."""
    return torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)


def _layer(prefix: str, form: Form, lrm: nets.ReconstructionNetwork, geometry: Geometry) -> Outputs:
    block = lrm.transformer.layers[0]
    x = torch.cat([geometry.xyz, lrm.transformer.query_token[0].expand(len(geometry.xyz), -1)], dim=-1)
    yield "l0_h0", x[None]
    mixed = block.self_attention(block.self_attention_norm(x), geometry.indices, form, torch_attention)
    yield f"{prefix}_l0_self_attn", mixed[None]
    normal = block.cross_attention_norm(x + mixed)
    yield f"{prefix}_l0_cross_out", (normal + block.cross_attention(normal, geometry, torch.float32, 4096))[None]
    yield f"{prefix}_l0_out", block(x, geometry, form, torch.float32, torch_attention, 4096)[None]


def _full(want: dict[str, Tensor], c2w: Tensor, K: Tensor) -> Outputs:
    images = seeded().seeded_input("geo_images_448", (1, 6, 3, 448, 448), "uniform")[0]
    everywhere = nets.cube_points(128)
    indices = nets.grid_indices(everywhere, 128, 0.5)
    yield "idx_error_count_scale0p5", (indices != ((everywhere / 0.5 + 1) * 127 / 2).round().long()).sum()[None]
    xyz = want["xyzs_1024"][0]
    yield "xyzs_full_idx_scale1", nets.grid_indices(xyz, 128, 1.0)[None]
    yield "xyzs_full_idx_scale0p5", nets.grid_indices(xyz, 128, 0.5)[None]
    yield from _full_proposal(want, images, c2w, K)
    net = reconstruction(tiny=False)
    levels = net.encoder(images, c2w, K)
    yield from _features("lrm", levels)
    for prefix, form in FORMS:
        latents = net.latents(xyz, levels, c2w, K, form=form, scale=1.0)
        gaussians = net.renderer(latents, xyz)
        yield f"{prefix}_latents", latents[:: len(latents) // 256]
        yield f"{prefix}_latents_stats", statistics(latents)
        yield f"{prefix}_gaussians_stride16", gaussians[::16]
        yield f"{prefix}_gaussians_stats", np.stack([statistics(column) for column in gaussians.T])


def _full_proposal(want: dict[str, Tensor], images: Tensor, c2w: Tensor, K: Tensor) -> Outputs:
    net = proposal(tiny=False)
    levels = net.encoder(images, c2w, K)
    yield from _features("srl", levels)
    yield "spatial_shapes", torch.tensor([level.shape[-2:] for level in levels])
    points = net.points()
    yield "srl_xyzs_idx", nets.grid_indices(points, 128, 0.5)
    for prefix, form in FORMS:
        logits = net.occupancy(net.latents(points, levels, c2w, K, form=form, scale=0.5))
        yield f"{prefix}_occ_stats", statistics(logits)
        yield f"{prefix}_occ_stride8", logits[None, ::8, ::8, ::8]
        yield f"{prefix}_occ_slab", logits[SLAB]


def _features(part: str, levels: list[Tensor]) -> Outputs:
    feats = _tokens(levels)
    yield f"{part}_feats_stats", statistics(feats)
    yield f"{part}_feats_stride997", feats[:, ::997]
