"""The coarse stage of a distillation, on a ball small enough for a test."""

import gc
import logging
import weakref
from dataclasses import replace

import pytest
import torch
from ball_prior import COLOR, BallPrior, ball_views
from lathe.pipelines.cameras.orbits import orbit_cameras, posed_cameras
from lathe.pipelines.distillation import run_file
from lathe.pipelines.distillation.cameras_and_shading import PLAIN, ReferenceView, Shading, depth_normals, random_cameras, random_shading
from lathe.pipelines.distillation.field import DistilField
from lathe.pipelines.distillation.loop import adam, all_finite
from lathe.pipelines.distillation.priors import combine
from lathe.pipelines.distillation.run_file import RunState, load_run, save_run, state_of
from lathe.pipelines.distillation.settings import (
    CoarseSettings,
    LossWeights,
    March,
    NovelCameras,
    ShadingSchedule,
    distil_preset_names,
    load_distil_preset,
)
from lathe.pipelines.fitting.failed_steps import MOST_BAD_STEPS, FitBroken
from lathe.pipelines.formats import fields
from lathe.pipelines.meshes.extract import field_to_mesh
from lathe.pipelines.nets.distil_net import DistilledField, FieldShape
from lathe.pipelines.rendering.field import render_field

SHAPE = FieldShape(levels=4, log2_size=12, base=4, finest=32, hidden=16, layers=1, bias="cone", bias_strength=3.0, bias_radius=0.5)
SETTINGS = CoarseSettings(
    steps=45, size=20, weights=LossWeights(rgb=100, mask=30), field=SHAPE, normals="depth", encoding_rate=0.03, network_rate=0.01,
    march=March(step=0.06, grid=16, every=8, decay=0.8, threshold=1.0),
)  # fmt: skip
QUICK = replace(SETTINGS, steps=6, size=16)
WHITE = torch.ones(3)


def reference(**changes) -> ReferenceView:
    image, mask = ball_views(posed_cameras([0.0], [0.0], 1.8, 40.0), 48)
    return ReferenceView(**{"image": image, "mask": mask, **changes})


def weights_of(run: DistilField) -> torch.Tensor:
    return torch.cat([leaf.detach().reshape(-1) for leaf in run.parameters().values()])


def test_a_ball_is_found_from_one_picture_and_a_prior():
    run = DistilField(reference(), BallPrior(), SETTINGS)
    run.run(SETTINGS.steps)
    cameras = orbit_cameras(4, elevation=20, radius=1.8, fov=40, start=45)
    truth, masks = ball_views(cameras, 32)
    field = run.field()
    seen = render_field(field, cameras, 32, 32)
    assert float((seen.images - truth).square().mean()) < 0.01  # 20 dB
    overlap = (seen.masks * masks).sum() / torch.maximum(seen.masks, masks).sum()
    assert float(overlap) > 0.85
    mesh = field_to_mesh(field, "marching_cubes", 40)
    radius = mesh.vertices.norm(dim=1)
    assert abs(float(radius.median()) - 0.45) < 0.06
    assert torch.allclose(field.color(torch.tensor([[0.0, 0.0, 0.45]])), torch.tensor([COLOR]), atol=0.15)
    assert run.losses[-1]["prior"] < 0.2 * run.losses[0]["prior"] and run.skipped == 0
    assert run.picture().shape == (20, 40, 3)


def test_the_same_seed_gives_the_same_field_and_another_another():
    made = []
    for seed in (1, 1, 2):
        run = DistilField(reference(), BallPrior(), QUICK, seed=seed)
        run.run(QUICK.steps)
        made.append(weights_of(run))
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


def test_a_saved_run_goes_on_where_it_was(tmp_path):
    whole = DistilField(reference(), BallPrior(), QUICK)
    whole.run(6)
    first = DistilField(reference(), BallPrior(), QUICK)
    first.run(3)
    save_run(state_of(first), tmp_path / "run.safetensors")
    kept = load_run(tmp_path / "run.safetensors")
    assert kept.stage == "Distil Field" and kept.steps == 3
    second = DistilField(reference(), BallPrior(), QUICK, seed=5)
    second.restore(kept.tensors, kept.about)
    second.run(3)
    assert torch.equal(weights_of(whole), weights_of(second)) and whole.losses == second.losses
    other = DistilField(reference(), BallPrior(), replace(QUICK, field=replace(SHAPE, hidden=8)))
    with pytest.raises(ValueError, match="does not fit these settings"):
        other.restore(kept.tensors, kept.about)
    with pytest.raises(ValueError, match="run state is of 'Distil Mesh'"):
        second.restore(kept.tensors, {**kept.about, "stage": "Distil Mesh"})


