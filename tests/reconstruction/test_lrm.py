"""The reconstruction stage: cameras, batches, backgrounds, precision, memory, and inputs that cannot work."""

from dataclasses import replace

import pytest
import torch
from data.seeded_weights import seeded_input
from data.tiny_lrm import TINY, golden, golden_images, tiny_net, worst
from lathe.pipelines.data.cameras import Cameras
from lathe.pipelines.nets.triplane_field import TriplaneField
from lathe.pipelines.nets.triplane_lrm import PUBLISHED, LRMConfig, TriplaneLRM
from lathe.pipelines.nets.triplane_render import Draws, render_rays_as_trained
from lathe.pipelines.ops.camera_math import intrinsics, orbit
from lathe.pipelines.ops.coordinate_frames.instantmesh import from_triplane, triplane_cameras
from lathe.pipelines.reconstruction.lrm import LRM, estimate_memory, reconstruct
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode


def six_cameras():
    """Zero123++ v1.2's."""
    azimuths, elevations = torch.arange(30.0, 360, 60), torch.tensor([20.0, -10.0]).repeat(3)
    return Cameras(orbit(azimuths, elevations, 4.0), intrinsics(30.0, 6), tuple("abcdef"))


@pytest.fixture(scope="module")
def small():
    """The tiny mesh network, told that its views have 64 pixels."""
    net = tiny_net("mesh")
    net.config = replace(TINY, image_size=64)
    return LRM(net, "tiny")


def views(n, size=64):
    return seeded_input(f"lrm views {n}", (n, 3, size, size), "uniform")


def test_our_cameras_are_the_published_ones_in_the_networks_axes():
    assert worst(triplane_cameras(six_cameras()), golden("mesh")["input_cameras"][0]) < 1e-6
    shared, own = six_cameras(), six_cameras()
    both = Cameras(torch.stack([shared.c2w, own.c2w]), torch.stack([shared.K, own.K]), shared.names)
    assert torch.equal(triplane_cameras(both)[1], triplane_cameras(shared))


def test_pictures_to_the_published_field():
    expected = golden("mesh")
    (field,) = reconstruct(LRM(tiny_net("mesh"), "tiny"), golden_images()[0], None, six_cameras())
    assert worst(field.planes, expected["planes"][0]) < 2e-5
    assert worst(field.geometry(from_triplane(expected["grid_verts"])), expected["sdf_raw"][0, :, 0]) < 2e-5
    assert worst(field.color(from_triplane(expected["points1000"][0])), expected["tex_at_points"][0].clamp(0, 1)) < 2e-5


def test_two_assets_give_what_two_runs_give(small):
    images, cameras = views(12), six_cameras()
    turned = Cameras(torch.stack([cameras.c2w, cameras.c2w.roll(1, 0)]), torch.stack([cameras.K] * 2), cameras.names)
    for both in (cameras, turned):
        fields = reconstruct(small, images, None, both)
        assert len(fields) == 2
        for i, field in enumerate(fields):
            (alone,) = reconstruct(small, images[6 * i : 6 * i + 6], None, both.of_asset(i))
            assert torch.equal(field.planes, alone.planes)
    assert not torch.equal(fields[0].planes, fields[1].planes)


def test_inputs_are_left_alone_and_the_field_is_independent(small):
    images, masks, cameras = views(6, 80), (views(6, 80)[:, :1] > 0.5).float(), six_cameras()
    given = (images, masks, cameras.c2w, cameras.K, *small.net.state_dict().values())
    before = [t.clone() for t in given]
    (field,) = reconstruct(small, images, masks, cameras)
    assert all(torch.equal(a, b) for a, b in zip(before, given, strict=True))
    own, shared = next(field.decoder.parameters()), next(small.net.decoder.parameters())
    assert own.data_ptr() != shared.data_ptr() and not own.requires_grad and not field.planes.requires_grad


def test_masks_put_the_object_on_the_networks_background(small):
    images, masks = views(6), torch.zeros(6, 1, 64, 64)
    masks[..., 16:48, 20:40] = 1
    on_white = images * masks + (1 - masks)
    (masked,) = reconstruct(small, images, masks, six_cameras())
    (plain,) = reconstruct(small, on_white, None, six_cameras())
    assert torch.equal(masked.planes, plain.planes)
    (grey,) = reconstruct(replace(small, background=(0.5, 0.5, 0.5)), images, masks, six_cameras())
    assert worst(grey.planes, plain.planes) > 1e-2


@pytest.mark.parametrize("height, width", [(1, 1), (7, 200), (500, 500)])
def test_pictures_of_any_size_are_fitted(small, height, width):
    images = seeded_input("any size", (6, 3, height, width), "uniform")
    (field,) = reconstruct(small, images, torch.ones(6, 1, height, width), six_cameras())
    assert torch.isfinite(field.planes).all()


