"""GeoLRM's stages: where cells and splats land, tokens and their budget, views of every kind, batches."""

import hashlib
import logging
import math
from dataclasses import replace

import pytest
import torch
from data.handmade_geolrm import handmade_model
from data.tiny_geolrm import tiny_model
from lathe.pipelines.cameras.orbits import orbit_cameras, posed_cameras
from lathe.pipelines.cameras.presets import preset_cameras
from lathe.pipelines.data.cameras import Cameras
from lathe.pipelines.data.mesh import Mesh
from lathe.pipelines.nets.geolrm import cube_points, project
from lathe.pipelines.ops import camera_math
from lathe.pipelines.ops.coordinate_frames.geolrm import from_geolrm, geolrm_cameras
from lathe.pipelines.ops.spherical_harmonics import CONSTANT
from lathe.pipelines.ops.visual_hull import cell_centres
from lathe.pipelines.plots.occupancy import occupancy_picture
from lathe.pipelines.reconstruction.geolrm import attention_memory, calibration, detect_attention, occupancy_score, stages
from lathe.pipelines.reconstruction.geolrm.views import check_views, grid_extents, network_views, on_grid
from lathe.pipelines.rendering.mesh import render_mesh
from lathe.pipelines.rendering.splats import render_splats

# from, to (x, y, z), colour: a tall red block at the object's left (+X), a flat blue one at its right and back, a small black one in front
BLOCKS = (
    ((0.2, -0.6, -0.3), (0.7, 0.7, 0.3), (1.0, 0.0, 0.0)),
    ((-0.7, -0.6, -0.7), (0.2, -0.2, 0.1), (0.0, 0.0, 1.0)),
    ((0.0, -0.5, 0.1), (0.2, -0.2, 0.5), (0.0, 0.0, 0.0)),
)  # fmt: skip
QUADS = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
SIX = preset_cameras("zero123plus_v1.2")
AROUND = posed_cameras([0, 60, 120, 180, 240, 300, 30, 90, 150, 210, 270, 330], [30, -20] * 6, 4.0, 30.0)


def inside(points):
    """True where a point of the world lies in a block."""
    found = torch.zeros(points.shape[:-1], dtype=torch.bool)
    for low, high, _ in BLOCKS:
        found |= ((points > torch.tensor(low)) & (points < torch.tensor(high))).all(-1)
    return found


def blocks():
    """The object as a mesh with colours."""
    vertices, faces, colors = [], [], []
    for low, high, color in BLOCKS:
        corners = torch.cartesian_prod(*(torch.tensor([a, b]) for a, b in zip(low, high, strict=True)))
        for quad in QUADS:
            faces += [[len(vertices) + i for i in triangle] for triangle in ((0, 1, 2), (0, 2, 3))]
            vertices += [corners[i] for i in quad]
            colors += [torch.tensor(color)] * 4
    return Mesh(torch.stack(vertices), torch.tensor(faces), vertex_colors=torch.stack(colors))


@pytest.fixture(scope="module")
def handmade():
    return handmade_model()


@pytest.fixture(scope="module")
def views():
    """Six views of the blocks on white."""
    made = render_mesh(blocks(), SIX, 112, 112)
    return made.images, made.masks


def overlap(a, b):
    return float((a & b).sum() / (a | b).sum())


def psnr(a, b):
    return float(-10 * (a - b).square().mean().log10())


def test_cells_land_on_the_object_and_not_on_its_mirror_images(handmade, views):
    images = render_mesh(blocks(), AROUND, 112, 112).images
    (occupancy,) = stages.propose(handmade, images, None, AROUND)
    (extent,) = grid_extents(24, AROUND, 1)
    truth = inside(cell_centres(24, extent))
    found = occupancy > 0.5
    assert overlap(found, truth) > 0.6
    assert float((found & truth).sum() / truth.sum()) > 0.8
    for axes in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)):
        assert overlap(found.flip(*axes), truth) < overlap(found, truth) - 0.15
    for order in ((0, 2, 1), (1, 0, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)):
        assert overlap(found.permute(*order), truth) < overlap(found, truth) - 0.15


