"""Every recipe of the mini models on two real objects: a step of each objective reaches all weights, and the chain fits together."""

import sys

import numpy as np
import pytest
import torch
from lathe.pipelines.nets.attention import explicit_attention
from lathe.pipelines.nets.mini_heads import density_to_sdf_
from lathe.pipelines.nets.mini_lrm import MiniLRM
from lathe.pipelines.nets.mini_relief import ReliefNet
from lathe.pipelines.nets.mini_views import PatchCodec
from lathe.pipelines.ops.visual_hull import sample_views
from lathe.training import (
    guide_views,
    imagine_views,
    lrm_batches,
    render_dataset,
    rendered,
    train_lrm,
    train_lrm_mesh,
    train_relief,
    train_views,
)
from lathe.training.objects import objects_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two bench objects rendered as the training set is, with guides and imagined views of untrained networks."""
    out = tmp_path_factory.mktemp("views")
    render_dataset.render_split(objects_folder(None), ["scopia/vase3", "blendswap-cc-0/chicken"], out, 1)
    torch.manual_seed(0)
    relief, views = ReliefNet(), train_views.MiniViews(PatchCodec(train_views.PATCH, train_views.UNET["out_channels"]))
    for name, module in (("relief", relief), ("views", views)):
        (out / name).mkdir()
        torch.save({"ema": module.state_dict()}, out / name / "checkpoint.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["guide_views", "--data", str(out), "--run", str(out / "relief")])
        guide_views.main()
        patch.setattr(sys, "argv", ["imagine_views", "--data", str(out), "--run", str(out / "views")])
        imagine_views.main()
    return out


def one_step(module, objective, seed=0):
    loss, parts = objective(module, torch.Generator().manual_seed(seed))
    loss.backward()
    assert torch.isfinite(loss) and all(np.isfinite(value) for value in parts.values())
    idle = [name for name, p in module.named_parameters() if p.grad is None]
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)
    return loss, idle


def test_targets_of_a_mirrored_query_are_mirror_images(folder):
    data = rendered.RenderedObjects(folder)
    assert len(data) == 2
    plain, mirrored = data.targets(3), data.targets(3, mirrored=True)
    azimuth = lambda view: round(float(data.azimuths[view]))  # noqa: E731
    assert [azimuth(v) for v in plain] == [120, 180, 240, 300, 0, 60]
    assert [azimuth(v) for v in mirrored] == [60, 0, 300, 240, 180, 120]
    heights = [float(data.c2w[0, v, 1, 3]) for v in plain]
    assert heights == pytest.approx([float(data.c2w[0, v, 1, 3]) for v in mirrored])
    assert all(h > 0 for h in heights[::2]) and all(h < 0 for h in heights[1::2])


@pytest.mark.parametrize("mode", lrm_batches.MODES)
def test_a_samples_pictures_and_cameras_agree(folder, mode, monkeypatch):
    """The surface in the target's depth map projects into the silhouettes of the input views."""
    monkeypatch.setattr(lrm_batches, "_loosely_placed", lambda cameras, *_: cameras)
    data = rendered.RenderedObjects(folder)
    data.imagined = None
    for seed in range(4):
        sample = lrm_batches.draw(data, torch.Generator().manual_seed(seed), mode)
        cameras = sample.target_cameras
        depth = sample.target_depths[0, 0]
        origins, directions = lrm_batches.camera_math.rays(cameras.c2w[:1], cameras.K[:1], 64, 64)
        points = (origins[0] + directions[0] * depth[..., None])[depth > 0]
        inside = sample_views(points, sample.masks, sample.cameras.c2w, sample.cameras.K)[..., 0]
        share = (inside > 0.3).float().mean(1)
        # the blurred silhouettes of imagined views lose thin parts; the picture, last of them, is sharp
        assert (share if mode == "true" else share[-1:]).min() > 0.85


def test_relief_recipe(folder):
    data = rendered.RenderedObjects(folder)
    _, idle = one_step(ReliefNet(), train_relief.Objective(data))
    assert not idle
    scores = train_relief.Evaluation(data)(ReliefNet().eval())
    assert set(scores) == {"test_front", "test_back", "test_back_color", "test_elevation"}


def test_a_lessons_relief_lies_on_the_object(folder):
    data = rendered.RenderedObjects(folder)
    lesson = train_relief.lesson(data, 0, 32, 0.85)
    front, back = lesson.front[lesson.has_front], lesson.back[lesson.has_back]
    assert lesson.has_front.float().mean() > 0.1
    assert front.abs().max() < 1.3 and back.abs().max() < 1.3
    assert (lesson.back - lesson.front)[lesson.has_back].min() > -1e-3
    rows = torch.nonzero((lesson.mask[0] > 0.5).any(1)).flatten()
    columns = torch.nonzero((lesson.mask[0] > 0.5).any(0)).flatten()
    assert max(len(rows), len(columns)) == pytest.approx(0.85 * 64, abs=2)


def test_views_recipe(folder):
    data = train_views.Guided(folder)
    query, guide, views = data.draw(2, torch.Generator().manual_seed(0))
    assert query.shape == (2, 3, 64, 64) and guide.shape == (2, 6, 4, 64, 64) and views.shape == (2, 6, 3, 64, 64)
    codec = PatchCodec.fit(views.flatten(0, 1), train_views.PATCH, train_views.UNET["out_channels"])
    _, idle = one_step(train_views.MiniViews(codec), train_views.Objective(data, 0.9))
    assert not [name for name in idle if "no_picture" not in name]
    grid = train_views.to_grid(views)
    assert torch.equal(train_views.from_grid(grid), views)
    assert torch.equal(grid[:, :, 64:128, 64:], views[:, 3])


def test_reconstruction_recipe_in_both_stages(folder):
    data = rendered.RenderedObjects(folder)
    torch.manual_seed(0)
    net = MiniLRM()
    net.attention = explicit_attention
    _, idle = one_step(net, train_lrm.Objective(data))
    assert all("net_deformation" in name or "net_weight" in name for name in idle)
    net.zero_grad(set_to_none=True)
    density_to_sdf_(net.synthesizer.decoder)
    with torch.no_grad():  # an untrained field is thin air: give it a surface
        net.synthesizer.decoder.net_sdf.linear(-1).bias.fill_(0.0)
    _, idle = one_step(net, train_lrm_mesh.Objective(data))
    assert not idle


def test_a_few_steps_lower_the_reconstruction_loss(folder):
    objective = train_lrm.Objective(rendered.RenderedObjects(folder))
    torch.manual_seed(0)
    net = MiniLRM()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    losses = []
    for _ in range(12):
        loss, _ = objective(net, torch.Generator().manual_seed(5))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
