"""Textures from fields and from pictures: right colours in right places, coverage, seams, and bad input."""

import pytest
import torch
from lathe.pipelines.cameras.orbits import posed_cameras
from lathe.pipelines.data.cameras import Cameras
from lathe.pipelines.data.mesh import Mesh
from lathe.pipelines.meshes import bake_texture, extract, simplify, unwrap
from lathe.pipelines.metrics import psnr
from lathe.pipelines.ops.color import srgb_to_linear
from lathe.pipelines.ops.texture_bake import fill_gaps, nearest_colors, texels
from lathe.pipelines.ops.texture_sampling import sample_texture
from lathe.pipelines.rendering.mesh import render_mesh


class Paint:
    """Colours that vary smoothly in space, on a ball of radius 0.7."""

    kind, level, bound = "sdf", 0.0, 1.0

    def geometry(self, points):
        return points.norm(dim=1) - 0.7

    def color(self, points):
        return 0.5 + 0.4 * torch.sin(points * torch.tensor([7.0, 6.0, 5.0]))

    def flexi_grid(self, resolution=None, chunk=65536, tick=None):
        return None

    def to(self, device):
        return self


@pytest.fixture(scope="module")
def bare():
    mesh = unwrap.unwrap(simplify.simplify(extract.field_to_mesh(Paint(), "marching_cubes", 40), 2000), texture_size=512)
    return Mesh(mesh.vertices, mesh.faces, mesh.uvs)


@pytest.fixture(scope="module")
def painted(bare):
    return bake_texture.bake_from_field(bare, Paint(), 512)


def ring(n=6, elevation=10.0):
    return posed_cameras([360 / n * i for i in range(n)], [elevation] * n, 4.0, 30.0)


def colors_on_surface(mesh, seed=0):
    """Random surface points and the texture's colour there."""
    rng = torch.Generator().manual_seed(seed)
    face = torch.randint(len(mesh.faces), (4000,), generator=rng)
    bary = torch.rand(4000, 3, generator=rng)
    bary = bary / bary.sum(1, keepdim=True)
    corners = mesh.faces[face]
    points, uv = ((attribute[corners] * bary[..., None]).sum(1) for attribute in (mesh.vertices, mesh.uvs))
    return points, sample_texture(mesh.texture, uv)