def test_the_optimiser_goes_on_from_a_plain_adam_and_is_the_same_at_any_number_of_threads():
    plain = DistilField(reference(), BallPrior(), QUICK)
    plain._adam = torch.optim.Adam(plain._adam.param_groups, betas=(0.9, 0.99), eps=1e-15, fused=False)
    plain.run(3)
    saved = plain.state()
    ours = DistilField(reference(), BallPrior(), QUICK)
    ours.restore(*saved)
    plain.run(1)
    ours.run(1)
    assert float((weights_of(plain) - weights_of(ours)).abs().max()) < 1e-5
    threads = torch.get_num_threads()
    made = []
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            leaf = torch.nn.Parameter(torch.linspace(-1, 1, 50_003))
            optimiser = adam([{"params": [leaf], "first": 0.01}], torch.device("cpu"))
            for step in range(5):
                leaf.grad = torch.sin(leaf.detach() * (step + 1))
                optimiser.step()
            made.append(leaf.detach())
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*made)


def test_what_is_finite():
    big = torch.full((9,), 1e30)  # whose norm is infinite
    assert all_finite([]) and all_finite([torch.zeros(3), big])
    for bad in (float("nan"), float("inf"), -float("inf")):
        assert not all_finite([torch.zeros(3), torch.cat([big, torch.tensor([bad])])])


def test_files_that_are_no_run_states(tmp_path):
    field = DistilField(reference(), BallPrior(), QUICK).field()
    fields.save_field(field, tmp_path / "field.safetensors")
    with pytest.raises(ValueError, match="holds no run state"):
        load_run(tmp_path / "field.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"123")
    with pytest.raises(ValueError, match="damaged"):
        load_run(tmp_path / "cut.safetensors")
    with pytest.raises(ValueError, match="There is no file"):
        load_run(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match=r"saved as \.safetensors"):
        save_run(state_of(DistilField(reference(), BallPrior(), QUICK)), tmp_path / "run.pt")


@pytest.mark.parametrize(
    ("tensors", "about", "words"),
    [
        ({"generator": None}, {}, "random numbers"),
        ({"generator": torch.zeros(9, dtype=torch.uint8)}, {}, "random numbers"),
        ({"parameter.layers.0.bias": torch.full((16,), float("nan"))}, {}, "layers.0.bias is not made of finite numbers"),
        ({"parameter.layers.0.bias": torch.zeros(16, dtype=torch.int64)}, {}, "layers.0.bias is not made of finite numbers"),
        ({"adam.layers.0.bias.exp_avg": torch.zeros(3)}, {}, "adam.layers.0.bias.exp_avg belongs to no parameter of its shape"),
        ({"adam.other.exp_avg": torch.zeros(3)}, {}, "adam.other.exp_avg belongs to no parameter"),
        ({"adam.layers.0.bias.exp_avg_sq": None}, {}, "memory of layers.0.bias is not whole"),
        ({"adam.layers.0.bias.exp_avg": torch.full((16,), float("nan"))}, {}, "exp_avg is not made of finite numbers"),
        ({}, {"stage": None}, "of which stage"),
        ({}, {"losses": None}, "losses are not numbers"),
        ({}, {"losses": [{"total": "much"}]}, "losses are not numbers"),
        ({}, {"losses": [{}]}, "losses are not numbers"),
        ({}, {"skipped": "x"}, "skipped steps"),
        ({}, {"size": -1}, "size of the views"),
    ],
)
def test_runs_that_were_tampered_with(tmp_path, monkeypatch, tensors, about, words):
    run = DistilField(reference(), BallPrior(), QUICK)
    run.run(2)
    whole = state_of(run)
    changed = {name: tensor for name, tensor in {**whole.tensors, **tensors}.items() if tensor is not None}
    broken = RunState(changed, {**whole.about, **about})
    with pytest.raises(ValueError, match=f"not saved: .*{words}"):
        save_run(broken, tmp_path / "run.safetensors")
    with monkeypatch.context() as unchecked:
        unchecked.setattr(run_file, "what_is_wrong", lambda state: None)
        save_run(broken, tmp_path / "run.safetensors")
    with pytest.raises(ValueError, match=f"run.safetensors holds no whole run state: .*{words}"):
        load_run(tmp_path / "run.safetensors")


def test_a_run_with_skipped_steps_or_none_at_all_survives_a_file(tmp_path):
    run = DistilField(reference(), BallPrior(spoil=[1]), QUICK)
    save_run(state_of(run), tmp_path / "none.safetensors")
    assert load_run(tmp_path / "none.safetensors").steps == 0
    run.run(2)
    run.losses[-1]["total"] = float("nan")
    save_run(state_of(run), tmp_path / "skipped.safetensors")
    kept = load_run(tmp_path / "skipped.safetensors")
    assert kept.about["skipped"] == 1 and kept.steps == 2


def test_a_field_survives_a_file(tmp_path):
    run = DistilField(reference(), BallPrior(), QUICK)
    run.run(2)
    field = run.field()
    fields.save_field(field, tmp_path / "field.safetensors")
    again = fields.load_field(tmp_path / "field.safetensors")
    points = torch.rand(50, 3) * 2.4 - 1.2
    with torch.no_grad():
        assert torch.equal(field.geometry(points), again.geometry(points)) and torch.equal(field.color(points), again.color(points))
    assert again.level == field.level and again.kind == "density"
    assert float(field.geometry(torch.tensor([[0.0, 1.2, 0.0]]))) == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape": {"levels": 1 << 30}}, "levels is a whole number from 1 to 32"),
        ({"shape": {"hidden": 1 << 20}}, "hidden is a whole number"),
        ({"shape": {"log2_size": 24, "hidden": 1024}}, "not of the shape that it says"),
        ({"shape": {"bias_radius": 0.0}}, "bias_radius is a number above 0"),
        ({"shape": {"activation": "cos"}}, "no activation 'cos'"),
        ({"shape": {"other": 1}}, "no whole distilled field"),
        ({"bound": 0.0}, "bound 0.0 cannot be"),
        ({"level": "nan"}, "surface nan"),
        ({"levels_used": 99}, "99 levels"),
    ],
)
def test_fields_that_were_tampered_with(changes, words):
    tensors, settings = DistilField(reference(), BallPrior(), QUICK).field().state()
    shape = {**settings["shape"], **changes.get("shape", {})}
    with pytest.raises(ValueError, match=words):
        DistilledField.from_state(tensors, {**settings, **changes, "shape": shape})