def test_the_networks_own_size_is_not_resampled(small):
    seen = []
    encoder = small.net.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    reconstruct(small, views(6), None, six_cameras())
    encoder.remove()
    assert torch.equal(seen[0], views(6))


def test_progress_counts_all_layers_and_cancel_comes_through(small):
    seen = []
    reconstruct(small, views(12), None, six_cameras(), tick=lambda step, total, preview=None: seen.append((step, total)))
    assert seen == [(i, 8) for i in range(1, 9)]

    class Cancelled(Exception):
        pass

    def cancel(step, total, preview=None):
        if step == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        reconstruct(small, views(12), None, six_cameras(), tick=cancel)


def test_half_precision_views_stay_above_45_db():
    """A sharpened density field (opaque and empty parts), rendered from the published view."""
    nerf = golden("nerf")
    origins, directions = from_triplane(nerf["ray_o"][0]), from_triplane(nerf["ray_d"][0])
    pictures = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        net = tiny_net("nerf").cast_trunk(dtype)
        net.decoder.net.linear(-1).weight[0] *= 40
        (field,) = reconstruct(LRM(net, "tiny"), golden_images()[0], None, six_cameras())
        pictures[dtype] = render_rays_as_trained(field, origins, directions, Draws.even(len(origins), 32))[0]
    assert worst(pictures[torch.float32].T, nerf["x40_det_images_rgb"][0, 0].flatten(1)) < 0.2  # other sample count, same scene
    for dtype, least in ((torch.bfloat16, 45), (torch.float16, 60)):
        psnr = -10 * torch.log10((pictures[dtype] - pictures[torch.float32]).square().mean())
        assert psnr > least


# ---- inputs that cannot work ------------------------------------------------------------------------------------------


def test_bad_inputs_are_said_before_any_work(small):
    cameras = six_cameras()
    with pytest.raises(ValueError, match="7 images do not fit cameras of 6 views"):
        reconstruct(small, views(7), None, cameras)
    with pytest.raises(ValueError, match=r"shape \(N, 3, H, W\)"):
        reconstruct(small, views(6)[:, :1], None, cameras)
    broken = views(6)
    broken[2, 1, 3, 3] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite pixels"):
        reconstruct(small, broken, None, cameras)
    with pytest.raises(ValueError, match=r"Masks must have shape \(6, 1, 64, 64\)"):
        reconstruct(small, views(6), torch.ones(6, 1, 32, 32), cameras)
    masks = torch.ones(12, 1, 64, 64)
    masks[6:] = 0
    with pytest.raises(ValueError, match="All 6 masks of asset 2 are empty"):
        reconstruct(small, views(12), masks, cameras)
    with pytest.raises(ValueError, match="asset 1 show one flat colour"):
        reconstruct(small, torch.ones(6, 3, 64, 64), None, cameras)
    with pytest.raises(ValueError, match="move it there first"):
        reconstruct(small, views(6), None, cameras, device="meta")


# ---- memory ----------------------------------------------------------------------------------------------------------


class PeakBytes(TorchDispatchMode):
    """Counts the storages alive at once, without those of the tensors given."""

    def __init__(self, given):
        super().__init__()
        self.given = {tensor.untyped_storage()._cdata for tensor in given}
        self.alive, self.peak = {}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.given:
                    self.alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.alive = {key: (ref, size) for key, (ref, size) in self.alive.items() if not ref.expired()}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    "variant, n_views", [("instant_mesh_base", 6), ("instant_mesh_base", 21), ("instant_nerf_large", 6), ("instant_mesh_large", 1)]
)
def test_the_memory_estimate_is_honest(variant, n_views, dtype):
    config: LRMConfig = PUBLISHED[variant]
    with torch.device("meta"):
        net = TriplaneLRM(config).cast_trunk(dtype).requires_grad_(False)
        images = torch.empty(1, n_views, 3, config.image_size, config.image_size)
        cameras = torch.empty(1, n_views, 16)
    with PeakBytes([*net.parameters()]) as counter:
        net.planes(images, cameras, attention=lambda q, k, v: torch.empty_like(q))
    used = counter.peak
    estimate = estimate_memory(config, n_views, dtype)
    assert used <= estimate <= 2 * used, (used >> 20, estimate >> 20)


def test_the_fields_of_a_batch_rest_on_the_cpu(small):
    fields = reconstruct(small, views(12), None, six_cameras())
    assert all(isinstance(field, TriplaneField) and field.planes.device.type == "cpu" for field in fields)
