"""GeoLRM's networks against the published ones: names, shapes, and outputs in both forms of self-attention."""

import json
from pathlib import Path

import pytest
import torch
from data.tiny_geolrm import golden, golden_images, tiny_nets
from data.tiny_lrm import worst
from lathe.pipelines.nets import geolrm as nets
from lathe.pipelines.nets.attention import torch_attention
from lathe.pipelines.nets.dino import IMAGE_MEAN, IMAGE_STD
from lathe.pipelines.nets.dinov2 import DinoV2
from lathe.pipelines.nets.geo_transformer import Geometry
from lathe.pipelines.reconstruction.geolrm.stages import choose_tokens
from lathe.pipelines.weights.geolrm import BACKBONE_NAMES

MANIFESTS = Path(__file__).resolve().parents[1] / "data" / "manifests"
TOLERANCE = 5e-5
FORMS = {"heads": "fp32", "tokens": "flash"}  # ours, and how the goldens call them


@pytest.fixture(scope="module")
def want():
    return golden()


@pytest.fixture(scope="module")
def tiny():
    return dict(zip(("srl", "lrm"), tiny_nets(), strict=True))


@pytest.fixture(scope="module")
def seen(tiny, want):
    """What the encoders make of the golden's pictures."""
    with torch.no_grad():
        return {name: net.encoder(golden_images(), want["input_c2ws"][0], want["input_Ks"][0]) for name, net in tiny.items()}


@pytest.mark.parametrize(
    ("manifest", "made"),
    [
        ("geolrm_tiny", lambda: tiny_nets()),
        ("geolrm", lambda: (nets.ProposalNetwork(), nets.ReconstructionNetwork())),
    ],
)
def test_names_and_shapes_are_the_published_ones(manifest, made):
    entries = json.loads((MANIFESTS / f"{manifest}.json").read_text())["entries"]
    with torch.device("meta" if manifest == "geolrm" else "cpu"):
        both = made()
    ours = {}
    for prefix, net in zip(("serializer.", "lrm_generator."), both, strict=True):
        ours |= {prefix + key: list(value.shape) for key, value in net.state_dict().items()}
    assert ours == {name: shape for name, shape, _ in entries}


def test_the_image_encoder(tiny, want, seen):
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGE_MEAN, IMAGE_STD))
    pixels = (golden_images() - mean) / std
    for name, net in tiny.items():
        model = net.encoder.model
        assert worst(model.embeddings.positions(8, 8), want[f"{name}_dino_pos_interp"]) < 1e-6
        assert worst(model.embeddings(pixels[:1])[0], want[f"{name}_dino_embeddings_view0"]) < TOLERANCE
        assert worst(model(pixels), want[f"{name}_dino_feature_map"]) < TOLERANCE
        if f"{name}_image_feats" in want:
            feats = torch.cat([level.flatten(2).transpose(1, 2) for level in seen[name]], dim=1)
            assert worst(feats[None], want[f"{name}_image_feats"]) < TOLERANCE
        assert [list(level.shape[-2:]) for level in seen[name]] == want[f"{name}_spatial_shapes"].tolist()


def test_rays_points_and_projections(tiny, want):
    c2w, K = want["input_c2ws"][0], want["input_Ks"][0]
    assert worst(nets.image_rays(c2w, K, 112, 112)[:, :, ::8, ::8], want["ray_embedding_stride8"]) < 1e-6
    points = tiny["srl"].points()
    assert torch.equal(points, want["srl_xyzs"])
    assert worst(nets.project(points, c2w, K), want["srl_uv"][0]) < 1e-5
    assert torch.equal(nets.grid_indices(points, 16, 0.5), want["srl_xyzs_idx"])
    fixed = want["fixed_xyzs"][0]
    assert worst(nets.project(fixed, c2w, K), want["lrm_uv_fixed"][0]) < 1e-5
    assert torch.equal(nets.grid_indices(fixed, 16, 1.0), want["l0_xyzs_idx_infer"][0])


def test_positions_on_the_full_grid_are_cut_as_published():
    """20 of the 128 places along an axis come out one lower than rounding would give, as the full-size golden counts them."""
    points = nets.cube_points(128)
    rounded = ((points / 0.5 + 1) * 127 / 2).round().long()
    assert int((nets.grid_indices(points, 128, 0.5) != rounded).sum()) == 983_040 == 20 * 3 * 128**2


