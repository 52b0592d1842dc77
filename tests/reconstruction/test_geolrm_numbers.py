"""GeoLRM's stages where numbers could go wrong: points in a camera's own plane, overflow, damaged masks, turned Gaussians."""

import logging
from dataclasses import replace

import pytest
import torch
from data.tiny_geolrm import tiny_model
from lathe.pipelines.cameras.orbits import posed_cameras
from lathe.pipelines.nets.geolrm import FAR, project
from lathe.pipelines.ops.coordinate_frames.geolrm import from_geolrm
from lathe.pipelines.ops.quaternions import rotation_matrices
from lathe.pipelines.reconstruction.geolrm import attention_memory, calibration, detect_attention, stages
from lathe.pipelines.reconstruction.geolrm.views import check_views

THREE = posed_cameras([0, 90, 180], [0, 0, 0], 2.0, 60.0)


def pictures(count=3):
    return torch.rand(count, 3, 112, 112, generator=torch.Generator().manual_seed(0))


def overflowing(part):
    """The tiny model with a network whose half-precision numbers overflow."""
    model = tiny_model()
    forward = getattr(model, part).transformer.layers[0].feed_forward
    forward.w1.weight.mul_(1e3)
    forward.w2.weight.mul_(1e5)
    return model


def test_a_camera_whose_plane_holds_cells_spoils_nothing():
    """Distances 0.5, 2 and 2 of the mean 1.5: the first camera stands on the face of the networks' cube, in the plane of its cells."""
    c2w = THREE.c2w.clone()
    c2w[0, :3, 3] *= 0.25
    cameras = replace(THREE, c2w=c2w)
    occupancy = stages.propose(tiny_model(), pictures(), None, cameras)
    assert torch.isfinite(occupancy).all()
    (splats,) = stages.reconstruct(tiny_model(), torch.ones_like(occupancy), pictures(), None, cameras, tokens=4096)
    assert len(splats) > 1000
    K = torch.tensor([[[1.0, 0, 0.5], [0, 1.0, 0.5], [0, 0, 1]]])
    points = torch.tensor([[0.0, 0, 0], [0.3, -0.3, 0], [0.0, 0, -1]])
    uv = project(points, torch.eye(4)[None], K)[0]
    assert torch.isfinite(uv).all() and bool((uv[:2].abs() == FAR).all()) and uv[2].tolist() == [0.5, 0.5]


def test_numbers_that_overflow_are_told_with_what_to_do():
    full = torch.ones(1, 16, 16, 16)
    with pytest.raises(ValueError, match="NaN or infinite numbers in float16: choose fp32 or bf16 as precision in Load GeoLRM"):
        stages.propose(overflowing("proposal"), pictures(), None, THREE, dtype=torch.float16)
    with pytest.raises(stages.NotFinite, match="float16"):
        stages.reconstruct(overflowing("reconstruction"), full, pictures(), None, THREE, tokens=10, dtype=torch.float16)
    broken = tiny_model()
    broken.reconstruction.transformer.norm.weight[0] = torch.nan
    with pytest.raises(stages.NotFinite, match="in float32: the file is damaged, or expects another form"):
        stages.reconstruct(broken, full, pictures(), None, THREE, tokens=10)


def test_auto_counts_a_form_that_overflows_as_none(monkeypatch):
    seen = calibration.calibration_views()
    small = replace(seen, images=seen.images[:, :, ::4, ::4], masks=seen.masks[:, :, ::4, ::4])
    monkeypatch.setattr(detect_attention, "calibration_views", lambda: small)
    for part, choose in (("proposal", detect_attention.choose_proposal), ("reconstruction", detect_attention.choose_reconstruction)):
        verdict = choose(overflowing(part), dtype=torch.float16)
        assert not verdict.decided and verdict.chosen == attention_memory.CANDIDATES[0]
        assert verdict.why.count(detect_attention.OVERFLOWN) == 3


def test_gaussians_are_turned_with_their_places():
    """A Gaussian's axes in the world are the images of its axes in the networks' frame."""
    generator = torch.Generator().manual_seed(0)
    quaternions = torch.nn.functional.normalize(torch.randn(20, 4, generator=generator), dim=-1)
    position, opacity, scale, color = (torch.rand(20, n, generator=generator) for n in (3, 1, 3, 3))
    splats = stages.to_splats(torch.cat([position, 0.1 + 0.9 * opacity, scale + 0.01, quaternions, color], dim=-1), 2.0)
    axes = rotation_matrices(quaternions).transpose(1, 2)  # rows: a Gaussian's axes
    assert torch.allclose(rotation_matrices(splats.rotations).transpose(1, 2), from_geolrm(axes, 1.0), atol=1e-5)
    assert torch.allclose(splats.positions, from_geolrm(position, 2.0)) and torch.allclose(splats.scales, 2 * scale + 0.02)


def test_masks_and_pictures_that_show_nothing(caplog):
    masks = torch.ones(3, 1, 112, 112)
    damaged = masks.clone()
    damaged[1, 0, 5, 5] = torch.nan
    with pytest.raises(ValueError, match="masks hold NaN"):
        check_views(pictures(), damaged, THREE)
    with pytest.raises(ValueError, match="views of asset 2 show one flat colour"):
        check_views(torch.cat([pictures(), torch.ones(3, 3, 112, 112)]), None, THREE)
    masks[1] = 0
    with caplog.at_level(logging.WARNING):
        stages.propose(tiny_model(), pictures(), masks, THREE)
    assert f"1 of 3 masks are empty: {THREE.names[1]}" in caplog.text