def test_steps_that_are_not_finite_are_skipped_counted_and_bounded(caplog):
    run = DistilField(reference(), BallPrior(spoil=[1, 3]), QUICK)
    run.step()
    before = weights_of(run)
    run.step()
    assert run.skipped == 1 and torch.equal(before, weights_of(run))
    run.run(4)
    assert run.skipped == 2 and not torch.equal(before, weights_of(run))
    assert "not finite" in caplog.text
    broken = DistilField(reference(), BallPrior(spoil=range(100)), replace(QUICK, steps=50))
    with pytest.raises(FitBroken, match=f"{MOST_BAD_STEPS} steps in a row"):
        broken.run(50)
    assert broken.steps_done == MOST_BAD_STEPS and bool(torch.isfinite(weights_of(broken)).all())
    assert not broken.worth_keeping
    late = DistilField(reference(), BallPrior(spoil=range(3, 100)), replace(QUICK, steps=50))
    with pytest.raises(FitBroken):
        late.run(50)
    assert late.worth_keeping


def test_memory_that_runs_out_halves_the_views_once(monkeypatch, caplog):
    settings = replace(QUICK, size=32)
    run, prior = DistilField(reference(), None, settings), BallPrior()
    run.prior = prior
    draw = run.draw

    def draw_small(cameras, size, *rest):
        if size > limit:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")
        return draw(cameras, size, *rest)

    limit = 16
    monkeypatch.setattr(run, "draw", draw_small)
    with caplog.at_level(logging.WARNING):
        run.run(2)
    assert run.fitting.size == 16 and run.steps_done == 2 and "goes on at 16" in caplog.text
    assert prior.seen[-1][0] == (1, 3, 16, 16)
    limit = 8
    with pytest.raises(ValueError, match="Out of memory, at 32 and 16 pixels"):
        run.step()
    assert run.steps_done == 2


def test_cancel_leaves_the_last_good_state():
    class Cancelled(Exception):
        pass

    def tick(step, total, preview=None):
        if step == 3:
            raise Cancelled

    run = DistilField(reference(), BallPrior(), QUICK)
    with pytest.raises(Cancelled):
        run.run(6, tick)
    assert run.steps_done == 3 and bool(torch.isfinite(run.field().geometry(torch.rand(9, 3))).all())


def test_a_run_that_is_done_frees_its_memory():
    kept = []
    for _ in range(2):
        run = DistilField(reference(), BallPrior(), QUICK)
        run.run(2)
        kept += [weakref.ref(run), weakref.ref(run.net.grid.table)]
        del run
        gc.collect()
        assert all(ref() is None for ref in kept)