def test_splats_have_the_colours_of_their_side_and_look_like_the_views(handmade, views):
    images, masks = views
    (extent,) = grid_extents(24, SIX, 1)
    occupancy = inside(cell_centres(24, extent)).float()
    (splats,) = stages.reconstruct(handmade, occupancy[None], images, masks, SIX)
    cells = cell_centres(24, extent)[occupancy > 0.5]
    near = torch.cdist(splats.positions, cells, compute_mode="donot_use_mm_for_euclid_dist")
    assert len(splats) == len(cells) and float(near.amin(0).max()) < 1e-4 and float(near.amin(1).max()) < 1e-4
    color = 0.5 + CONSTANT * splats.sh[:, 0]
    left, right = color[splats.positions[:, 0] > 0.35], color[splats.positions[:, 0] < -0.35]
    assert float((left[:, 0] - left[:, 2]).mean()) > 0.3 and float((right[:, 0] - right[:, 2]).mean()) < -0.2
    shown = render_splats(splats, SIX, 112, 112).images
    assert psnr(shown, images) > 12.5
    assert psnr(shown, images) > psnr(shown.flip(-1), images) + 2
    assert psnr(shown, images) > psnr(shown.roll(1, 0), images) + 2


def test_cells_go_through_a_voxel_and_keep_their_indices():
    logits = torch.randn(6, 6, 6, generator=torch.Generator().manual_seed(0))
    voxel = stages.to_voxel(logits)
    assert torch.equal(stages.anchors(voxel, 0.5), cube_points(6)[logits.flatten() > 0])
    cameras = orbit_cameras(3, radius=3.0)
    (extent,) = grid_extents(6, cameras, 1)
    assert on_grid(voxel[None], [extent], 6, [extent])[0].data_ptr() == voxel.data_ptr() or torch.equal(
        on_grid(voxel[None], [extent], 6, [extent])[0], voxel
    )
    x, y, z = 5, 1, 2  # of the network: its x is the world's z, its y the world's x, its z the world's y
    marked = torch.full((6, 6, 6), -1.0)
    marked[x, y, z] = 1.0
    assert torch.nonzero(stages.to_voxel(marked) > 0.5).tolist() == [[x, z, y]]
    place = from_geolrm(stages.anchors(stages.to_voxel(marked), 0.5), geolrm_cameras(cameras)[2])
    assert torch.allclose(place[0], cell_centres(6, extent)[x, z, y], atol=1e-6)


def test_grids_of_other_sizes_keep_their_place_in_the_world():
    """A box in a finer and a coarser grid, on cells of another cube, comes out where it was."""
    low, high = torch.tensor([-0.2, 0.1, -0.6]), torch.tensor([0.5, 0.7, 0.3])

    def box(size, extent):
        centres = cell_centres(size, extent)
        return ((centres > low) & (centres < high)).all(-1).float()

    for size, extent in ((24, 1.0), (64, 1.0), (40, 1.6)):
        made = on_grid(box(size, extent)[None], [extent], 40, [1.3])[0]
        assert overlap(made > 0.5, box(40, 1.3) > 0.5) > 0.75
    thin = torch.zeros(1, 128, 128, 128)
    thin[:, :, :, 61] = 1.0
    assert bool((on_grid(thin, [1.0], 24, [1.3])[0] > 0.5).any(-1)[3:-3, 3:-3].all()), "a sheet thinner than the grid's cells stays whole"


