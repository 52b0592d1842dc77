"""Fit Splats as ComfyUI runs it: under inference mode, with tensors from sockets."""

import types

import pytest
import torch
from lathe.nodes.core import folders, memory, progress
from lathe.nodes.core.mesh import to_core_mesh
from lathe.nodes.core.splat import from_core_splat, to_core_splat
from lathe.nodes.splats import LatheFitSplats
from lathe.pipelines.cameras.orbits import orbit_cameras
from lathe.pipelines.data.mesh import Mesh
from lathe.pipelines.data.splats import Splats
from lathe.pipelines.splats.start import start_at_centre

CAMERAS = orbit_cameras(4, elevation=20)
WIDGETS = {
    "preset": "fast", "seed": 0, "steps": 3, "resolution": 32, "points": 300, "sh_degree": 0, "background": "#ffffff",
    "voxel_threshold": 0.6,
    **{f"{term}_weight": -1.0 for term in ("perceptual", "ms_ssim", "mask", "l1", "l2")},
}  # fmt: skip


def disc(count: int = 4, size: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """IMAGE and MASK of a red disc on white."""
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    mask = (axis[:, None] ** 2 + axis**2 < 0.3).float().expand(count, -1, -1).clone()
    return torch.where(mask[..., None] > 0, torch.tensor([1.0, 0, 0]), torch.ones(3)), mask


def ball(count: int = 50) -> Splats:
    return start_at_centre(count, 0)


@pytest.fixture(autouse=True)
def running_node(monkeypatch):
    folders.register_model_folder()
    monkeypatch.setattr(LatheFitSplats, "hidden", types.SimpleNamespace(unique_id="1"), raising=False)


def fit(images, masks=None, cameras=CAMERAS, **changes):
    with torch.inference_mode():
        given = [None if part is None else part.clone() for part in (images, masks)]
        before = [None if part is None else part.clone() for part in given]
        out = LatheFitSplats.execute(images=given[0], cameras=cameras, masks=given[1], **{**WIDGETS, **changes}).args
        assert all(a is None or torch.equal(a, b) for a, b in zip(given, before, strict=True))
    return out


def test_a_batch_comes_out_as_splats_previews_and_curves():
    images, masks = (torch.cat([part, part.flip(1)]) for part in disc())
    splat, preview, curve = fit(images, masks, sh_degree=1)
    first, second = from_core_splat(splat)
    assert len(first) > 0 and len(second) > 0 and splat.sh.shape[2] == 4
    assert preview.shape == (2, 2 * 32, 4 * 32, 3) and curve.shape[0] == 2
    assert not splat.positions.requires_grad
    whole = fit(images, masks, resolution=0)[1]
    assert whole.shape == (2, 2 * 40, 4 * 40, 3)


def test_an_alpha_channel_serves_as_masks_and_grey_and_half_precision_pictures_do():
    images, masks = disc()
    with_alpha = torch.cat([images, masks[..., None]], -1)
    a, b = (from_core_splat(out[0])[0] for out in (fit(with_alpha), fit(images, masks)))
    assert torch.equal(a.positions, b.positions)
    assert fit(images[..., 1:2], masks)[1].shape[-1] == 3
    assert len(from_core_splat(fit(images.half(), masks)[0])[0]) > 0


def test_whole_numbers_of_8_and_16_bits_are_the_same_pictures():
    images, masks = disc()
    with_alpha = torch.cat([images, masks[..., None]], -1)
    made = [from_core_splat(fit(given)[0])[0] for given in (
        with_alpha, (with_alpha * 255).to(torch.uint8), (with_alpha * 65535).to(torch.int32).to(torch.uint16))]  # fmt: skip
    assert all(torch.equal(one.positions, made[0].positions) and torch.equal(one.sh, made[0].sh) for one in made[1:])


def test_starts_from_a_mesh_from_voxels_and_from_splats():
    images, masks = disc()
    triangle = Mesh(torch.tensor([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0, 0.5, 0]]), torch.tensor([[0, 1, 2]]))
    volume = torch.zeros(1, 8, 8, 8)
    volume[:, 3:5, 3:5, 3:5] = 0.7
    cases = [
        (to_core_mesh([triangle]), 300), (types.SimpleNamespace(data=volume), 8), (to_core_splat([ball()]), 50),
    ]  # fmt: skip
    for start, count in cases:
        assert len(from_core_splat(fit(images, masks, start=start)[0])[0]) == count
    two = to_core_splat([ball(), ball()])
    with pytest.raises(ValueError, match="1 assets, but there are 2 to start from"):
        fit(images, masks, start=two)
    with pytest.raises(ValueError, match="MESH, a VOXEL or a SPLAT, not a str"):
        fit(images, masks, start="nothing")
    with pytest.raises(ValueError, match="Lower the threshold"):
        fit(images, masks, start=types.SimpleNamespace(data=volume), voxel_threshold=0.9)