def test_a_prior_with_cameras_of_its_own_judges_all_of_them(caplog):
    class Grid(BallPrior):
        required_cameras = orbit_cameras(3, radius=1.8, fov=40)

    prior = Grid()
    run = DistilField(reference(), combine([(prior, 1.0)]), QUICK)
    run.step()
    assert prior.seen[0][0] == (3, 3, 16, 16) and prior.seen[0][1] is Grid.required_cameras
    assert "different sizes" not in caplog.text
    Grid.required_cameras = orbit_cameras(3, radius=4.0, fov=30)
    DistilField(reference(), Grid(), QUICK)
    assert "Set radius 4 and field of view 30" in caplog.text


def test_when_the_reference_is_seen():
    schedule = replace(QUICK, steps=12, reference_first=2, reference_every=4, together=False)
    run = DistilField(reference(), BallPrior(), schedule)
    run.run(12)
    assert [number for number, step in enumerate(run.losses, 1) if "reference" in step] == [1, 2, 4, 8, 12]
    assert [number for number, step in enumerate(run.losses, 1) if "prior" in step] == [3, 5, 6, 7, 9, 10, 11]
    unseen = DistilField(reference(weight=0.0), BallPrior(), schedule)
    unseen.run(3)
    assert all("reference" not in step and "prior" in step for step in unseen.losses)
    words = DistilField(ReferenceView(), BallPrior(), QUICK)
    words.run(2)
    assert all("prior" in step for step in words.losses)


@pytest.mark.parametrize("normals", ["density", "depth"])
def test_every_term_and_every_shading_has_a_gradient(normals):
    weights = LossWeights(rgb=1, mask=1, mask_loss="bce", depth=1, normal_blur=1, normal_tv=1, entropy=1, opacity=1,
                          orientation=1 if normals == "density" else 0)  # fmt: skip
    image, mask = ball_views(posed_cameras([0.0], [0.0], 1.8, 40.0), 16)
    depth = torch.where(mask > 0.5, torch.rand(1, 1, 16, 16), torch.ones(()))
    settings = replace(QUICK, weights=weights, normals=normals, random_background=True, views=4,
                       shading=ShadingSchedule(textureless=0.3, lambertian=0.4, normals=0.3))  # fmt: skip
    run = DistilField(ReferenceView(image, mask, depth), BallPrior(), settings)
    run.run(2)
    assert {"reference", "mask", "depth", "normal blur", "normal variation", "opacity", "prior"} <= set(run.losses[-1])
    assert run.skipped == 0 and bool(torch.isfinite(weights_of(run)).all())
    plain = DistilField(reference(), BallPrior(), QUICK)
    plain.run(2)
    camera = posed_cameras([0.0], [0.0], 1.8, 40.0)
    lit = Shading("textureless", 0.2, torch.tensor([0.0, 0.0, 1.0]))
    front = run.draw(camera, 16, [lit], WHITE, False).images[0, :, 8, 8]
    side = run.draw(posed_cameras([90.0], [0.0], 1.8, 40.0), 16, [lit], WHITE, False).images[0, :, 8, 8]
    assert float(front.mean()) > float(side.mean())  # the lamp stands in front
    plain_view = run.draw(camera, 16, [PLAIN], WHITE, False).images
    assert not torch.allclose(plain_view, run.draw(camera, 16, [lit], WHITE, False).images)


def test_levels_of_the_grid_come_in_late():
    settings = replace(QUICK, field=replace(SHAPE, first_levels=2, all_levels_after=0.5))
    run = DistilField(reference(), BallPrior(), settings)
    used = []
    for _ in range(6):
        run.step()
        used.append(run.net.levels)
    assert used == [2, 2, 2, None, None, None]


def test_random_cameras_are_right_handed_and_within_their_ranges():
    ranges = NovelCameras(radius=(0.9, 1.2), azimuth=(-30, 60), elevation=(-10, 40))
    cameras = random_cameras(200, ranges, ReferenceView(), torch.Generator().manual_seed(0))
    eyes = cameras.c2w[:, :3, 3]
    distance = eyes.norm(dim=1)
    assert torch.allclose(torch.linalg.det(cameras.c2w[:, :3, :3]), torch.ones(200), atol=1e-5)
    assert float(distance.min()) > 0.9 * 1.8 - 1e-4 and float(distance.max()) < 1.2 * 1.8 + 1e-4
    azimuth, elevation = torch.rad2deg(torch.atan2(eyes[:, 0], eyes[:, 2])), torch.rad2deg(torch.asin(eyes[:, 1] / distance))
    assert -30 < float(azimuth.min()) < -20 and 50 < float(azimuth.max()) < 60
    assert -10 < float(elevation.min()) < -5 and 35 < float(elevation.max()) < 40
    dome = random_cameras(200, NovelCameras(dome=1.0), ReferenceView(), torch.Generator().manual_seed(0)).c2w[:, :3, 3]
    assert float(dome[:, 1].min()) >= 0 and float(dome[:, 1].max()) > 1.5


