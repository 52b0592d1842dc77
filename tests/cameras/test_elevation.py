"""The elevation of an orbit: found on known objects, told apart from a guess, and refused where there is nothing to find."""

import math

import pytest
import torch
from lathe.pipelines.cameras import elevation
from lathe.pipelines.cameras.elevation import estimate_elevation, pose
from lathe.pipelines.cameras.join_and_select import join_cameras
from lathe.pipelines.cameras.orbits import orbit_cameras, posed_cameras
from lathe.pipelines.cameras.presets import preset_cameras
from lathe.pipelines.data.cameras import Cameras
from lathe.pipelines.data.mesh import Mesh
from lathe.pipelines.plots.elevation import estimate_picture
from lathe.pipelines.rendering.mesh import render_mesh
from lathe.pipelines.weights.mini_models import load_elevation

GIVEN = orbit_cameras(16)


def boxes(*spans):
    """One mesh of boxes, each (low corner, high corner)."""
    corners = torch.tensor([[x, y, z] for x in (0.0, 1.0) for y in (0.0, 1.0) for z in (0.0, 1.0)])
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = torch.tensor([[a, b, c] for a, b, c, _ in quads] + [[a, c, d] for a, _, c, d in quads])
    vertices = [torch.tensor(low) + corners * (torch.tensor(high) - torch.tensor(low)) for low, high in spans]
    return Mesh(torch.cat(vertices), torch.cat([faces + 8 * i for i in range(len(spans))]))


BLOCK = boxes(((-0.5, -0.6, -0.3), (0.5, 0.6, 0.3)))
CHAIR = boxes(((-0.4, -0.1, -0.4), (0.4, 0.05, 0.4)), ((-0.4, 0.0, -0.4), (0.4, 0.7, -0.3)), ((0.25, -0.6, 0.25), (0.4, 0.0, 0.4)))


def ball():
    import trimesh

    sphere = trimesh.creation.icosphere(subdivisions=3, radius=0.6)
    return Mesh(torch.tensor(sphere.vertices, dtype=torch.float32), torch.tensor(sphere.faces))


def views(mesh, degrees, n=16, size=64, **orbit):
    rendered = render_mesh(mesh, orbit_cameras(n, elevation=degrees, **orbit), size, size, supersample=2)
    return rendered.images, rendered.masks


def silhouettes(images, masks, cameras=GIVEN, **how):
    return estimate_elevation(images, masks, cameras, method="silhouettes", **how)


@pytest.mark.parametrize("mesh", [BLOCK, CHAIR], ids=["block", "chair"])
@pytest.mark.parametrize("degrees", [-8.0, 17.0, 52.0])
def test_a_known_object_within_three_degrees(mesh, degrees):
    (estimate,) = silhouettes(*views(mesh, degrees))
    assert estimate.elevation == pytest.approx(degrees, abs=3)
    assert estimate.sure and estimate.confidence > 0.7 and elevation.describe(estimate) is None
    assert float(estimate.misses.min()) < 0.005 and float(estimate.misses.max()) > 4 * float(estimate.misses.min())
    assert bool((estimate.elevations.diff() > 0).all()) and estimate.elevations[0] == -20 and estimate.elevations[-1] == 70


def test_another_lens_distance_start_and_direction_and_wide_pictures():
    how = {"radius": 2.5, "fov": 50.0, "start": 37.0, "turn": -360.0}
    cameras = orbit_cameras(12, elevation=30, **how)
    K = cameras.K * torch.tensor([0.5, 1.0, 1.0, 1.0])  # twice as wide as high
    rendered = render_mesh(CHAIR, Cameras(cameras.c2w, K, cameras.names), 64, 128, supersample=2)
    given = orbit_cameras(12, **how)
    (estimate,) = silhouettes(rendered.images, rendered.masks, Cameras(given.c2w, K, given.names))
    assert estimate.elevation == pytest.approx(30, abs=3) and estimate.sure
    # the turn taken for its mirror image fits no elevation well, or is caught by a doubtful estimate
    wrong = orbit_cameras(12, **{**how, "turn": 360.0})
    (bad,) = silhouettes(rendered.images, rendered.masks, Cameras(wrong.c2w, K, wrong.names))
    assert float(bad.misses.min()) > 5 * float(estimate.misses.min())


def test_cameras_given_at_any_elevation_lead_to_the_same_answer():
    images, masks = views(CHAIR, 25.0)
    first = silhouettes(images, masks)[0].elevation
    for degrees in (-45.0, 85.0):
        assert silhouettes(images, masks, orbit_cameras(16, elevation=degrees))[0].elevation == pytest.approx(first, abs=0.05)


def test_a_ball_looks_alike_from_everywhere_and_the_estimate_says_so():
    (estimate,) = silhouettes(*views(ball(), 30.0))
    assert estimate.confidence < 0.1 and not estimate.sure
    assert "cannot tell" in elevation.describe(estimate)


