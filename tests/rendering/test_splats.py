"""Rendering splats: colours, masks, depth and normals against what geometry says they must be."""

from __future__ import annotations

import pytest
import torch
from handed import LetterField
from lathe.pipelines.data.cameras import Cameras
from lathe.pipelines.data.splats import Splats
from lathe.pipelines.ops import camera_math
from lathe.pipelines.rendering.splats import render_splats
from lathe.pipelines.rendering.views import RenderedViews

RADIUS = 0.7
C0 = 0.28209479177387814


def cameras(*poses: tuple[float, float]) -> Cameras:
    azimuths, elevations = torch.tensor(poses).T
    K = camera_math.intrinsics(30, len(poses))
    return Cameras(camera_math.orbit(azimuths, elevations, 4.0), K, tuple(f"{a}/{e}" for a, e in poses))


def ball(n: int = 20000) -> Splats:
    """Flat Gaussians tangent to a sphere, in the colour of their place."""
    k = torch.arange(n) + 0.5
    y, around = 1 - 2 * k / n, k * 2.399963
    out = torch.stack([(1 - y * y).sqrt() * around.cos(), y, (1 - y * y).sqrt() * around.sin()], dim=-1)
    half = torch.nn.functional.normalize(out + torch.tensor([0.0, 0, 1.0]), dim=-1)  # turning by 180 degrees about it takes +Z to out
    rotations = torch.cat([torch.zeros(n, 1), half], dim=-1)
    scales = torch.tensor([0.013, 0.013, 0.001]).repeat(n, 1)
    return Splats(RADIUS * out, scales, rotations, torch.full((n,), 0.95), ((out * RADIUS * 0.5) / C0)[:, None])


def letter_splats() -> Splats:
    """The lettered block as small round Gaussians on its surface."""
    steps = [torch.linspace(-h, h, m) for h, m in ((0.6, 61), (0.8, 81), (0.3, 31))]
    points = torch.cartesian_prod(*steps)
    points = points[LetterField().geometry(points).abs() < 1e-4]
    n = len(points)
    sh = ((LetterField().color(points) - 0.5) / C0)[:, None]
    return Splats(points, torch.full((n, 3), 0.015), torch.tensor([[1.0, 0, 0, 0]]).repeat(n, 1), torch.full((n,), 0.9), sh)


def test_a_ball_has_the_depth_normals_and_colours_of_a_ball() -> None:
    views = cameras((20.0, 15.0), (130.0, -30.0))
    made = render_splats(ball(), views, 64, 56)
    assert made.images.shape == (2, 3, 64, 56) and made.normals.shape == (2, 3, 64, 56)
    K = views.K * torch.tensor([64 / 56, 1, 1, 1])  # pixels are square, and the field of view is the vertical one
    origins, directions = camera_math.rays(views.c2w, K, 64, 56)
    b, a = (origins * directions).sum(-1), directions.square().sum(-1)
    root = b * b - a * (origins.square().sum(-1) - RADIUS**2)
    inside = root > 0.1 * a  # where it is seen at a grazing angle, a Gaussian in front covers many behind it
    depth = (-b - root.clamp(min=0).sqrt()) / a
    point = origins + depth[..., None] * directions
    error = (made.depths[:, 0] - depth).abs()  # on a slope the nearer Gaussians hide the others: half a pixel's depth and more
    assert float(error[:, 30:34, 26:30].max()) < 0.005 and float(error[inside].max()) < 0.06
    normal = torch.einsum("vhwi,vij->vhwj", point / RADIUS, views.c2w[:, :3, :3])
    assert float((made.normals.permute(0, 2, 3, 1) * normal).sum(-1)[inside].min()) > 0.995
    assert float((made.images.permute(0, 2, 3, 1) - (0.5 + 0.5 * point))[inside].abs().max()) < 0.05
    assert float(made.masks[:, 0][inside].min()) > 0.97 and float(made.masks[:, 0][root < -0.2 * a].max()) == 0
    hollow = made.masks < 0.5
    assert float(made.depths[hollow].abs().max()) == 0 and float(made.normals[hollow.expand(-1, 3, -1, -1)].abs().max()) == 0
    lengths = made.normals.norm(dim=1, keepdim=True)[~hollow]
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


def test_background_supersampling_and_progress() -> None:
    views, seen = cameras((0.0, 0.0), (90.0, 0.0)), []
    made = render_splats(
        ball(), views, 24, 24, background=(1.0, 0.5, 0.0), supersample=2, tick=lambda *news: seen.append((*news[:2], news[2].shape))
    )
    assert made.images[0, :, 0, 0].tolist() == [1.0, 0.5, 0.0] and seen == [(1, 2, (24, 24, 3)), (2, 2, (24, 24, 3))]
    plain = render_splats(ball(), views, 24, 24, background=(1.0, 0.5, 0.0))
    assert 0 < float((made.images - plain.images).abs().mean()) < 0.05


def test_the_lettered_block_is_not_mirrored() -> None:
    """Seen from the front the F reads; its red left side is on the viewer's right, the top is green, the back is blue."""
    views = cameras((0.0, 0.0), (90.0, 0.0), (180.0, 0.0), (0.0, 89.0))
    made = render_splats(letter_splats(), views, 96, 96)
    front = made.images[0]
    u, v = (camera_math.project(torch.tensor([[0.0, 0, 0.3]]) + torch.tensor(p), views.c2w[:1], views.K[:1])[0][0, 0] * 96 for p in (
        (0.25, 0.425, 0.0), (0.25, -0.3, 0.0)))  # fmt: skip
    assert float(front[:, int(u[1]), int(u[0])].max()) < 0.2, "the top bar of the F reaches right"
    assert float(front[:, int(v[1]), int(v[0])].min()) > 0.8, "beside its stem the F is empty below"
    for view, paint in ((1, 0), (2, 2), (3, 1)):
        middle = made.images[view, :, 44:52, 44:52].mean((1, 2))
        assert int(middle.argmax()) == paint and float(middle.sort().values[1]) < 0.2


def test_no_splats_give_the_background_and_gradients_reach_the_splats() -> None:
    full = ball(200)
    empty = full.select(torch.zeros(200, dtype=torch.bool))
    made = render_splats(empty, cameras((0.0, 0.0)), 8, 9)
    assert isinstance(made, RenderedViews) and bool((made.images == 1).all()) and not made.masks.any() and not made.depths.any()
    sh = full.sh.clone().requires_grad_()
    moved = Splats(full.positions.clone().requires_grad_(), full.scales, full.rotations, full.opacities, sh)
    render_splats(moved, cameras((0.0, 0.0)), 16, 16).images.sum().backward()
    assert moved.positions.grad is not None and sh.grad is not None and float(sh.grad.abs().sum()) > 0


def test_wrong_cameras_and_sizes_are_refused() -> None:
    two = cameras((0.0, 0.0), (90.0, 0.0))
    batch = Cameras(two.c2w[None], two.K[None], two.names)
    with pytest.raises(ValueError, match="one asset"):
        render_splats(ball(10), batch, 8, 8)
    with pytest.raises(ValueError, match="1 x 1"):
        render_splats(ball(10), two, 0, 8)
    with pytest.raises(ValueError, match="supersample"):
        render_splats(ball(10), two, 8, 8, supersample=3)