def test_shading_follows_its_schedule():
    camera, generator = posed_cameras([0.0], [0.0], 1.8, 40.0), torch.Generator().manual_seed(0)
    schedule = ShadingSchedule(normals_until=0.2, textureless=0.25, lambertian=0.5)
    assert {random_shading(0.1, schedule, camera, generator).kind for _ in range(20)} == {"normals"}
    kinds = [random_shading(0.5, schedule, camera, generator) for _ in range(400)]
    share = {kind: sum(one.kind == kind for one in kinds) / 400 for kind in ("plain", "textureless", "lambertian", "normals")}
    assert abs(share["plain"] - 0.25) < 0.07 and abs(share["textureless"] - 0.25) < 0.07 and share["normals"] == 0
    lamps = torch.stack([one.lamp for one in kinds if one.lamp is not None])
    assert float((lamps[:, 2] > 0).float().mean()) > 0.8  # on the camera's side
    assert all(0.1 <= one.ambient <= 1 for one in kinds)
    with pytest.raises(ValueError, match="together at most 1"):
        ShadingSchedule(textureless=0.6, lambertian=0.6)


def test_normals_of_a_depth_picture():
    camera = posed_cameras([30.0], [20.0], 1.8, 40.0)
    towards = camera.c2w[0, :3, 2]
    flat = depth_normals(torch.full((1, 1, 8, 8), 1.5), camera)
    assert torch.allclose(flat, towards.view(1, 3, 1, 1).expand_as(flat), atol=1e-3)


def test_presets_are_whole():
    assert set(distil_preset_names()) == {"threestudio", "as_coded", "paper", "mini"}
    for name in distil_preset_names():
        preset = load_distil_preset(name)
        assert preset.title and preset.source and preset.coarse.steps > 0 and preset.fine.grid > 0 and preset.splat.points > 0
    paper, coded = load_distil_preset("paper"), load_distil_preset("as_coded")
    assert (paper.coarse.weights.rgb, paper.coarse.weights.mask, paper.coarse.weights.depth) == (5, 0.5, 0.001)
    assert (paper.coarse.steps, paper.coarse.size, paper.fine.size, paper.fine.grid) == (5000, 128, 1024, 64)
    assert (coded.fine.grid, coded.coarse.reference_scale, coded.coarse.field.bias_strength) == (128, 1.5, 10.0)
    with pytest.raises(ValueError, match="no distillation preset 'best'"):
        load_distil_preset("best")


BAD = [
    (lambda: reference(image=torch.rand(2, 3, 16, 16), mask=None), "one reference picture"),
    (lambda: reference(image=torch.rand(1, 3, 16, 24), mask=None), "must be square"),
    (lambda: reference(image=torch.rand(1, 3, 8, 8), mask=None), "at least 16"),
    (lambda: reference(image=torch.full((1, 3, 48, 48), float("nan"))), "NaN or infinite"),
    (lambda: reference(mask=torch.zeros(1, 1, 48, 48)), "mask is empty"),
    (lambda: reference(mask=torch.ones(1, 1, 24, 24)), "picture's size 48 x 48"),
    (lambda: reference(depth=torch.ones(1, 1, 24, 24)), "depth must be one of the picture's size"),
    (lambda: reference(image=None), "needs the reference picture"),
    (lambda: reference(radius=0.0), "distance must be above 0"),
    (lambda: reference(fov=180.0), "field of view"),
    (lambda: reference(elevation=95.0), "between -90 and 90"),
    (lambda: reference(weight=-1.0), "at least 0"),
    (lambda: DistilField(ReferenceView(), None, QUICK), "neither a reference picture nor a prior"),
    (lambda: replace(QUICK, size=8), "too small"),
    (lambda: replace(QUICK, steps=0), "at least one step"),
    (lambda: replace(QUICK, weights=LossWeights(orientation=1.0)), "needs normals from the density"),
]


@pytest.mark.parametrize("make, words", BAD)
def test_bad_input_is_said_in_words(make, words):
    with pytest.raises(ValueError, match=words):
        make()
