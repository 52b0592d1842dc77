"""Deformable attention against its obvious form: a loop over heads, points, levels and samples."""

import math

import pytest
import torch
from lathe.pipelines.nets.geo_transformer import CrossAttention, Geometry
from lathe.pipelines.ops.deformable_attention import bytes_per_point, sample_levels
from torch.utils._python_dispatch import TorchDispatchMode

HEADS, CHANNELS, POINTS, SAMPLES = 2, 3, 7, 4
SIZES = ((8, 6), (5, 9))


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pixel(level, row, column):
    """(d,) of one head's map (d, H, W), 0 outside."""
    inside = 0 <= row < level.shape[1] and 0 <= column < level.shape[2]
    return level[:, row, column] if inside else torch.zeros(level.shape[0])


def bilinear(level, x, y):
    """Value of a map at fractions x, y of its width and height; a pixel's value stands at its middle."""
    column, row = x * level.shape[2] - 0.5, y * level.shape[1] - 0.5
    left, top = math.floor(column), math.floor(row)
    a, b = column - left, row - top
    upper = (1 - a) * pixel(level, top, left) + a * pixel(level, top, left + 1)
    return (1 - b) * upper + b * ((1 - a) * pixel(level, top + 1, left) + a * pixel(level, top + 1, left + 1))


def obvious(levels, locations, weights):
    """`sample_levels`, spelled out."""
    out = torch.zeros(HEADS, POINTS, CHANNELS)
    for head in range(HEADS):
        for point in range(POINTS):
            for index, level in enumerate(levels):
                for sample in range(SAMPLES):
                    x, y = locations[head, point, index, sample].tolist()
                    out[head, point] += weights[head, point, index, sample] * bilinear(level[head], x, y)
    return out


def test_it_is_the_weighted_mean_of_bilinear_samples():
    levels = [draw(HEADS, CHANNELS, *size, seed=index) for index, size in enumerate(SIZES)]
    locations = draw(HEADS, POINTS, len(SIZES), SAMPLES, 2, seed=5) * 0.6 + 0.5  # some outside
    assert float(((locations < 0) | (locations > 1)).float().mean()) > 0.2
    weights = draw(HEADS, POINTS, len(SIZES) * SAMPLES, seed=6).softmax(-1).unflatten(-1, (len(SIZES), SAMPLES))
    assert torch.allclose(sample_levels(levels, locations, weights), obvious(levels, locations, weights), atol=1e-5)
    with pytest.raises(ValueError, match="at least one level"):
        sample_levels([], locations, weights)


def layer(views=5, points=50):
    """A cross-attention with weights that look around, what it is to attend to, and tokens."""
    torch.manual_seed(0)
    net = CrossAttention(dim=24, feature_dim=6, heads=2, samples=SAMPLES)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    geometry = Geometry(
        draw(points, 3), torch.zeros(points, 3).long(), draw(views, points, 2, seed=2) * 0.4 + 0.5,
        [draw(views, 6, 10, 12, seed=3), draw(views, 6, 5, 6, seed=4)],
    )  # fmt: skip
    return net.requires_grad_(False), geometry, draw(points, 24, seed=7)


def obvious_cross_attention(net, geometry, x):
    """All views at once, and a softmax over them."""
    attend = net.deformable_attention
    sizes = [tuple(level.shape[-2:]) for level in geometry.levels]
    offsets, weights = attend.places(x, sizes)
    found = []
    for view in range(len(geometry.uv)):
        values = [attend.values(level[view]) for level in geometry.levels]
        found.append(sample_levels(values, geometry.uv[view, None, :, None, None] + offsets, weights).transpose(0, 1).flatten(1))
    found = torch.stack(found)
    return net.output_proj((net.cross_view_weight(found).softmax(0) * found).sum(0))


def test_views_are_mixed_by_a_softmax_and_chunks_change_nothing():
    net, geometry, x = layer()
    wanted = obvious_cross_attention(net, geometry, x)
    for chunk in (50, 17, 1, 4096):
        assert torch.allclose(net(x, geometry, torch.float32, chunk), wanted, atol=1e-5)


def test_a_softmax_over_views_survives_large_scores():
    net, geometry, x = layer()
    net.cross_view_weight.weight.mul_(1e4)
    got = net(x, geometry, torch.float32, 50)
    assert torch.isfinite(got).all() and torch.allclose(got, obvious_cross_attention(net, geometry, x), atol=1e-4)


class Largest(TorchDispatchMode):
    """Remembers the most numbers that any result of an operation has."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in self.given:
                self.numbers = max(self.numbers, tensor.numel())
        return result


def largest(views, points, chunk):
    net, geometry, x = layer(views, points)
    watch = Largest()
    watch.given = {t.untyped_storage().data_ptr() for t in [*geometry.levels, geometry.uv, geometry.xyz, x]}
    with watch:
        net(x, geometry, torch.float32, chunk)
    return watch.numbers


def test_nothing_grows_with_views_times_points():
    assert largest(2, 2000, 100) == largest(12, 2000, 100)
    assert largest(2, 2000, 100) <= 2000 * 24  # the tokens themselves
    assert largest(2, 2000, 2000) > 2000 * 24 * 3
    assert bytes_per_point(heads=2, dim=24, levels=2, samples=SAMPLES) * 100 >= 4 * 100 * 24 * SAMPLES
