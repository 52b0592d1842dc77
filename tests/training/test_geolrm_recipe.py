"""GeoLRM's recipe on two real objects: occupancy from depth maps, samples whose parts agree, both objectives, the exported file."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from lathe.pipelines.nets.geolrm import cube_points, project
from lathe.pipelines.reconstruction.geolrm.stages import propose, reconstruct
from lathe.pipelines.weights.geolrm import load_geolrm
from lathe.training import render_dataset, rendered
from lathe.training.geolrm import batches, export, fit_calibration, losses, occupancy, sizes, train_proposal, train_reconstruction
from lathe.training.lrm_batches import posed
from lathe.training.objects import objects_folder

TINY = sizes.SIZES["tiny"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp("views")
    render_dataset.render_split(objects_folder(None), ["scopia/vase3", "blendswap-cc-0/chicken"], out, 1)
    return rendered.RenderedObjects(out)


def test_depth_maps_become_points_of_the_object(data):
    """The points lie where the renderer saw surface, in the world's frame."""
    depths = torch.from_numpy(data.depth[1, :32].astype("float32"))[:, None]
    cameras = posed(torch.from_numpy(data.c2w[1, :32].copy()))
    points = occupancy.surface_points(depths, cameras.c2w, cameras.K)
    seen = torch.from_numpy(data.points[1].astype("float32"))
    distances = torch.cdist(seen[::64], points).amin(dim=1)
    assert len(points) == int((depths > 0).sum())
    assert float(distances.median()) < 0.02 and float(torch.quantile(distances, 0.95)) < 0.06  # a pixel is 0.033 wide there


def test_cells_are_the_grid_points_nearest_to_the_surface():
    grid = 16
    points = cube_points(grid)[[0, 37, 4095]] + 0.4 / (grid - 1) * torch.tensor([[1.0, 0, 0], [0, -1, 0], [0, 0, -1]])
    cells = occupancy.occupied_cells(torch.cat([points, torch.tensor([[0.6, 0, 0]])]), grid)
    assert torch.nonzero(cells.flatten()).flatten().tolist() == [0, 37, 4095]  # and what is outside the cube is nowhere


def test_proposal_loss_is_least_for_the_truth():
    truth = torch.rand(8, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.1
    right, wrong, empty = ((truth.float() * 2 - 1) * 12, (1 - truth.float() * 2) * 12, torch.full((8, 8, 8), -12.0))
    values = [float(occupancy.proposal_loss(logits, truth)[0]) for logits in (right, empty, wrong)]
    assert values[0] < 1e-3 and values[0] < values[1] < values[2]
    assert occupancy.overlap(right, truth)[:2] == (1.0, 1.0) and occupancy.overlap(empty, truth) == (0.0, 0.0, 0)


@pytest.mark.parametrize("seed", range(6))
def test_a_sample_agrees_with_itself(data, seed):
    """Turned and mirrored or not, the surface lies on the object in every view that goes in and in every one that judges."""
    sample = batches.draw(data, torch.Generator().manual_seed(seed), 112, 3, 2)
    fx, fy, cx, cy = sample.cameras.K.unbind(-1)
    K = torch.zeros(len(fx), 3, 3)
    K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2], K[:, 2, 2] = fx, fy, 1 - cx, cy, 1
    seen = (sample.images < 0.97).any(dim=1, keepdim=True).float()
    for c2w, intrinsics, masks in ((sample.c2w, sample.K, seen), (sample.cameras.c2w, K, sample.masks)):
        uv = project(sample.surface, c2w, intrinsics)
        found = torch.nn.functional.grid_sample(masks, (uv * 2 - 1)[:, :, None], align_corners=False)
        assert float((found > 0.2).float().mean()) > 0.97
    assert torch.linalg.det(sample.c2w[:, :3, :3]).allclose(torch.ones(len(sample.c2w)), atol=1e-4)


def test_depth_loss_forgives_edges():
    flat, edged = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    edged[..., 4:] = 1
    truth = torch.ones(1, 1, 8, 8)
    drawn = truth + 0.5
    everywhere = float(losses.depth_loss(drawn, truth, flat))
    assert everywhere == pytest.approx(np.log(1.5), rel=1e-5)
    assert float(losses.depth_loss(drawn, truth, edged)) == pytest.approx(np.log(1.5) * (56 + 8 / np.e) / 64, rel=1e-5)