@pytest.mark.parametrize(
    "truth, end, remedy, wider",
    [(-30.0, -20, "lower `lowest` below -20", {"lowest": -45.0}), (80.0, 70, "raise `highest` above 70", {"highest": 90.0})],
)
@pytest.mark.parametrize("mesh", [BLOCK, CHAIR], ids=["block", "chair"])
def test_a_truth_outside_the_range_is_no_sure_thing(mesh, truth, end, remedy, wider):
    images, masks = views(mesh, truth)
    for method, net in (("silhouettes", None), ("auto", load_elevation())):
        (estimate,) = estimate_elevation(images, masks, GIVEN, method=method, net=net)
        assert float(estimate.elevations[estimate.misses.argmin()]) == end
        assert estimate.confidence == 0 and not estimate.sure and remedy in elevation.describe(estimate)
    (found,) = silhouettes(images, masks, **wider)
    assert found.elevation == pytest.approx(truth, abs=4) and found.sure and elevation.describe(found) is None


def test_the_end_of_the_range_is_no_end_at_a_pole_or_where_the_curve_is_flat():
    def estimate(elevations, misses):
        return elevation.ElevationEstimate(0.0, 1.0, torch.tensor(elevations), torch.tensor(misses) / elevation.WORKING_SIZE)

    assert estimate([-20.0, 0.0, 70.0], [0.1, 0.5, 1.0]).at_end and estimate([-20.0, 0.0, 70.0], [1.0, 0.5, 0.1]).at_end
    assert not estimate([-20.0, 0.0, 70.0], [1.0, 0.1, 0.5]).at_end
    assert not estimate([-90.0, 0.0, 90.0], [0.1, 0.5, 1.0]).at_end and not estimate([-90.0, 0.0, 90.0], [1.0, 0.5, 0.1]).at_end
    assert not estimate([-20.0, 0.0, 70.0], [0.1, 0.11, 0.12]).at_end


def test_a_tiny_object_is_no_sure_thing():
    small = Mesh(BLOCK.vertices * 0.08, BLOCK.faces)
    (estimate,) = silhouettes(*views(small, 30.0))
    assert not estimate.sure and math.isfinite(estimate.elevation)


def test_masks_that_agree_nowhere_are_named():
    images, masks = views(CHAIR, 20.0)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    (estimate,) = silhouettes(images, masks[order])
    assert "agree well at no elevation" in elevation.describe(estimate)


def test_batches_give_what_single_assets_give_and_cameras_of_their_own():
    parts = [views(mesh, degrees, n=8, size=48) for mesh, degrees in ((CHAIR, 12.0), (BLOCK, 40.0))]
    given = orbit_cameras(8)
    images, masks = (torch.cat(x) for x in zip(*parts, strict=True))
    net = load_elevation()
    for method in elevation.METHODS:
        both = estimate_elevation(images, masks, given, method=method, net=net)
        singles = [estimate_elevation(*part, given, method=method, net=net)[0] for part in parts]
        assert [e.elevation for e in both] == [e.elevation for e in singles]
    both = silhouettes(images, masks, given)
    posed = pose(given, both)
    assert posed.c2w.shape == (2, 8, 4, 4) and posed.n_assets == 2
    for asset, estimate in enumerate(both):
        torch.testing.assert_close(posed.of_asset(asset).c2w, orbit_cameras(8, elevation=estimate.elevation).c2w, atol=1e-4, rtol=0)
    alone = pose(given, both[:1])
    assert alone.c2w.shape == (8, 4, 4) and alone.names[1].startswith("azimuth 45, elevation 1")
    # cameras that already are each asset's own, with other starts
    own = Cameras(*(torch.stack([getattr(orbit_cameras(8, start=s), name) for s in (0.0, 30.0)]) for name in ("c2w", "K")), given.names)
    turned = torch.cat([parts[0][1], views(BLOCK, 40.0, n=8, size=48, start=30.0)[1]])
    second = silhouettes(images, turned, own)[1]
    assert second.elevation == pytest.approx(40, abs=3)
    expected = orbit_cameras(8, elevation=second.elevation, start=30.0)
    torch.testing.assert_close(pose(own, [both[0], second]).c2w[1], expected.c2w, atol=1e-4, rtol=0)


def test_same_answer_each_time_at_any_thread_count_and_inputs_stay_as_they_are():
    images, masks = views(CHAIR, 33.0)
    before = (images.clone(), masks.clone())
    net = load_elevation()
    first = estimate_elevation(images, masks, GIVEN, net=net)[0]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        second = estimate_elevation(images, masks, GIVEN, net=net)[0]
    finally:
        torch.set_num_threads(threads)
    assert first.elevation == second.elevation and torch.equal(first.misses, second.misses)
    assert torch.equal(images, before[0]) and torch.equal(masks, before[1])


def test_empty_masks_of_some_views_are_left_out(caplog):
    images, masks = views(CHAIR, 20.0)
    masks[[2, 9]] = 0
    assert silhouettes(images, masks)[0].elevation == pytest.approx(20, abs=3)
    assert "2 of 16 masks" in caplog.text


