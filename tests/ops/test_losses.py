"""Losses that compare pictures."""

import pytest
import pytorch_msssim
import torch
from lathe.pipelines.ops import losses


def pair(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(side)
    first = torch.nn.functional.avg_pool2d(torch.rand(2, 3, side, side, generator=generator), 7, 1, 3)
    return first, (first + 0.1 * torch.rand(2, 3, side, side, generator=generator)).clamp(0, 1)


@pytest.mark.parametrize("side", [176, 199])
def test_structural_similarity_is_that_of_the_published_package(side):
    first, second = pair(side)
    for own, published in ((losses.ssim, pytorch_msssim.ssim), (losses.ms_ssim, pytorch_msssim.ms_ssim)):
        expected = published(first, second, data_range=1.0, size_average=False)
        assert torch.allclose(own(first, second), expected, atol=2e-5)
        assert torch.allclose(own(first, first), torch.ones(2), atol=1e-6)


def test_gradient_of_ms_ssim_is_finite_where_contrasts_oppose():
    target = pair(176)[0]
    opposite = (1 - target).requires_grad_()
    losses.ms_ssim(opposite, target).sum().backward()
    assert torch.isfinite(opposite.grad).all()


def test_structural_similarity_says_what_size_it_needs():
    first, second = pair(160)
    with pytest.raises(ValueError, match=r"161 pixels a side, not \(160, 160\)"):
        losses.ms_ssim(first, second)
    with pytest.raises(ValueError, match="11 pixels"):
        losses.ssim(first[..., :10], second[..., :10])


def test_pixel_losses_are_means_for_each_picture():
    first, second = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    second[1] = 0.5
    assert losses.l1(first, second).tolist() == [0, 0.5]
    assert losses.l2(first, second).tolist() == [0, 0.25]


def test_resizing_averages_and_keeps_proportions():
    images = pair(48)[0]
    assert torch.allclose(losses.resize_area(images, 24, 24), images.unflatten(2, (24, 2)).unflatten(4, (24, 2)).mean((3, 5)), atol=1e-6)
    assert losses.resize_area(images, 17, 17).shape == (2, 3, 17, 17)
    assert losses.resize_area(images, 48, 48) is images
    assert losses.fitting_size(300, 600, 128) == (64, 128)
    assert losses.fitting_size(64, 64, 128) == losses.fitting_size(64, 64, 0) == (64, 64)