def test_the_frames_agree_on_projections_whatever_the_camera():
    cameras = orbit_cameras(4, elevation=25, radius=3.3)
    K = cameras.K * torch.tensor([1.1, 0.9, 1.2, 0.8])
    cameras = Cameras(cameras.c2w, K, cameras.names)
    c2w, net_K, unit = geolrm_cameras(cameras)
    points = torch.rand(40, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    ours, _ = camera_math.project(from_geolrm(points, unit), cameras.c2w, cameras.K)
    assert float((project(points, c2w, net_K) - ours).abs().max()) < 1e-5
    assert unit == pytest.approx(3.3 / 1.5, rel=1e-5)
    with pytest.raises(ValueError, match="in the middle of the object"):
        geolrm_cameras(Cameras(torch.eye(4)[None], cameras.K[:1], ("a",)))


def test_views_that_are_not_square_are_put_on_a_square_canvas(views):
    images, _ = views
    cut = images[:, :, 6:106]
    K = SIX.K.clone()
    K[:, 1], K[:, 3] = K[:, 1] * 112 / 100, (K[:, 3] * 112 - 6) / 100
    assert bool((images[:, :, :6] == 1).all()) and bool((images[:, :, 106:] == 1).all())
    whole = network_views(images, None, SIX, 0, 112, (1, 1, 1), "cpu")
    made = network_views(cut, None, Cameras(SIX.c2w, K, SIX.names), 0, 112, (1, 1, 1), "cpu")
    assert torch.allclose(made.images, whole.images) and torch.allclose(made.K, whole.K, atol=1e-6)


@pytest.mark.parametrize("squeezed", [(112, 80), (75, 112)])
def test_views_with_pixels_that_are_not_square_are_made_so(views, squeezed):
    """The networks know one focal length: a picture that was squeezed is what it was before, and its cameras are the same."""
    images, _ = views
    thin = torch.nn.functional.interpolate(images, squeezed, mode="area")
    whole = network_views(images, None, SIX, 0, 112, (1, 1, 1), "cpu")
    made = network_views(thin, None, SIX, 0, 112, (1, 1, 1), "cpu")
    assert torch.equal(made.K, whole.K) and psnr(made.images, whole.images) > 25
    # cut to a wide picture and then squeezed: the canvas is filled up, and both focal lengths count pixels alike
    K = SIX.K.clone()
    K[:, 1], K[:, 3] = K[:, 1] * 112 / 84, (K[:, 3] * 112 - 14) / 84
    cut = torch.nn.functional.interpolate(images[:, :, 14:98], squeezed, mode="area")
    made = network_views(cut, None, Cameras(SIX.c2w, K, SIX.names), 0, 112, (1, 1, 1), "cpu")
    assert torch.allclose(made.K, whole.K, atol=0.02) and torch.allclose(made.K[:, 0, 0], made.K[:, 1, 1], rtol=0.01)
    assert psnr(made.images, torch.cat([torch.ones(6, 3, 14, 112), images[:, :, 14:98], torch.ones(6, 3, 14, 112)], 2)) > 25


def test_masks_put_views_on_the_background_of_the_model(views):
    images, masks = views
    made = network_views(images * masks, masks, SIX, 0, 56, (0.0, 1.0, 0.0), "cpu").images
    assert made.shape == (6, 3, 56, 56) and torch.allclose(made[:, :, 0, 0], torch.tensor([0.0, 1.0, 0.0]))


def test_the_budget_is_kept_by_a_seeded_choice(views):
    images, masks = views
    model = tiny_model()
    occupancy = torch.zeros(1, 16, 16, 16)
    occupancy[:, 4:12, 4:12, 4:12] = 1.0
    assert stages.token_counts(occupancy, 0.5, 100) == [100]
    assert stages.token_counts(occupancy, 0.5, 10_000) == [512]
    assert stages.token_counts(occupancy, 0.5, 600, compatible=True) == [600]
    points = stages.anchors(occupancy[0], 0.5)
    assert torch.equal(stages.choose_tokens(points, 512, 0), points)
    first, again, other = (stages.choose_tokens(points, 100, seed) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert len({tuple(p) for p in first.tolist()}) == 100
    a, b = (stages.reconstruct(model, occupancy, images, masks, SIX, tokens=100, seed=3)[0] for _ in range(2))
    assert torch.equal(a.positions, b.positions) and torch.equal(a.sh, b.sh) and len(a) <= 100 * 4


def test_phantoms_of_the_padding_only_where_asked_for(handmade, views):
    images, masks = views
    occupancy = torch.zeros(1, 24, 24, 24)
    occupancy[:, 5, 6, 7] = 1.0
    (plain,) = stages.reconstruct(handmade, occupancy, images, masks, SIX, tokens=10)
    (padded,) = stages.reconstruct(handmade, occupancy, images, masks, SIX, tokens=10, compatible=True)
    assert len(plain) == 1 and len(padded) == 10
    assert torch.allclose(padded.positions[0], plain.positions[0]) and float(padded.positions[1:].abs().max()) < 1e-5
    assert float(plain.positions.abs().max()) > 0.1


@pytest.mark.parametrize("form", ["tokens", "heads"])
def test_a_batch_gives_what_single_runs_give_and_nothing_is_written_to(views, form):
    images, masks = (torch.cat([part, part.flip(-1)]) for part in views)
    model = tiny_model(form)
    kept = images.clone(), masks.clone(), SIX.c2w.clone(), SIX.K.clone()
    both = stages.propose(model, images, masks, SIX)
    before = both.clone()
    splats = stages.reconstruct(model, both, images, masks, SIX, threshold=0.4, tokens=50, seed=1)
    for asset in range(2):
        rows = slice(6 * asset, 6 * asset + 6)
        (alone,) = stages.propose(model, images[rows], masks[rows], SIX)
        assert torch.equal(alone, both[asset])
        (own,) = stages.reconstruct(model, both[asset : asset + 1], images[rows], masks[rows], SIX, threshold=0.4, tokens=50, seed=1)
        for name in ("positions", "scales", "rotations", "opacities", "sh"):
            assert torch.equal(getattr(own, name), getattr(splats[asset], name))
    assert all(torch.equal(a, b) for a, b in zip(kept, (images, masks, SIX.c2w, SIX.K), strict=True)) and torch.equal(both, before)


def test_each_asset_may_have_its_own_cameras_and_distance(views):
    images, masks = (torch.cat([part, part]) for part in views)
    near = preset_cameras("zero123plus_v1.2", radius=3.0)
    own = Cameras(torch.stack([SIX.c2w, near.c2w]), torch.stack([SIX.K, near.K]), SIX.names)
    model = tiny_model()
    both = stages.propose(model, images, masks, own)
    assert torch.equal(both[1], stages.propose(model, images[:6], masks[:6], near)[0])
    assert grid_extents(16, own, 2) == pytest.approx([4 / 1.5 / 2 * 16 / 15, 3 / 1.5 / 2 * 16 / 15])


def test_memory_and_chunks_and_split_attention_change_nothing(views, monkeypatch):
    images, masks = views
    model = tiny_model()
    plain = stages.propose(model, images, masks, SIX)
    monkeypatch.setattr(stages, "QUERIES_AT_ONCE", 10)
    monkeypatch.setattr(stages, "VIEWS_AT_ONCE", 1)
    assert torch.allclose(stages.propose(model, images, masks, SIX, free_memory=1), plain, atol=1e-5)


def test_from_one_view_to_many(views):
    images, masks = views
    model = tiny_model()
    for count in (1, 3):
        cameras = SIX.select(range(count))
        occupancy = stages.propose(model, images[:count], masks[:count], cameras)
        (splats,) = stages.reconstruct(model, occupancy, images[:count], masks[:count], cameras, tokens=20)
        assert 0 < len(splats) <= 80
    many = orbit_cameras(24, elevation=10)
    assert stages.propose(model, images[:1].repeat(24, 1, 1, 1), None, many).shape == (1, 16, 16, 16)


def test_progress_ends_at_its_total_and_cancel_comes_through(views):
    images, masks = (torch.cat([part, part]) for part in views)
    steps = []
    stages.propose(tiny_model(), images, masks, SIX, tick=lambda step, total, preview=None: steps.append((step, total)))
    assert steps[-1] == (36, 36) and steps == sorted(steps) and {total for _, total in steps} == {36}

    def cancel(step, total, preview=None):
        if step > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stages.propose(tiny_model(), images, masks, SIX, tick=cancel)


def test_the_estimate_of_memory_grows_linearly_in_views_and_with_tokens():
    config = replace(tiny_model().reconstruction.config, dim=768, layers=16, heads=16, vit=(768, 12, 12), feature_dim=384)
    needs = [stages.memory_required(config, 448, views, 16384) for views in (6, 12, 18)]
    assert needs[2] - needs[1] == pytest.approx(needs[1] - needs[0], rel=1e-3) and needs[1] > needs[0]
    assert stages.memory_required(config, 448, 21, 16384) < 4 << 30
    assert stages.memory_required(config, 448, 6, 4096) < stages.memory_required(config, 448, 6, 16384)


def test_bad_input_is_said_in_words(views, caplog):
    images, masks = views
    model = tiny_model()
    with pytest.raises(ValueError, match=r"shape \(N, 3, H, W\)"):
        check_views(images[:, :1], None, SIX)
    with pytest.raises(ValueError, match="NaN or infinite"):
        check_views(images * torch.nan, None, SIX)
    with pytest.raises(ValueError, match="All 6 masks of asset 1 are empty"):
        check_views(images, masks * 0, SIX)
    with pytest.raises(ValueError, match="Masks must have shape"):
        check_views(images, masks[:, :, :50], SIX)
    with pytest.raises(ValueError, match="1 to 24 views, not 30: choose some with Select Views"):
        check_views(images[:1].repeat(30, 1, 1, 1), None, orbit_cameras(30))
    with pytest.raises(ValueError, match=r"No voxel of asset 1 is occupied: its highest probability is 0\.200 and the threshold is 0\.5"):
        stages.reconstruct(model, torch.full((1, 16, 16, 16), 0.2), images, masks, SIX)
    with pytest.raises(ValueError, match=r"VOXEL of shape \(1, R, R, R\)"):
        stages.reconstruct(model, torch.ones(1, 16, 16, 8), images, masks, SIX)
    turned = SIX.c2w.clone()
    turned[0, :3, 0], turned[0, :3, 2] = -turned[0, :3, 0], -turned[0, :3, 2]
    with caplog.at_level(logging.WARNING):
        stages.propose(model, images, masks, Cameras(turned, SIX.K, SIX.names))
    assert f"1 of 6 cameras look away: {SIX.names[0]}" in caplog.text
    one = Cameras(turned[:1], SIX.K[:1], SIX.names[:1])
    with pytest.raises(ValueError, match="cameras of asset 1 look away"):
        stages.propose(model, images[:1], masks[:1], one)


def test_all_gaussians_too_faint_is_told(handmade, views, caplog):
    images, masks = views
    faint = handmade_model()
    faint.reconstruction.renderer.latent_decoder[2].bias[3] = -20.0
    with caplog.at_level(logging.WARNING):
        (splats,) = stages.reconstruct(faint, torch.ones(1, 24, 24, 24), images, masks, SIX, tokens=20)
    assert len(splats) == 0 and "every Gaussian is fainter" in caplog.text


def test_the_picture_of_an_occupancy_shows_its_three_sides():
    cells = torch.zeros(8, 8, 8)
    cells[7, 0, 6] = 1.0  # z front, y low, x towards the object's left
    front, left, above = (occupancy_picture(cells, 0.5, size=8)[0, :, i * 8 : i * 8 + 8] < 1 for i in range(3))
    assert torch.nonzero(front).tolist() == [[7, 6]]
    assert torch.nonzero(left).tolist() == [[7, 0]]
    assert torch.nonzero(above).tolist() == [[7, 6]]


def test_forms_are_told_apart_by_what_they_do(monkeypatch):
    """The hull of the calibration object is a good proposal; noise, everything and nothing are none."""
    seen = calibration.calibration_views()
    assert seen.images.shape == (8, 3, 448, 448) and 0.05 < float(seen.masks.mean()) < 0.5
    (extent,) = grid_extents(32, seen.cameras, 1)
    shell = calibration.hull_shell(seen, 32, extent)
    noise = torch.rand(32, 32, 32, generator=torch.Generator().manual_seed(0)) > 0.9
    scores = {
        name: occupancy_score.occupancy_score(cells.float(), extent, seen.masks, seen.cameras).score
        for name, cells in {"shell": shell, "noise": noise, "all": torch.ones(32, 32, 32), "none": torch.zeros(32, 32, 32)}.items()
    }
    assert scores["shell"] > 0.95 and scores["noise"] < 0.1 and scores["all"] < 0.2 and scores["none"] == 0
    assert occupancy_score.occupancy_score(shell.flip(1), extent, seen.masks, seen.cameras).score < scores["shell"] - 0.1


@pytest.mark.parametrize("right", attention_memory.CANDIDATES)
def test_the_form_that_gives_the_object_is_chosen_for_each_network(monkeypatch, right):
    seen = calibration.calibration_views()
    (extent,) = grid_extents(24, seen.cameras, 1)
    shell = calibration.hull_shell(seen, 24, extent)
    noise = torch.rand(24, 24, 24, generator=torch.Generator().manual_seed(0))
    model = handmade_model()
    monkeypatch.setattr(detect_attention, "propose", lambda m, *a, **k: (shell if m.propose_as == right else noise)[None])
    verdict = detect_attention.choose_proposal(model)
    assert verdict.chosen == right and verdict.decided and attention_memory.describe_form(right) in verdict.why
    original = stages.reconstruct

    def reconstruct(m, occupancy, images, *rest, **how):
        return original(m, occupancy, images if m.reconstruct_as == right else 1 - images, *rest, **how)

    monkeypatch.setattr(detect_attention, "reconstruct", reconstruct)
    verdict = detect_attention.choose_reconstruction(model)
    assert verdict.chosen == right and verdict.decided and "dB" in verdict.why


@pytest.mark.parametrize(
    ("scores", "chosen", "decided"),
    [
        ((20.0, 20.4, 18.9), 0, True),  # a scale that is better by less than 1 dB is no better
        ((18.0, 20.0, 15.0), 1, True),
        ((18.0, 18.2, 19.3), 2, True),
        ((18.0, 18.2, 19.1), 0, False),  # and so is a form
        ((19.0, 18.2, 18.1), 0, False),
        ((10.0, 10.0, 11.9), 0, False),  # an empty picture has 10 dB
        ((-math.inf, -math.inf, 13.0), 2, True),
        ((-math.inf,) * 3, 0, False),
    ],
)
def test_a_form_is_decided_where_it_leads_clearly(scores, chosen, decided):
    verdict = detect_attention._verdict("reconstruction", scores, [f"{s} dB" for s in scores], 12.0, 1.0, "no form works")
    assert (verdict.chosen, verdict.decided) == (attention_memory.CANDIDATES[chosen], decided) and verdict.scores == scores
    assert verdict.lasting == all(map(math.isfinite, scores))


def test_only_what_scored_clearly_worse_speaks_against_a_form():
    half, one, heads = attention_memory.CANDIDATES
    verdict = attention_memory.Verdict(half, True, "why", (20.0, 20.2, 18.0))
    assert verdict.against("reconstruction", heads) and not verdict.against("reconstruction", one)
    assert not verdict.against("reconstruction", half) and not verdict.against("reconstruction", replace(heads, form="tokens"))
    assert not replace(verdict, decided=False).against("reconstruction", heads)
    assert replace(verdict, scores=(0.9, 0.9, 0.1)).against("proposal", heads)


def test_verdicts_are_remembered_by_hash_and_damaged_memories_are_none(tmp_path):
    memory = attention_memory.FormMemory(tmp_path / "deep" / "forms.json")
    assert memory.recall("a") == {}
    good = attention_memory.Verdict(attention_memory.CANDIDATES[2], True, "why", (1.0, 2.0, 5.0))
    unsure = replace(good, decided=False)
    memory.keep("a", {"proposal": good, "reconstruction": unsure})
    memory.keep("b", {"reconstruction": good})
    assert memory.recall("a") == {"proposal": good, "reconstruction": unsure} and memory.recall("b") == {"reconstruction": good}
    # what overflowed in one precision, or could not be looked at, may do better another time
    unseen = attention_memory.not_looked_at("x", "memory")
    memory.keep("c", {"proposal": replace(good, scores=(1.0, -math.inf, 5.0)), "reconstruction": unseen})
    assert memory.recall("c") == {}
    assert [path.name for path in memory.path.parent.iterdir()] == ["forms.json"]
    for text in ("", "[]", '{"version": 0, "files": {"a": 1}}', '{"version": 2, "files": {"a": {"proposal": {"chosen": {"form": 3}}}}}'):
        memory.path.write_text(text)
        assert memory.recall("a") == {}
    for text in ("[" * 100_000, '{"version": 2, "files": [1]}', '{"version": 2, "files": {"a": 7}}', "\ud800"):
        memory.path.write_text(text, errors="surrogatepass")
        assert memory.recall("a") == {}
        memory.keep("a", {"proposal": good})
        assert memory.recall("a") == {"proposal": good}
    (tmp_path / "file").write_bytes(b"weights")
    assert attention_memory.file_hash(tmp_path / "file") == hashlib.sha256(b"weights").hexdigest()