def test_the_learned_estimate_decides_where_silhouettes_cannot():
    net = load_elevation()
    images, masks = views(ball(), 30.0)
    auto, plain = (estimate_elevation(images, masks, GIVEN, method=m, net=net)[0] for m in ("auto", "silhouettes"))
    learned = estimate_elevation(images, masks, GIVEN, method="learned", net=net)[0]
    assert auto.learned == learned.elevation and learned.misses is None and learned.deviation == net.deviation
    assert auto.deviation < 0.7 * plain.deviation
    assert min(plain.elevation, learned.elevation) - 1 < auto.elevation < max(plain.elevation, learned.elevation) + 1
    sharp = views(CHAIR, 30.0)
    assert estimate_elevation(*sharp, GIVEN, net=net)[0].elevation == pytest.approx(silhouettes(*sharp)[0].elevation, abs=1)


def test_progress_reaches_its_end_once_for_all_assets():
    images, masks = views(BLOCK, 10.0, n=4, size=32)
    steps = []
    twice = (images.repeat(2, 1, 1, 1), masks.repeat(2, 1, 1, 1))
    silhouettes(*twice, orbit_cameras(4), tick=lambda step, total, _=None: steps.append((step, total)))
    assert steps[-1][0] == steps[-1][1] and len({total for _, total in steps}) == 1
    assert [s for s, _ in steps] == sorted(s for s, _ in steps)

    def cancel(step, total, preview=None):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        silhouettes(images, masks, orbit_cameras(4), tick=cancel)


def test_bad_input_is_refused_in_plain_words():
    images, masks = views(BLOCK, 10.0, n=4, size=32)
    four = orbit_cameras(4)
    cases = [
        (images[:1], masks[:1], orbit_cameras(1), {}, "two sides"),
        (images, masks, posed_cameras([0.0] * 4, [0.0] * 4, 4.0, 30.0), {}, "two sides"),
        (images, torch.zeros_like(masks), four, {}, "are empty"),
        (images, torch.ones_like(masks), four, {}, "cover the whole"),
        (images, masks[:3], four, {}, "wire the masks of these images"),
        (images, masks[..., :16], four, {}, "wire the masks of these images"),
        (images[:3], masks[:3], four, {}, "do not fit cameras of 4 views"),
        (images * float("nan"), masks, four, {}, "NaN"),
        (images, masks, preset_cameras("zero123plus_v1.2").select([0, 1, 2, 3]), {}, "from -10 to 20 degrees"),
        (images, masks, orbit_cameras(4, elevation=90), {}, "straight down"),
        (images, masks, four, {"lowest": 30.0, "highest": 10.0}, "lower"),
        (images, masks, four, {"lowest": -90.0, "highest": -89.99}, "at least 1 degree apart"),
        (images, masks, four, {"method": "sfm"}, "choose one of"),
        (images, masks, four, {"method": "learned"}, "learned estimator"),
    ]
    for pictures, own_masks, cameras, how, words in cases:
        with pytest.raises(ValueError, match=words):
            estimate_elevation(pictures, own_masks, cameras, **{"method": "silhouettes", **how})
    rolled = four.c2w.clone()
    turn = math.radians(20)
    rolled[2, :3, :2] = rolled[2, :3, :2] @ torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    moved = four.c2w.clone()
    moved[1, :3, 3] += torch.tensor([0.0, 0.5, 0.0])
    for c2w in (rolled, moved):
        with pytest.raises(ValueError, match="no orbit"):
            silhouettes(images, masks, Cameras(c2w, four.K, four.names))
    with pytest.raises(ValueError, match="Select Views"):
        silhouettes(images, masks, join_cameras(orbit_cameras(2), orbit_cameras(2, elevation=30)))


def test_vertex_of_a_parabola():
    places = [0.0, 1.0, 3.0, 7.0]
    assert elevation.parabola_vertex(places, [(x - 1.7) ** 2 + 2 for x in places]) == pytest.approx(1.7)
    assert elevation.parabola_vertex(places, [0.0, 1.0, 2.0, 3.0]) == 0
    assert elevation.parabola_vertex([2.0, 1.0, 0.0], [1.0, 1.0, 1.0]) in (0, 1, 2)


def test_the_narrowest_range_gives_an_estimate_and_a_picture():
    images, masks = views(BLOCK, 10.0, n=4, size=32)
    (estimate,) = silhouettes(images, masks, orbit_cameras(4), lowest=9.0, highest=10.0)
    assert 9 <= estimate.elevation <= 10 and bool(torch.isfinite(estimate_picture(estimate)).all())


def test_the_picture_shows_curve_and_answer():
    (estimate,) = silhouettes(*views(BLOCK, 35.0, n=8, size=32), orbit_cameras(8))
    picture = estimate_picture(estimate, 320, 200)
    assert picture.shape == (3, 200, 320) and 0 <= float(picture.min()) and float(picture.max()) == 1
    red = (picture[0] > 0.8) & (picture[1] < 0.25)
    columns = torch.nonzero(red.sum(0) > 50).flatten().float()
    left, right = 70, 320 - 24
    assert float(columns.mean()) == pytest.approx(left + (right - left) * (estimate.elevation + 20) / 90, abs=3)
    learned = elevation.ElevationEstimate(12.0, 9.0, torch.tensor([12.0]), None, 12.0)
    assert estimate_picture(learned).shape == (3, 400, 640)
