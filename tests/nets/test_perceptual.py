"""The bundled perceptual network: its distance grows with damage, and gradients pass."""

import pytest
import torch
from lathe.pipelines.nets import perceptual
from torch.nn import functional as F


@pytest.fixture(scope="module")
def picture():
    """A colourful scene with edges at several scales, (1, 3, 64, 64)."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    disc = ((x - 0.2) ** 2 + (y + 0.1) ** 2 < 0.3).float()
    stripes = (torch.sin(x * 25) > 0).float() * (y > 0.2).float()
    return torch.stack([0.2 + 0.7 * disc, 0.3 + 0.5 * stripes, 0.5 + 0.4 * x * y]).clamp(0, 1)[None]


def blurred(picture, sigma):
    offsets = torch.arange(-16, 17.0)
    kernel = torch.exp(-offsets.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).reshape(1, 1, 1, -1).repeat(3, 1, 1, 1)
    padded = F.pad(picture, (16, 16, 16, 16), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.transpose(2, 3), groups=3)


def noisy(picture, amount):
    return picture + amount * torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))


def shifted(picture, pixels):
    return F.pad(picture, (pixels, 0, 0, 0), mode="replicate")[..., : picture.shape[-1]]


@pytest.mark.parametrize("damage, amounts", [(blurred, (0.5, 1, 2, 4)), (noisy, (0.02, 0.05, 0.1, 0.2)), (shifted, (1, 2, 3, 5))])
def test_distance_rises_with_damage(picture, damage, amounts):
    distances = [float(perceptual.perceptual_distance(picture, damage(picture, amount))) for amount in amounts]
    assert distances[0] > 1e-3
    assert all(later > 1.1 * earlier for earlier, later in zip(distances[:-1], distances[1:], strict=True)), distances


def test_equal_pictures_are_at_zero_and_order_does_not_matter(picture):
    assert float(perceptual.perceptual_distance(picture, picture.clone())) == 0.0
    other = blurred(picture, 2)
    assert float(perceptual.perceptual_distance(picture, other)) == pytest.approx(float(perceptual.perceptual_distance(other, picture)))


def test_a_small_change_of_light_counts_less_than_a_blur(picture):
    assert perceptual.perceptual_distance(picture, picture * 0.95) < 0.2 * perceptual.perceptual_distance(picture, blurred(picture, 2))


def test_batch_equals_single_pictures(picture):
    first = torch.cat([picture, blurred(picture, 1)])
    second = torch.cat([noisy(picture, 0.1), shifted(picture, 2)])
    together = perceptual.perceptual_distance(first, second)
    apart = [perceptual.perceptual_distance(first[i : i + 1], second[i : i + 1])[0] for i in range(2)]
    assert together.shape == (2,)
    torch.testing.assert_close(together, torch.stack(apart), rtol=1e-4, atol=1e-6)


def test_descending_the_gradient_brings_a_picture_nearer(picture):
    start = blurred(picture, 2)
    moved = start.clone().requires_grad_()
    before = perceptual.perceptual_distance(moved, picture)
    before.sum().backward()
    assert torch.isfinite(moved.grad).all() and float(moved.grad.abs().max()) > 0
    after = perceptual.perceptual_distance(start - 0.02 * moved.grad / moved.grad.abs().max(), picture)
    assert float(after) < float(before.detach())


def test_gradient_is_finite_where_pictures_are_equal_or_black():
    black = torch.zeros(1, 3, 16, 16, requires_grad=True)
    perceptual.perceptual_distance(black, torch.zeros(1, 3, 16, 16)).sum().backward()
    assert torch.isfinite(black.grad).all()


def test_first_layer_sees_blue_green_red_of_0_to_255():
    net = perceptual.bundled()
    pixel = torch.tensor([0.9, 0.5, 0.1]).reshape(1, 3, 1, 1).expand(1, 3, 8, 8)
    caffe = torch.tensor([0.1, 0.5, 0.9]) * 255 - torch.tensor(perceptual.BGR_MEAN)
    first, second = net.blocks[0]
    inside = (first.weight * caffe.reshape(1, 3, 1, 1)).sum((1, 2, 3)) + first.bias
    expected = F.relu((second.weight.sum((2, 3)) @ F.relu(inside)) + second.bias)
    torch.testing.assert_close(net(pixel)[0][0, :, 4, 4], expected, rtol=1e-3, atol=1e-2)


def test_shapes_that_do_not_fit_are_refused(picture):
    with pytest.raises(ValueError, match="two batches of shape"):
        perceptual.perceptual_distance(picture, picture[..., :32])
    with pytest.raises(ValueError, match="two batches of shape"):
        perceptual.perceptual_distance(picture[:, :1], picture[:, :1])
