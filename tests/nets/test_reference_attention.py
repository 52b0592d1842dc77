"""The two-pass reference U-Net: the published module's numbers, its gradients, and its errors."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from data.seeded_weights import seed_module_
from lathe.pipelines.nets.reference_attention import ReferenceUNet

DATA = Path(__file__).resolve().parents[1] / "data"
GOLDEN = {k: torch.from_numpy(v) for k, v in np.load(DATA / "goldens/zero123plus_tiny.npz").items()}


@pytest.fixture()
def unet():
    from diffusers import UNet2DConditionModel

    config = json.loads((DATA / "manifests/zero123plus_tiny.json").read_text())["configs"]["unet"]
    return seed_module_(UNet2DConditionModel(**config), prefix="unet.").eval()


def noised_reference(step):
    sigma = GOLDEN["sigmas"][step]
    return (GOLDEN[f"unet{step}_cond_lat"] + sigma * GOLDEN[f"draw{3 + 2 * step:02d}"]) / (sigma**2 + 1) ** 0.5


@pytest.mark.parametrize("step", range(4))
def test_predictions_equal_the_published_modules(unet, step):
    model = ReferenceUNet(unet)
    with torch.no_grad():
        out = model(GOLDEN[f"unet{step}_sample"], GOLDEN[f"unet{step}_t"], GOLDEN[f"unet{step}_ehs"], noised_reference(step))
    assert (out - GOLDEN[f"unet{step}_out"]).abs().max() < 2e-5


def test_without_a_reference_it_is_the_plain_network(unet):
    args = GOLDEN["unet1_sample"], 749, GOLDEN["unet1_ehs"]
    with torch.no_grad():
        plain = unet(*args).sample
        model = ReferenceUNet(unet)
        assert (model(*args, None) - plain).abs().max() < 1e-5
        assert (model(*args, None) - GOLDEN["noref_unet_out"]).abs().max() < 2e-5
        assert (model(*args, noised_reference(1)) - plain).abs().max() > 1e-2


def test_the_layers_that_carry_the_reference_are_the_published_ones(unet):
    ReferenceUNet(unet)
    expected = json.loads((DATA / "manifests/zero123plus_tiny.json").read_text())["attn_processors_with_reference"]
    assert {name for name, processor in unet.attn_processors.items() if processor.name is not None} == set(expected)


def gradients(model, reference):
    reference = reference.clone().requires_grad_()
    model.zero_grad()
    out = model(GOLDEN["unet0_sample"], torch.tensor([999, 400]), GOLDEN["unet0_ehs"], reference)
    out.square().mean().backward()
    return [reference.grad, *(p.grad for p in model.parameters())]


def test_gradients_flow_through_both_passes_and_checkpointing_does_not_change_them(unet):
    model = ReferenceUNet(unet).train()
    plain = gradients(model, GOLDEN["unet0_cond_lat"])
    assert plain[0].abs().max() > 0 and all(g is not None for g in plain)
    plain = [g.clone() for g in plain]
    unet.enable_gradient_checkpointing()
    for a, b in zip(plain, gradients(model, GOLDEN["unet0_cond_lat"]), strict=True):
        assert torch.allclose(a, b, atol=1e-7)


def test_the_references_gradient_equals_finite_differences(unet):
    model = ReferenceUNet(unet).double()
    inputs = [GOLDEN["unet0_sample"].double(), 500, GOLDEN["unet0_ehs"].double()]
    reference = GOLDEN["unet0_cond_lat"].double().requires_grad_()
    direction = torch.from_numpy(np.random.RandomState(0).standard_normal(reference.shape))
    (model(*inputs, reference) ** 2).sum().backward()
    with torch.no_grad():
        up, down = ((model(*inputs, reference + s * 1e-4 * direction) ** 2).sum() for s in (1, -1))
    # The timestep embedding is computed in single precision inside the network; both sides share it.
    assert float((reference.grad * direction).sum()) == pytest.approx(float(up - down) / 2e-4, rel=1e-5)


def test_the_host_may_bring_its_attention(unet):
    calls = []

    def attention(q, k, v):
        calls.append((q.shape, k.shape))
        return torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1) @ v

    with torch.no_grad():
        out = ReferenceUNet(unet, attention)(GOLDEN["unet0_sample"], 999, GOLDEN["unet0_ehs"], noised_reference(0))
    assert (out - GOLDEN["unet0_out"]).abs().max() < 2e-5
    assert len(calls) == 40  # 10 self- and 10 cross-attention layers, twice
    assert max(k[-2] for _, k in calls) == 24 * 16 + 8 * 8


def test_a_reference_for_each_sample_is_needed(unet):
    with pytest.raises(ValueError, match="got 1 for 2"):
        ReferenceUNet(unet)(GOLDEN["unet0_sample"], 999, GOLDEN["unet0_ehs"], noised_reference(0)[:1])


def test_a_network_without_transformer_blocks_is_refused():
    from diffusers import UNet2DConditionModel

    plain = UNet2DConditionModel(
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), block_out_channels=(8,), norm_num_groups=8, mid_block_type=None
    )
    with pytest.raises(ValueError, match="self-attention"):
        ReferenceUNet(plain)