def test_weights_of_the_preset_and_the_users():
    images, masks = disc()
    bright = [fit(images, masks, steps=40, **weights)[1] for weights in ({}, {"mask_weight": 0.0, "l1_weight": 0.0, "l2_weight": 100.0})]
    assert not torch.equal(*bright)
    none = {f"{term}_weight": 0.0 for term in ("perceptual", "ms_ssim", "mask", "l1", "l2")}
    with pytest.raises(ValueError, match="at least one loss"):
        fit(images, masks, **none)


def test_bad_input_is_said_in_words(monkeypatch):
    images, masks = disc()
    with pytest.raises(ValueError, match="3 images do not fit cameras of 4 views"):
        fit(images[:3], masks[:3])
    with pytest.raises(ValueError, match="all masks are empty"):
        fit(images, masks * 0)
    spoiled = images.clone()
    spoiled[1, 2, 3] = float("nan")
    with pytest.raises(ValueError, match="Image 1 holds pixels that are NaN"):
        fit(spoiled, masks)
    monkeypatch.setattr(memory, "memory_left", lambda *where: 2**30)
    frames = torch.zeros(1).expand(4, 4096, 4096, 3)
    with pytest.raises(ValueError, match=r"4096 x 4096 pixels takes about \d+\.\d GiB; 1\.0 GiB are free. Set `resolution` to 2048"):
        LatheFitSplats.execute(images=frames, cameras=CAMERAS, **{**WIDGETS, "resolution": 0})


def test_cancel_gives_the_last_good_state_of_the_last_asset(monkeypatch):
    images, masks = disc()

    def cancel_at(step_of_all):
        def tick(step, total, preview=None):
            if (step, total) == step_of_all:
                raise progress.mm.InterruptProcessingException

        monkeypatch.setattr(progress, "tick_for", lambda node: tick)

    try:
        cancel_at((2, 3))
        stopped = from_core_splat(fit(images, masks)[0])[0]
        assert progress.mm.interrupt_processing
        progress.mm.interrupt_current_processing(False)
        cancel_at(None)
        whole = from_core_splat(fit(images, masks, steps=3)[0])[0]
        assert len(stopped) == len(whole) and not torch.equal(stopped.positions, whole.positions)
        cancel_at((2, 6))  # of the first asset of two
        with pytest.raises(progress.mm.InterruptProcessingException):
            fit(torch.cat([images, images]), torch.cat([masks, masks]))
    finally:
        progress.mm.interrupt_current_processing(False)


def test_cancel_before_the_first_step_ends_the_node(monkeypatch):
    images, masks = disc()
    ticks = []

    def tick(step, total, preview=None):
        ticks.append((step, total))
        if step == 3:
            raise progress.mm.InterruptProcessingException

    monkeypatch.setattr(progress, "tick_for", lambda node: tick)
    with pytest.raises(progress.mm.InterruptProcessingException):
        fit(images, masks, steps=50)
    assert ticks == [(1, 16), (2, 16), (3, 16)]