def test_texels_tile_the_square_exactly_once():
    uvs = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    parts = list(texels(uvs, faces, 1500))
    assert len(parts) > 1, "rows are worked on in parts"
    index = torch.cat([part.index for part in parts])
    assert torch.equal(index.sort().values, torch.arange(1500 * 1500))
    uv = torch.cat([part.read(uvs, faces) for part in parts])
    expected = torch.stack([index % 1500 + 0.5, index // 1500 + 0.5], dim=1) / 1500
    assert (uv - expected).abs().max() < 1e-4


def test_a_field_gives_its_colors_to_every_place_on_the_surface(painted):
    points, colors = colors_on_surface(painted)
    assert (colors - Paint().color(points)).abs().max() < 0.05
    assert (colors - Paint().color(points)).abs().mean() < 0.005
    assert painted.vertex_colors is None


@pytest.mark.parametrize("size", [64, 1024])
def test_texture_sizes(bare, size):
    baked = bake_texture.bake_from_field(bare, Paint(), size)
    assert tuple(baked.texture.shape) == (size, size, 3)
    assert 0 <= baked.texture.min() and baked.texture.max() <= 1


def test_nothing_is_left_black_between_the_charts(bare):
    class White(Paint):
        def color(self, points):
            return torch.ones_like(points)

    assert bake_texture.bake_from_field(bare, White(), 256).texture.min() == 1


def test_gaps_take_the_nearest_color():
    picture = torch.zeros(8, 8, 1)
    covered = torch.zeros(8, 8, dtype=torch.bool)
    picture[2, 1], picture[5, 7] = 1.0, 2.0
    covered[2, 1] = covered[5, 7] = True
    filled = fill_gaps(picture, covered)[..., 0]
    assert filled[0, 0] == 1 and filled[3, 2] == 1 and filled[7, 7] == 2 and filled[6, 5] == 2
    odd = torch.rand(37, 50, 3, generator=torch.Generator().manual_seed(0))
    some = torch.rand(37, 50, generator=torch.Generator().manual_seed(1)) < 0.02
    filled = fill_gaps(odd, some)
    assert filled.shape == odd.shape and torch.equal(filled[some], odd[some])
    assert filled.amin() >= odd[some].amin() and filled.amax() <= odd[some].amax()


def test_nearest_colors_are_exact_at_the_points():
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(nearest_colors(points, points, points), points, atol=1e-4, rtol=0)
    assert torch.equal(nearest_colors(points[:1], points[:1], points[1:4]), points[:1].expand(3, 3))


def test_pictures_give_back_the_texture_they_show(bare, painted):
    cameras = ring()
    views = render_mesh(painted, cameras, 256, 256)
    baked, coverage = bake_texture.bake_from_views(bare, views.images, views.masks, cameras, size=512)
    again = render_mesh(baked, ring(3, 25.0), 160, 160)
    truth = render_mesh(painted, ring(3, 25.0), 160, 160)
    assert psnr(again.images, truth.images, truth.masks).min() > 35
    assert tuple(coverage.shape) == (512, 512) and set(coverage.unique().tolist()) == {0.0, 1.0}
    index = torch.cat([part.index for part in texels(bare.uvs, bare.faces, 512)])
    share = float(coverage.flatten()[index].mean())
    assert 0.85 < share < 0.999, "a ring at 10 degrees sees all but the pole below"


def test_one_picture_covers_its_side_only(bare, painted):
    cameras = ring(1, 0.0)
    views = render_mesh(painted, cameras, 256, 256)
    baked, coverage = bake_texture.bake_from_views(bare, views.images, views.masks, cameras, size=256)
    front, back = [], []
    for part in texels(bare.uvs, bare.faces, 256):
        z = part.read(bare.vertices, bare.faces)[:, 2]
        front.append(coverage.flatten()[part.index[z > 0.45]])
        back.append(coverage.flatten()[part.index[z < 0]])
    assert torch.cat(front).mean() > 0.97 and torch.cat(back).max() == 0
    points, colors = colors_on_surface(baked)
    seen = points[:, 2] > 0.45
    assert (colors - Paint().color(points))[seen].abs().mean() < 0.02


def test_what_hides_keeps_its_color_off_what_is_hidden():
    """A small plate stands before a large one: the picture from the front must not paint the small one's shape on the large one."""

    def plate(half, z):
        corners = torch.tensor([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) * half
        return corners + torch.tensor([0.0, 0, z]), torch.tensor([[0, 1, 2], [0, 2, 3]])

    (small, f1), (large, f2) = plate(0.25, 0.4), plate(0.8, -0.2)
    uvs = torch.tensor([[0.0, 1], [1, 1], [1, 0], [0, 0]])
    halves = torch.cat([uvs * torch.tensor([0.45, 1.0]), uvs * torch.tensor([0.45, 1.0]) + torch.tensor([0.55, 0.0])])
    paint = torch.zeros(128, 128, 3)
    paint[:, :64, 0], paint[:, 64:, 1] = 1.0, 1.0  # the small one red, the large one green
    mesh = Mesh(torch.cat([small, large]), torch.cat([f1, f2 + 4]), halves, paint)
    cameras = posed_cameras([0.0, 40.0, -40.0], [0.0, 20.0, 20.0], 4.0, 30.0)
    views = render_mesh(mesh, cameras, 256, 256)
    bare = Mesh(mesh.vertices, mesh.faces, mesh.uvs)
    baked, coverage = bake_texture.bake_from_views(bare, views.images, views.masks, cameras, size=128)
    # Not the rims: a texture repeats, so there each colour mixes with the other.
    right = baked.texture[:, 76:120][coverage[:, 76:120] > 0]
    assert right[:, 0].max() < 0.05 and right[:, 1].min() > 0.95
    left = baked.texture[:, 8:52][coverage[:, 8:52] > 0]
    assert left[:, 1].max() < 0.05 and left[:, 0].min() > 0.95
    front_only, seen = bake_texture.bake_from_views(bare, views.images[:1], views.masks[:1], cameras.select([0]), size=128)
    assert 0.02 < float((seen[:, 76:120] == 0).float().mean()) < 0.4, "what the small plate hides stays uncovered"


def test_pictures_are_weighed(bare):
    cameras = ring(4, 0.0)
    gray = torch.tensor([0.2, 0.4, 0.6, 0.8])[:, None, None, None].expand(4, 3, 128, 128)
    only_first, _ = bake_texture.bake_from_views(bare, gray, None, cameras, size=128, view_weights=[1, 0, 0, 0])
    assert (only_first.texture - 0.2).abs().max() < 1e-5
    mixed, _ = bake_texture.bake_from_views(bare, gray, None, cameras, size=128)
    assert mixed.texture.min() >= 0.2 - 1e-5 and mixed.texture.max() <= 0.8 + 1e-5
    # Half way between two cameras both count alike; one with three times the weight pulls the colour to its own.
    points, even = colors_on_surface(mixed)
    heavy, _ = bake_texture.bake_from_views(bare, gray, None, cameras, size=128, view_weights=[3, 1, 1, 1])
    _, pulled = colors_on_surface(heavy)
    diagonal = ((points[:, 0] - points[:, 2]).abs() < 0.03) & (points[:, 2] > 0.3) & (points[:, 1].abs() < 0.2)
    assert float(even[diagonal].mean()) == pytest.approx(0.3, abs=0.02)
    assert float(pulled[diagonal].mean()) == pytest.approx(0.25, abs=0.02)


def test_sharpness_narrows_the_blend(bare):
    cameras = ring(4, 0.0)
    gray = torch.tensor([0.0, 1.0, 0.0, 1.0])[:, None, None, None].expand(4, 3, 128, 128)
    shares = []
    for sharpness in (1.0, 12.0):
        baked, _ = bake_texture.bake_from_views(bare, gray, None, cameras, size=128, sharpness=sharpness)
        _, colors = colors_on_surface(baked)
        shares.append(float(((colors[:, 0] > 0.1) & (colors[:, 0] < 0.9)).float().mean()))
    assert shares[1] < 0.5 * shares[0]


def test_uncovered_places_keep_old_colors_or_take_near_ones(bare):
    cameras = ring(1, 0.0)
    white = torch.ones(1, 3, 128, 128)
    blue = torch.tensor([0.1, 0.2, 0.9])
    colored = Mesh(bare.vertices, bare.faces, bare.uvs, vertex_colors=srgb_to_linear(blue).expand_as(bare.vertices))
    textured = Mesh(bare.vertices, bare.faces, bare.uvs, texture=blue.expand(32, 32, 3).clone())
    for mesh in (colored, textured):
        baked, _ = bake_texture.bake_from_views(mesh, white, None, cameras, size=128)
        points, colors = colors_on_surface(baked)
        torch.testing.assert_close(colors[points[:, 2] < -0.05].mean(0), blue, atol=0.01, rtol=0)
        assert colors[points[:, 2] > 0.45].min() > 0.95
        spread, _ = bake_texture.bake_from_views(mesh, white, None, cameras, size=128, fill="nearest")
        assert spread.texture.min() > 0.99
    assert bake_texture.bake_from_views(bare, white, None, cameras, size=128)[0].texture.min() > 0.99


def test_a_mesh_without_uvs_is_unwrapped(painted):
    plain = Mesh(painted.vertices, painted.faces)
    baked = bake_texture.bake_from_field(plain, Paint(), 256)
    points, colors = colors_on_surface(baked)
    assert (colors - Paint().color(points)).abs().mean() < 0.01
    cameras = ring(4)
    views = render_mesh(painted, cameras, 128, 128)
    again, coverage = bake_texture.bake_from_views(plain, views.images, views.masks, cameras, size=256)
    assert again.uvs is not None and coverage.mean() > 0.2


def test_masks_keep_the_background_out(bare, painted):
    cameras = ring()
    views = render_mesh(painted, cameras, 128, 128, background=(1.0, 0.0, 1.0))
    wrong = torch.nn.functional.pad(views.images[..., 6:], (0, 6), value=0.0)  # pictures that sit 6 pixels off
    masks = torch.nn.functional.pad(views.masks[..., 6:], (0, 6))
    baked, _ = bake_texture.bake_from_views(bare, wrong, masks, cameras, size=128)
    _, colors = colors_on_surface(baked)
    magenta = (colors - torch.tensor([1.0, 0.0, 1.0])).norm(dim=1) < 0.2
    assert magenta.float().mean() < 0.01


def test_bad_input_is_refused_in_words(bare):
    cameras, images = ring(2), torch.rand(2, 3, 32, 32)
    nothing = Mesh(torch.zeros(3, 3), torch.zeros(0, 3, dtype=torch.int64))
    flat = Mesh(bare.vertices, bare.faces, torch.full_like(bare.uvs, 0.3))
    far = Mesh(bare.vertices, bare.faces, bare.uvs * 3)
    with pytest.raises(ValueError, match="no faces"):
        bake_texture.bake_from_field(nothing, Paint(), 64)
    with pytest.raises(ValueError, match="cover no texel"):
        bake_texture.bake_from_field(flat, Paint(), 64)
    with pytest.raises(ValueError, match="cover no texel"):
        bake_texture.bake_from_views(flat, images, None, cameras, size=64)
    with pytest.raises(ValueError, match="leave the unit square"):
        bake_texture.bake_from_field(far, Paint(), 64)
    with pytest.raises(ValueError, match="out of range"):
        bake_texture.bake_from_field(bare, Paint(), 100_000)
    with pytest.raises(ValueError, match="2 cameras need as many images"):
        bake_texture.bake_from_views(bare, images[:1], None, cameras, size=64)
    with pytest.raises(ValueError, match="as many masks"):
        bake_texture.bake_from_views(bare, images, torch.ones(1, 1, 32, 32), cameras, size=64)
    with pytest.raises(ValueError, match="NaN"):
        bake_texture.bake_from_views(bare, images * float("nan"), None, cameras, size=64)
    with pytest.raises(ValueError, match="not all 0"):
        bake_texture.bake_from_views(bare, images, None, cameras, size=64, view_weights=[0, 0])
    with pytest.raises(ValueError, match="no picture sees the mesh"):
        bake_texture.bake_from_views(bare, images, torch.zeros(2, 1, 32, 32), cameras, size=64)
    batched = Cameras(cameras.c2w[None], cameras.K[None], cameras.names)
    with pytest.raises(ValueError, match="of_asset"):
        bake_texture.bake_from_views(bare, images, None, batched, size=64)


def test_inputs_stay_as_they_were(bare, painted):
    cameras = ring(2)
    views = render_mesh(painted, cameras, 64, 64)
    before = [tensor.clone() for tensor in (painted.vertices, painted.texture, views.images, views.masks)]
    bake_texture.bake_from_views(painted, views.images, views.masks, cameras, size=64)
    bake_texture.bake_from_field(painted, Paint(), 64)
    assert all(torch.equal(a, b) for a, b in zip(before, (painted.vertices, painted.texture, views.images, views.masks), strict=True))


def test_old_textures_are_blended_at_another_size(bare):
    """A texture of another size keeps its place: a red upper half stays the upper half."""
    old = torch.zeros(50, 50, 3)
    old[:25, :, 0], old[25:, :, 1] = 1.0, 1.0
    mesh = Mesh(bare.vertices, bare.faces, bare.uvs, old)
    baked, coverage = bake_texture.bake_from_views(mesh, torch.zeros(1, 3, 64, 64), None, ring(1, 0.0), size=200)
    index = torch.cat([part.index for part in texels(bare.uvs, bare.faces, 200)])
    kept = index[coverage.flatten()[index] == 0]
    red = kept[(kept // 200 > 5) & (kept // 200 < 95)]  # a texture repeats, so its rim mixes with the other side
    assert (baked.texture.reshape(-1, 3)[red][:, 0] > 0.95).all()
