"""Volume rendering against closed forms."""

import math

import torch
from lathe.pipelines.ops import volume_rendering
from torch import Tensor


def test_rays_enter_and_leave_the_cube() -> None:
    origins = torch.tensor([[0.0, 0, 3], [0, 0, 0], [0, 0, 3], [0, 5, 3], [0.5, 0.5, 3]])
    directions = torch.tensor([[0.0, 0, -2], [1, 0, 0], [0, 0, 1], [0, 0, -1], [0, 0, -1]])
    near, far, hit = volume_rendering.intersect_box(origins, directions, 1.0)
    assert hit.tolist() == [True, True, False, False, True]
    torch.testing.assert_close(near, torch.tensor([1.0, 0, 0, 0, 2]))
    torch.testing.assert_close(far, torch.tensor([2.0, 1, 0, 0, 4]))


def test_stratified_depths_stay_in_their_bins_and_repeat_with_the_seed() -> None:
    near, far = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.5])
    middles = volume_rendering.stratified(near, far, 4)
    torch.testing.assert_close(middles[0], torch.tensor([1.25, 1.75, 2.25, 2.75]))
    draws = [volume_rendering.stratified(near, far, 4, torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(*draws) and bool(((draws[0] - middles).abs() <= (far - near)[:, None] / 8).all())
    assert float((draws[0] - middles).abs().max()) > 0


def test_sampling_inverts_the_cumulative_distribution() -> None:
    edges = torch.tensor([[0.0, 1, 2, 4]], dtype=torch.float64)
    weights = torch.tensor([[1.0, 0, 3]], dtype=torch.float64)
    uniform = torch.tensor([[0.0, 0.125, 0.25 - 1e-4, 0.25 + 1e-4, 0.625, 1.0]], dtype=torch.float64)
    expected = torch.tensor([[0.0, 0.5, 1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
    torch.testing.assert_close(volume_rendering.sample_pdf(edges, weights, uniform), expected, atol=1e-3, rtol=0)


def test_samples_follow_the_weights() -> None:
    edges = torch.linspace(0, 1, 5)[None]
    weights = torch.tensor([[0.1, 0.4, 0.0, 0.5]])
    drawn = volume_rendering.sample_pdf(edges, weights, torch.rand(1, 20_000, generator=torch.Generator().manual_seed(0)))
    share = torch.histc(drawn, 4, 0, 1) / drawn.numel()
    torch.testing.assert_close(share, weights[0], atol=0.01, rtol=0)


def test_a_ray_without_weight_is_sampled_evenly() -> None:
    uniform = torch.linspace(0, 1, 9)[None]
    torch.testing.assert_close(volume_rendering.sample_pdf(torch.linspace(2, 4, 6)[None], torch.zeros(1, 5), uniform), 2 + 2 * uniform)


def test_blurred_weights_reach_their_neighbours() -> None:
    blurred = volume_rendering.blur_weights(torch.tensor([[0.0, 0, 1, 0, 0]]))
    torch.testing.assert_close(blurred, torch.tensor([[0.01, 0.51, 1.01, 0.51, 0.01]]))


def test_constant_density_absorbs_exponentially() -> None:
    """alpha = 1 - exp(-density x length), and the mean depth is that of an exponential cut at the end."""
    density, length = 1.7, 2.0
    depths = torch.linspace(0, length, 2001, dtype=torch.float64)[None]
    seen = volume_rendering.composite(depths / 3, torch.full_like(depths, density), depths[..., None].expand(-1, -1, 3), lengths=3.0)
    alpha = 1 - math.exp(-density * length)
    assert abs(float(seen.alpha) - alpha) < 1e-9
    mean = (1 - math.exp(-density * length) * (1 + density * length)) / density
    assert abs(float(seen.depth) * 3 - mean) < 1e-5 and abs(float(seen.color[0, 0]) - mean) < 1e-5
    torch.testing.assert_close(seen.weights.sum(1), seen.alpha)


def test_the_activation_acts_on_the_mean_of_two_samples() -> None:
    raw = torch.tensor([[0.0, 4.0, 0.0]])
    depths, colors = torch.tensor([[0.0, 1.0, 2.0]]), torch.zeros(1, 3, 1)
    given = volume_rendering.composite(depths, raw, colors, activation=lambda x: x**2)
    torch.testing.assert_close(given.weights, torch.tensor([[1 - math.exp(-4), math.exp(-4) * (1 - math.exp(-4))]]))


def test_compositing_is_differentiable() -> None:
    generator = torch.Generator().manual_seed(3)
    depths = torch.rand(2, 6, generator=generator, dtype=torch.float64).sort(dim=1).values
    densities = (torch.rand(2, 6, generator=generator, dtype=torch.float64) * 4).requires_grad_()
    colors = torch.rand(2, 6, 3, generator=generator, dtype=torch.float64).requires_grad_()

    def run(d: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen = volume_rendering.composite(depths, d, c, lengths=1.3)
        return seen.color, seen.depth, seen.alpha

    assert torch.autograd.gradcheck(run, (densities, colors))


def rays() -> tuple[Tensor, Tensor]:
    y, x = torch.meshgrid(torch.linspace(-1.2, 1.2, 24), torch.linspace(-1.2, 1.2, 24), indexing="ij")
    directions = torch.stack([x / 4, y / 4, -torch.ones_like(x)], dim=-1).reshape(-1, 3)
    return torch.tensor([0.0, 0, 4]).expand_as(directions), directions


def ball(points: Tensor) -> Tensor:
    return torch.sigmoid((0.7 - points.norm(dim=-1)) * 400) * 400


def test_a_hard_ball_is_seen_where_it_is() -> None:
    """Depth of the first intersection (as z-depth: directions have unit length along the axis), and the colour there."""
    origins, directions = rays()
    color, depth, alpha = volume_rendering.render_rays(origins, directions, ball, lambda p: p * 0.5 + 0.5, bound=1.0)
    length = directions.norm(dim=-1)
    along = -(origins * directions).sum(-1) / length
    gap = (origins**2).sum(-1) - along**2
    inside, outside = gap < 0.62**2, gap > 0.78**2
    assert inside.sum() > 100 and float(alpha[inside].min()) > 0.99 and float(alpha[outside].max()) < 0.01
    surface = (along - (0.49 - gap.clamp(max=0.49)).sqrt()) / length
    assert float((depth / alpha.clamp(min=0.5) - surface)[inside].abs().max()) < 0.03
    hit = origins + surface[:, None] * directions
    assert float((color - (hit * 0.5 + 0.5))[inside].abs().max()) < 0.03


def test_fine_samples_sharpen_the_surface() -> None:
    origins, directions = rays()
    exact = volume_rendering.render_rays(origins, directions, ball, lambda p: p, bound=1.0, samples=2048, fine_samples=0)[1]
    errors = []
    for samples, fine in ((64, 0), (32, 32)):
        seen = volume_rendering.render_rays(origins, directions, ball, lambda p: p, bound=1.0, samples=samples, fine_samples=fine)[1]
        errors.append(float((seen - exact).abs().mean()))
    assert errors[1] < 0.6 * errors[0]


def test_chunks_and_seeds() -> None:
    origins, directions = rays()

    def run(points_at_once: int, seed: int | None) -> Tensor:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        arguments = {"bound": 1.0, "samples": 16, "fine_samples": 16, "points_at_once": points_at_once, "generator": generator}
        return volume_rendering.render_rays(origins, directions, ball, lambda p: p, **arguments)[0]

    torch.testing.assert_close(run(1, None), run(1 << 20, None), atol=1e-6, rtol=0)
    assert torch.equal(run(1 << 20, 5), run(1 << 20, 5)) and not torch.equal(run(1 << 20, 5), run(1 << 20, 6))


def test_gradients_reach_density_and_colour() -> None:
    origins, directions = rays()
    radius, tint = torch.tensor(0.7, requires_grad=True), torch.tensor(0.4, requires_grad=True)
    color, _, alpha = volume_rendering.render_rays(
        origins,
        directions,
        lambda p: torch.sigmoid((radius - p.norm(dim=-1)) * 40) * 100,
        lambda p: tint.expand(len(p), 1),
        bound=1.0,
    )
    (alpha.sum() + color.sum()).backward()
    assert radius.grad is not None and float(radius.grad) > 0
    assert tint.grad is not None and abs(float(tint.grad) - float(alpha.detach().sum())) < 1e-2


def test_rays_that_all_miss() -> None:
    origins = torch.tensor([[0.0, 5, 0], [0, 6, 0]])
    color, depth, alpha = volume_rendering.render_rays(origins, torch.tensor([[1.0, 0, 0]]).expand(2, 3), ball, lambda p: p, bound=1.0)
    assert color.shape == (2, 3) and float(color.abs().sum() + depth.sum() + alpha.sum()) == 0
