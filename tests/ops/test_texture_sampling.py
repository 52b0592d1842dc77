"""Texture lookup and colour spaces."""

import torch
from lathe.pipelines.ops.color import linear_to_srgb, srgb_to_linear
from lathe.pipelines.ops.texture_sampling import sample_texture


def test_uv_origin_is_the_top_left_texel_centres_are_at_half_integers() -> None:
    texture = torch.arange(12, dtype=torch.float32).view(3, 4, 1)
    uv = torch.tensor([[0.5 / 4, 0.5 / 3], [3.5 / 4, 0.5 / 3], [0.5 / 4, 2.5 / 3], [2 / 4, 0.5 / 3], [2 / 4, 2 / 3]])
    torch.testing.assert_close(sample_texture(texture, uv)[:, 0], torch.tensor([0.0, 3, 8, 1.5, 7.5]))


def test_texture_repeats() -> None:
    texture = torch.rand(5, 7, 3, generator=torch.Generator().manual_seed(0))
    uv = torch.rand(2, 40, 2, generator=torch.Generator().manual_seed(1))
    expected = sample_texture(texture, uv)
    assert expected.shape == (2, 40, 3)
    torch.testing.assert_close(sample_texture(texture, uv + torch.tensor([2.0, -3.0])), expected, atol=1e-5, rtol=0)
    seam = sample_texture(texture, torch.tensor([[1.0, 0.5 / 5], [0.0, 0.5 / 5]]))
    torch.testing.assert_close(seam, texture[0, [0, 6]].mean(0).expand(2, 3))


def test_gradients_of_texture_and_uv() -> None:
    texture = torch.rand(4, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    uv = torch.rand(6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(sample_texture, (texture, uv))


def test_srgb_curve() -> None:
    values = torch.tensor([0.0, 0.002, 0.2140411, 1.0])
    torch.testing.assert_close(linear_to_srgb(values), torch.tensor([0.0, 0.02584, 0.5, 1.0]), atol=1e-5, rtol=0)
    ramp = torch.linspace(0, 1, 256, requires_grad=True)
    torch.testing.assert_close(linear_to_srgb(srgb_to_linear(ramp)), ramp, atol=1e-5, rtol=0)
    linear_to_srgb(ramp).sum().backward()
    assert ramp.grad is not None and bool(torch.isfinite(ramp.grad).all())
