"""The reconstruction network: the published names, the published numbers stage by stage, and any other size."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from data.seeded_weights import seeded_array, seeded_input
from data.tiny_lrm import TINY, golden, golden_images, tiny_net, worst
from lathe.pipelines.nets.attention import explicit_attention
from lathe.pipelines.nets.triplane_lrm import PUBLISHED, LRMConfig, TriplaneLRM

MANIFESTS = Path(__file__).resolve().parents[1] / "data" / "manifests"
MINI = LRMConfig(
    image_size=64,
    patch_size=8,
    position_grid=8,
    encoder_dim=48,
    encoder_layers=2,
    encoder_heads=4,
    encoder_mlp_dim=96,
    transformer_dim=32,
    transformer_layers=2,
    transformer_heads=2,
    triplane_low_res=4,
    upsample=8,
    triplane_dim=6,
    decoder_hidden=16,
    grid_res=12,
)
VARIANTS = {**PUBLISHED, "instant_mesh_tiny": TINY, "instant_nerf_tiny": replace(TINY, kind="nerf")}


@pytest.fixture(scope="module")
def mesh():
    return golden("mesh")


@pytest.fixture(scope="module")
def net():
    return tiny_net("mesh")


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_and_shapes_are_the_published_ones(variant):
    content = json.loads((MANIFESTS / f"{variant}.json").read_text())
    with torch.device("meta"):
        state = TriplaneLRM(VARIANTS[variant]).state_dict()
    expected = {name[len(content["prefix"]) :]: (tuple(shape), dtype) for name, shape, dtype in content["entries"]}
    assert {name: (tuple(v.shape), str(v.dtype).replace("torch.", "")) for name, v in state.items()} == expected


def test_encoder_equals_the_published_one_stage_by_stage(net, mesh):
    images, cameras = golden_images()[0], mesh["input_cameras"][0]
    pixels = net.encoder.normalize(images)
    assert worst(pixels[:, :, ::40, ::40], mesh["pixel_values_slice"]) < 1e-6
    embeddings = net.encoder.model.embeddings
    assert worst(embeddings.positions(20, 20), mesh["dino_pos_embed_interp_401"]) < 2e-5
    assert worst(embeddings(pixels[:1])[0], mesh["dino_embeddings_view0"]) < 2e-5
    assert worst(net.encoder.camera_embedder(cameras), mesh["camera_embeddings"]) < 2e-5
    assert worst(net.encoder(images, cameras), mesh["image_feats"]) < 2e-5


@pytest.mark.parametrize("kind", ["mesh", "nerf"])
def test_planes_equal_the_published_ones(kind):
    expected = golden(kind)
    assert worst(tiny_net(kind).planes(golden_images(), expected["input_cameras"]), expected["planes"]) < 2e-5


@pytest.mark.skipif("LATHE_REFERENCE" not in os.environ, reason="full-size goldens: set LATHE_REFERENCE to their folder")
def test_full_size_base_equals_the_published_one():
    expected = np.load(Path(os.environ["LATHE_REFERENCE"]) / "goldens/instant_mesh_base_full.npz")
    net = TriplaneLRM(PUBLISHED["instant_mesh_base"]).requires_grad_(False)
    for name, value in net.state_dict().items():
        value.copy_(torch.from_numpy(seeded_array(name, value.shape)))
    images = seeded_input("images6", (1, 6, 3, 320, 320), "uniform")
    cameras = torch.from_numpy(expected["input_cameras"])
    features = net.encoder(images[0], cameras[0])
    assert worst(features[0], torch.from_numpy(expected["image_feats_view0"])) < 2e-4
    assert worst(features[:, ::40], torch.from_numpy(expected["image_feats_tok_stride"])) < 2e-4
    planes = net.transformer(features.flatten(0, 1)[None], None, net.attention)
    assert worst(planes, torch.from_numpy(expected["planes"])) < 2e-4


def test_positions_are_resampled_only_where_the_grid_differs(net):
    embeddings = net.encoder.model.embeddings
    assert torch.equal(embeddings.positions(14, 14), embeddings.position_embeddings)
    assert embeddings.positions(7, 28).shape == embeddings.position_embeddings.shape
    assert not torch.equal(embeddings.positions(7, 28), embeddings.position_embeddings)


@pytest.mark.parametrize("n_views", [1, 4, 9])
def test_any_number_of_views(net, mesh, n_views):
    images = seeded_input("views", (2, n_views, 3, 64, 64), "uniform")
    cameras = mesh["input_cameras"][:, [i % 6 for i in range(n_views)]].expand(2, -1, -1)
    planes = net.planes(images, cameras)
    assert planes.shape == (2, 3, 8, 16, 16)
    alone = net.planes(images[1:], cameras[1:])
    assert worst(planes[1:], alone) < 1e-5


def test_order_of_views_does_not_matter_and_poses_do(net, mesh):
    images, cameras = golden_images()[..., :64, :64], mesh["input_cameras"]
    planes = net.planes(images, cameras)
    assert worst(net.planes(images.flip(1), cameras.flip(1)), planes) < 1e-5
    assert worst(net.planes(images, cameras.flip(1)), planes) > 1e-2


def test_attention_can_be_replaced(net, mesh):
    images, cameras = golden_images()[..., :64, :64], mesh["input_cameras"]
    calls = []

    def counted(q, k, v):
        calls.append(q.shape)
        return explicit_attention(q, k, v)

    planes = net.planes(images, cameras)
    assert worst(net.planes(images, cameras, attention=counted), planes) < 1e-5
    assert calls == [(6, 2, 17, 16)] * 2 + [(1, 4, 192, 16)] * 4
    other = tiny_net("mesh")
    other.attention = counted
    assert worst(other.planes(images, cameras), planes) < 1e-5
    assert len(calls) == 12


def test_a_token_bias_enters_before_the_first_layer(net, mesh):
    images, cameras = golden_images()[..., :64, :64], mesh["input_cameras"]
    bias = seeded_input("bias", (1, 192, 64))
    other = tiny_net("mesh")
    other.transformer.pos_embed += bias
    assert worst(net.planes(images, cameras, bias), other.planes(images, cameras)) < 1e-6


def test_ticks_count_the_layers_of_both_transformers(net, mesh):
    seen = []
    net.planes(golden_images()[..., :64, :64], mesh["input_cameras"], tick=lambda step, total, preview=None: seen.append((step, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_fresh_small_network_trains_from_the_first_step():
    torch.manual_seed(0)
    net = TriplaneLRM(MINI)
    images = torch.rand(2, 3, 3, 64, 64)
    cameras = torch.randn(2, 3, 16)
    planes = net.planes(images, cameras)
    assert planes.shape == (2, 3, 6, 32, 32)
    assert 0.05 < planes.std() < 5
    planes.square().mean().backward()
    trunk = [p for part in (net.encoder, net.transformer) for p in part.parameters()]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trunk)
    assert all(p.grad.abs().max() > 0 for p in trunk if p.ndim > 1)
    # poses are heard from the start
    with torch.no_grad():
        assert (net.planes(images, cameras.flip(1)) - planes).abs().max() > 1e-3


def test_a_fresh_nerf_head_is_thin_air():
    from lathe.pipelines.nets.triplane_field import TriplaneField

    torch.manual_seed(0)
    net = TriplaneLRM(replace(MINI, kind="nerf")).requires_grad_(False)
    field = TriplaneField(torch.randn(3, 6, 32, 32), net.decoder)
    assert field.geometry(torch.rand(1000, 3) * 2 - 1).max() < 0.2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stores_and_multiplies_half_but_stays_close(mesh, dtype):
    images, cameras = golden_images()[..., :64, :64], mesh["input_cameras"]
    net = tiny_net("mesh")
    exact = net.planes(images, cameras)
    multiplied = net.planes(images, cameras, dtype=dtype)
    stored = net.cast_trunk(dtype).planes(images, cameras)
    assert {p.dtype for p in net.transformer.parameters()} == {dtype}
    assert {p.dtype for p in net.decoder.parameters()} == {torch.float32}
    bound = 0.02 if dtype is torch.bfloat16 else 0.003
    for planes in (multiplied, stored):
        assert planes.dtype == torch.float32
        assert 0 < (planes - exact).norm() / exact.norm() < bound


def test_wrong_inputs_are_named(net, mesh):
    with pytest.raises(ValueError, match=r"60 x 64.*patch size 16"):
        net.planes(torch.zeros(1, 6, 3, 64, 60), mesh["input_cameras"])
    with pytest.raises(ValueError, match=r"cameras \(B, V, 16\)"):
        net.planes(torch.zeros(1, 5, 3, 64, 64), mesh["input_cameras"])
    with pytest.raises(ValueError, match="kind must be"):
        LRMConfig(kind="voxels")
    with pytest.raises(ValueError, match="image_size 60 is not a multiple of patch_size 16"):
        LRMConfig(image_size=60)
    with pytest.raises(ValueError, match="unknown settings colour"):
        LRMConfig.from_dict({"colour": 1})


def test_a_config_survives_json():
    assert LRMConfig.from_dict(json.loads(json.dumps(asdict(MINI)))) == MINI