@pytest.mark.parametrize("form", FORMS)
def test_each_part_of_a_layer(tiny, want, seen, form):
    net, name = tiny["lrm"], FORMS[form]
    c2w, K, xyz = want["input_c2ws"][0], want["input_Ks"][0], want["fixed_xyzs"][0]
    geometry = Geometry(xyz, nets.grid_indices(xyz, 16, 1.0), nets.project(xyz, c2w, K), seen["lrm"])
    block = net.transformer.layers[0]
    x = torch.cat([xyz, net.transformer.query_token[0].expand(len(xyz), -1)], dim=-1)
    assert worst(x, want["l0_h0"][0]) < 1e-6
    mixed = block.self_attention(block.self_attention_norm(x), geometry.indices, form, torch_attention)
    assert worst(mixed, want[f"{name}_l0_self_attn"][0]) < TOLERANCE
    normal = block.cross_attention_norm(x + mixed)
    crossed = normal + block.cross_attention(normal, geometry, torch.float32, 4096)
    assert worst(crossed, want[f"{name}_l0_cross_out"][0]) < TOLERANCE
    assert worst(block(x, geometry, form, torch.float32, torch_attention, 4096), want[f"{name}_l0_out"][0]) < TOLERANCE


@pytest.mark.parametrize("chunk", [4096, 50])
@pytest.mark.parametrize("form", FORMS)
def test_occupancy_latents_and_gaussians(tiny, want, seen, form, chunk):
    c2w, K, name = want["input_c2ws"][0], want["input_Ks"][0], FORMS[form]
    propose, reconstruct = tiny["srl"], tiny["lrm"]
    with torch.no_grad():
        latents = propose.latents(propose.points(), seen["srl"], c2w, K, form=form, scale=0.5, chunk=chunk)
        assert worst(propose.occupancy(latents)[None], want[f"{name}_occ_logits"]) < TOLERANCE
        for run, xyz, scale in (
            ("infer_scale1", want["fixed_xyzs"][0], 1.0), ("train_scale0p5", want["fixed_xyzs"][0], 0.5),
            ("selected", want[f"{name}_xyzs"][0], 1.0),
        ):  # fmt: skip
            latents = reconstruct.latents(xyz, seen["lrm"], c2w, K, form=form, scale=scale, chunk=chunk)
            assert worst(latents, want[f"{name}_{run}_latents"][0]) < TOLERANCE
            assert worst(reconstruct.renderer(latents, xyz), want[f"{name}_{run}_gaussians"][0]) < TOLERANCE


@pytest.mark.parametrize("name", FORMS.values())
def test_the_choice_of_tokens_draws_as_published(want, name):
    logits, chosen = want[f"{name}_occ_logits"][0], want[f"{name}_xyzs"][0]
    places = nets.cube_points(16)[logits.flatten() > 0]
    assert len(places) == int(want[f"{name}_n_occ"]) > 256
    assert torch.equal(choose_tokens(places, 256, 42), chosen)


def test_the_two_forms_are_as_different_as_the_paper_and_the_code(tiny, want, seen):
    """Positions and order: the token form knows the one, the per-token form the other."""
    net, c2w, K = tiny["lrm"], want["input_c2ws"][0], want["input_Ks"][0]
    xyz = want["fixed_xyzs"][0]
    order = torch.randperm(len(xyz), generator=torch.Generator().manual_seed(0))

    def run(points, form, scale):
        with torch.no_grad():
            return net.latents(points, seen["lrm"], c2w, K, form=form, scale=scale)

    for form, moves, shuffles in (("tokens", True, False), ("heads", False, True)):
        base = run(xyz, form, 0.5)
        assert (worst(run(xyz, form, 1.0), base) > 1e-2) == moves
        assert (worst(run(xyz[order], form, 0.5), base[order]) > 1e-1) == shuffles


def test_the_backbone_is_dinov2_of_the_installed_library():
    """At the size of its learned positions, where no resampling differs between versions."""
    from transformers import Dinov2Backbone, Dinov2Config

    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=518, out_features=["stage2"])
    theirs = Dinov2Backbone(config).eval()
    state = {}
    for key, value in theirs.state_dict().items():
        for newer, published in BACKBONE_NAMES.items():
            key = key.replace(f".{newer}.", f".{published}.")
        state[key] = torch.randn_like(value) * 0.1
    ours = DinoV2(32, 2, 2)
    ours.load_state_dict(state)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), state.values(), strict=True)))
    pixels = torch.randn(1, 3, 518, 518)
    with torch.no_grad():
        assert worst(ours(pixels), theirs(pixels).feature_maps[0]) < 1e-4


def test_half_precision_stays_close(tiny, want, seen):
    net, c2w, K, xyz = tiny["lrm"], want["input_c2ws"][0], want["input_Ks"][0], want["fixed_xyzs"][0]
    with torch.no_grad():
        half = net.latents(xyz, seen["lrm"], c2w, K, form="tokens", scale=0.5, dtype=torch.bfloat16)
    assert half.dtype == torch.float32
    assert float((half - want["flash_train_scale0p5_latents"][0]).square().mean().sqrt()) < 0.05  # they are about 1