@pytest.mark.parametrize("form", ["tokens", "heads"])
def test_objectives_reach_their_weights(data, form):
    torch.manual_seed(0)
    proposal, reconstruction = sizes.new_proposal(TINY.proposal), sizes.new_reconstruction(TINY.reconstruction)
    first = train_proposal.Objective(data, TINY.view_size, form)
    second = train_reconstruction.Objective(data, proposal.eval().requires_grad_(False), TINY, form)
    for net, objective in ((sizes.new_proposal(TINY.proposal), first), (reconstruction, second)):
        loss, parts = objective(net.train(), torch.Generator().manual_seed(1))
        loss.backward()
        assert torch.isfinite(loss) and all(np.isfinite(value) for value in parts.values())
        idle = {name for name, p in net.named_parameters() if p.grad is None}
        assert idle == {"encoder.model.embeddings.mask_token"}  # the published file has it, and nothing reads it


def test_a_colour_out_of_range_can_come_back():
    """The head cuts colours off; where that also cut their gradients, a fifth of them stayed black or white for ever."""
    torch.manual_seed(0)
    head = sizes.new_reconstruction(TINY.reconstruction).renderer
    with torch.no_grad():
        head.latent_decoder[2].bias.unflatten(0, (-1, 14))[:, 11:] = torch.tensor([2.0, -2.0, 0.1])
    colors = head(torch.zeros(4, TINY.reconstruction.dim), torch.zeros(4, 3))[:, 11:]
    assert colors.min() == 0 and colors.max() == 1
    colors.sum().backward()
    assert (head.latent_decoder[2].bias.grad.unflatten(0, (-1, 14))[:, 11:] == 4).all()


def test_two_runs_become_a_file_that_loads(data, tmp_path, monkeypatch):
    torch.manual_seed(0)
    nets = {"proposal": sizes.new_proposal(TINY.proposal), "reconstruction": sizes.new_reconstruction(TINY.reconstruction)}
    for name, net in nets.items():
        (tmp_path / name).mkdir()
        torch.save({"ema": net.state_dict()}, tmp_path / name / "checkpoint.pt")
    out = tmp_path / "tiny.safetensors"
    command = ["export", "--proposal", str(tmp_path / "proposal"), "--reconstruction", str(tmp_path / "reconstruction"), "--size", "tiny"]
    monkeypatch.setattr(sys, "argv", [*command, "--form", "heads", "--out", str(out)])
    export.main()
    model = load_geolrm(out)
    assert (model.propose_as.form, model.reconstruct_as.form, model.view_size) == ("heads", "heads", TINY.view_size)
    assert model.proposal.config == TINY.proposal
    assert replace(model.reconstruction.config, token_cells=TINY.reconstruction.token_cells) == TINY.reconstruction  # unused
    images, masks = data.on_white(0, [0, 4, 8])
    cameras = posed(torch.from_numpy(data.c2w[0, [0, 4, 8]].copy()))
    voxels = propose(model, images, masks, cameras)
    assert voxels.shape == (1, 16, 16, 16)
    splats = reconstruct(model, torch.ones_like(voxels), images, masks, cameras, tokens=64)[0]
    assert 0 < len(splats) <= 64 * TINY.reconstruction.gaussians


def test_the_calibration_object_is_learnt_by_heart_into_a_file(tmp_path, monkeypatch):
    """The script that makes the networks of test_geolrm_choose_attention.py, for two steps from a proposal that was not trained."""
    torch.manual_seed(0)
    (tmp_path / "proposal").mkdir()
    torch.save({"ema": sizes.new_proposal(TINY.proposal).state_dict()}, tmp_path / "proposal" / "checkpoint.pt")
    command = ["fit_calibration", "--proposal", str(tmp_path / "proposal"), "--form", "heads", "--steps", "2"]
    monkeypatch.setattr(sys, "argv", [*command, "--out", str(tmp_path / "heads.safetensors")])
    fit_calibration.main()
    model = load_geolrm(tmp_path / "heads.safetensors")
    assert model.proposal is None and model.reconstruct_as.form == "heads"
