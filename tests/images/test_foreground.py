"""Finding, cutting out and centring the object of a picture; masks of views."""

import resource
import sys
import time
import types

import numpy as np
import pytest
import torch
from lathe.pipelines.images import background_removal, foreground

RED = torch.tensor([0.9, 0.1, 0.1])


def coverage(height, width, cy, cx, ry, rx):
    """An ellipse's exact-ish share of each pixel: 8 x 8 samples a pixel."""
    y = (torch.arange(height * 8) + 0.5) / 8
    x = (torch.arange(width * 8) + 0.5) / 8
    inside = ((y[:, None] - cy) / ry) ** 2 + ((x[None] - cx) / rx) ** 2 <= 1
    return torch.nn.functional.avg_pool2d(inside.float()[None, None], 8)[0, 0]


def disc(size=200, background=(1.0, 1.0, 1.0), center=(70, 120), radii=(40, 25), noise=0.0):
    share = coverage(size, size, *center, *radii)
    image = share * RED.view(3, 1, 1) + (1 - share) * torch.tensor(background).view(3, 1, 1)
    image = image + noise * torch.from_numpy(np.random.RandomState(0).standard_normal(image.shape)).float()
    return image.clamp(0, 1), share


def box(mask):
    rows, columns = ((mask.squeeze() > 0.5).any(axis).nonzero().flatten() for axis in (1, 0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


# ---- recentring ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [64, 320, 512])
@pytest.mark.parametrize("ratio", [0.5, 0.85, 1.0])
def test_the_longer_side_takes_its_ratio_and_the_object_is_centred(size, ratio):
    image, share = disc()
    out, mask = foreground.prepare(image, share, size=size, foreground_ratio=ratio)
    assert out.shape == (3, size, size) and mask.shape == (1, size, size)
    top, bottom, left, right = box(mask)
    assert abs((bottom - top) - ratio * size) <= 2
    assert abs((right - left) - ratio * size * 25 / 40) <= 2
    assert abs(top + bottom - size) <= 3 and abs(left + right - size) <= 3


@pytest.mark.parametrize("background", [(1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.1, 0.7, 0.3)])
def test_the_outline_has_no_fringe_of_the_old_background(background):
    """A red disc cut from saturated blue: every pixel must lie on the line between red and the new background."""
    image, _ = disc(background=(0.0, 0.0, 1.0))
    straight, share = disc(background=(0.0, 0.0, 1.0))
    straight = torch.where(share > 0, RED.view(3, 1, 1), straight)  # straight colours, as an RGBA file has them
    target = torch.tensor(background).view(3, 1, 1)
    for picture, mask in ((straight, share), (image, None)):
        out, soft = foreground.prepare(picture, mask, size=160, background=background)
        line = soft * RED.view(3, 1, 1) + (1 - soft) * target
        assert (out - line).abs().max() < 0.06
        assert (out[:, 0] == target[:, 0]).all()


def test_alpha_is_used_where_no_mask_is_wired_and_equals_the_same_mask():
    image, share = disc()
    wired = foreground.prepare(image, share, size=128)
    own = foreground.prepare(torch.cat([image, share[None]]), None, size=128)
    assert torch.equal(wired[0], own[0]) and torch.equal(wired[1], own[1])


def test_an_opaque_alpha_says_nothing():
    image, _ = disc()
    opaque = torch.cat([image, torch.ones(1, 200, 200)])
    assert torch.equal(foreground.prepare(opaque, size=64)[1], foreground.prepare(image, size=64)[1])


def test_background_removal_is_used_before_the_key():
    image, share = disc()
    out, mask = foreground.prepare(image, size=128, remover=lambda picture: share)
    assert torch.equal(mask, foreground.prepare(image, share, size=128)[1])


def test_inputs_are_not_written_to():
    image, share = disc()
    before = image.clone(), share.clone()
    foreground.prepare(image, share, size=64)
    foreground.prepare(image, size=64)
    assert torch.equal(image, before[0]) and torch.equal(share, before[1])


def test_grey_uint8_uint16_and_half_pictures_give_the_same_object():
    image, share = disc()
    expected = foreground.prepare(image, share, size=64)[0]
    for other in ((image * 255).round().byte(), (image * 65535).round().to(torch.uint16), image.half()):
        assert (foreground.prepare(other, share, size=64)[0] - expected).abs().max() < 0.005
    grey = image.mean(0)
    assert torch.equal(foreground.prepare(grey, share, size=64)[0], foreground.prepare(grey[None].expand(3, -1, -1), share, size=64)[0])
    with_alpha = foreground.prepare(torch.stack([grey, share]), size=64)
    assert torch.equal(with_alpha[0], foreground.prepare(grey, share, size=64)[0])


def test_one_pixel():
    out, mask = foreground.prepare(torch.full((3, 1, 1), 0.25), torch.ones(1, 1), size=100)
    top, bottom, left, right = box(mask)
    assert (bottom - top, right - left) == (85, 85)
    assert (out[:, 50, 50] == 0.25).all() and (out[:, 0, 0] == 1).all()
    with pytest.raises(ValueError, match="(?i)no object found"):
        foreground.prepare(torch.full((3, 1, 1), 0.25), size=100)


def test_a_mask_of_the_same_proportions_is_resized():
    image, share = disc()
    half = torch.nn.functional.avg_pool2d(share[None], 2)[0]
    same, own = (box(foreground.prepare(image, m, size=128)[1]) for m in (half, share))
    assert max(abs(a - b) for a, b in zip(same, own, strict=True)) <= 3


@pytest.mark.parametrize("wired", [True, False])
def test_a_huge_picture_takes_bounded_time_and_memory(wired):
    image = torch.ones(3, 8192, 8192)
    image[:, 2000:7000, 1000:5000] = RED.view(3, 1, 1)
    mask = (image[1] < 0.5).float() if wired else None
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    out, soft = foreground.prepare(image, mask, size=320)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    unit = 1024 if sys.platform != "darwin" else 1
    assert grown * unit < 1.5 * 2**30
    assert time.monotonic() - start < 60
    top, bottom, left, right = box(soft)
    assert abs(bottom - top - 272) <= 2 and abs(right - left - 272 * 0.8) <= 2
    assert (out[:, 160, 160] - RED).abs().max() < 0.01


def test_a_small_object_in_a_huge_picture_keeps_its_detail():
    image = torch.ones(3, 3000, 3000)
    stripes = (torch.arange(300) // 4 % 2).float() * 0.8
    image[:, 1000:1300, 2000:2300] = stripes[None, None]
    out, _ = foreground.prepare(image, size=320, foreground_ratio=0.85)
    inner = out[0, 150:170, 60:260]
    assert inner.min() < 0.1 and inner.max() > 0.7


# ---- the key ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("background", [(1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.2, 0.6, 0.3)])
@pytest.mark.parametrize("noise", [0.0, 0.01, 0.02])
def test_the_key_finds_the_soft_outline_on_a_noisy_plain_background(background, noise):
    image, share = disc(background=background, noise=noise)
    got = foreground.key_plain_background(image)
    assert (got - share).abs().mean() < 0.01
    assert ((got > 0.5) == (share > 0.5)).float().mean() > 0.995
    edge = (share > 0.05) & (share < 0.95)
    assert (got - share)[edge].abs().mean() < 0.15


def test_a_patch_of_the_backgrounds_colour_inside_the_object_stays():
    image, share = disc()
    image[:, 60:80, 115:125] = 1
    assert (foreground.key_plain_background(image)[62:78, 117:123] == 1).all()
    out, _ = foreground.prepare(image, size=200, background=(0.0, 0.0, 1.0))
    assert (out[:, 100, 100] == 1).all()


def test_specks_do_not_widen_the_box():
    image, share = disc()
    image[:, 5, 5] = 0
    image[:, 190, 3] = 0
    assert box(foreground.prepare(image, size=200)[1]) == box(foreground.prepare(disc()[0], size=200)[1])


def test_two_pieces_both_stay():
    image, _ = disc()
    image[:, 150:180, 20:50] = 0.2
    assert foreground.key_plain_background(image)[160, 30] == 1


def test_an_object_cut_by_the_frame_is_found():
    image, share = disc(center=(190, 100), radii=(60, 40))
    assert (foreground.key_plain_background(image) - share).abs().mean() < 0.01


# ---- sockets and views -----------------------------------------------------------------------------------------------


def test_masks_from_sockets():
    alpha = torch.zeros(1, 20, 30)
    alpha[..., 5:10, 5:10] = 1
    assert torch.equal(foreground.mask_from_socket(alpha, "object"), alpha[0])
    assert torch.equal(foreground.mask_from_socket(alpha, "transparency"), 1 - alpha[0])
    assert foreground.mask_from_socket(None) is None
    for mask_is in ("object", "transparency"):
        assert foreground.mask_from_socket(torch.zeros(1, 64, 64), mask_is) is None
    assert foreground.mask_from_socket(torch.zeros(20, 30), "transparency") is None
    assert foreground.mask_from_socket(torch.zeros(20, 30), "object") is not None  # an empty mask: prepare says so
    with pytest.raises(ValueError, match="one picture"):
        foreground.mask_from_socket(torch.zeros(2, 20, 30))
    with pytest.raises(ValueError, match="mask_is"):
        foreground.mask_from_socket(None, "alpha")


def test_masks_of_views():
    views = [disc(size=96, center=(48, 30 + 6 * i), radii=(20, 15)) for i in range(4)]
    images, shares = (torch.stack(x) for x in zip(*views, strict=True))
    got = foreground.mask_views(images, "plain_background")
    assert got.shape == (4, 1, 96, 96)
    assert (got[:, 0] - shares).abs().mean() < 0.01
    assert torch.equal(foreground.mask_views(torch.cat([images, shares[:, None]], 1), "alpha"), shares[:, None])
    assert torch.equal(foreground.mask_views(images, "background_removal", lambda view: view[0]), images[:, :1])
    images[2] = 1
    with pytest.raises(ValueError, match="(?i)view 2: no object found"):
        foreground.mask_views(images, "plain_background")


@pytest.mark.parametrize(("arguments", "words"), [
    ((torch.ones(2, 3, 8, 8), "magic"), "choose one of"),
    ((torch.ones(3, 8, 8), "plain_background"), "shape"),
    ((torch.ones(2, 3, 8, 8), "alpha"), "no alpha"),
    ((torch.ones(2, 3, 8, 8), "background_removal"), "needs its network"),
])  # fmt: skip
def test_views_that_cannot_be_masked(arguments, words):
    with pytest.raises(ValueError, match=words):
        foreground.mask_views(*arguments)


NAN = torch.ones(3, 8, 8)
NAN[1, 2, 3] = float("nan")
PHOTO = torch.from_numpy(np.random.RandomState(1).random_sample((3, 64, 64))).float()


@pytest.mark.parametrize(("image", "mask", "words"), [
    (torch.ones(3, 40, 40), None, "(?i)no object found"),
    (torch.zeros(3, 40, 40), None, "(?i)no object found"),
    (disc()[0], torch.zeros(200, 200), "mask is empty"),
    (torch.cat([disc()[0], torch.zeros(1, 200, 200)]), None, "transparent everywhere"),
    (NAN, None, "finite"),
    (NAN, torch.ones(8, 8), "finite"),
    (disc()[0], torch.full((200, 200), float("nan")), "NaN"),
    (disc()[0] * 255, None, r"\[0, 1\]"),
    (disc()[0], torch.ones(20, 200), "does not fit"),
    (torch.ones(5, 8, 8), None, "1 to 4 channels"),
    (torch.ones(3, 0, 8), None, "shape"),
    (torch.ones(3, 8, 8, dtype=torch.int64), None, "uint8"),
    (PHOTO, None, "not one plain colour"),
])  # fmt: skip
def test_bad_pictures_are_refused_in_plain_words(image, mask, words):
    with pytest.raises(ValueError, match=words):
        foreground.prepare(image, mask, size=64)


@pytest.mark.parametrize("arguments", [{"size": 0}, {"size": 64, "foreground_ratio": 0.0}, {"size": 64, "foreground_ratio": 1.2}])
def test_bad_settings_are_refused(arguments):
    with pytest.raises(ValueError, match="must lie between"):
        foreground.prepare(disc()[0], **arguments)


# ---- background removal ----------------------------------------------------------------------------------------------


class FakeSession:
    """What ISNet's session looks like: one picture in, a mask first among what comes out."""

    def __init__(self, path, providers):
        if "broken" in path:
            raise RuntimeError("no graph was found")
        self.type = "tensor(float16)" if "half" in path else "tensor(float)"

    def get_inputs(self):
        return [types.SimpleNamespace(name="img", type=self.type, shape=["batch", 3, 32, 32])]

    def run(self, outputs, feed):
        x = feed["img"]
        assert x.shape == (1, 3, 32, 32) and x.dtype == (np.float16 if "16" in self.type else np.float32)
        assert -0.501 <= x.min() and x.max() <= 0.501
        return [(x[:, 1:2] < 0).astype(x.dtype), None]


@pytest.fixture()
def runtime(monkeypatch):
    module = types.ModuleType("onnxruntime")
    module.InferenceSession = FakeSession
    module.__spec__ = types.SimpleNamespace(name="onnxruntime")
    monkeypatch.setitem(sys.modules, "onnxruntime", module)


@pytest.mark.parametrize("name", ["isnet-general-use.onnx", "isnet-half.onnx"])
def test_background_removal_runs_the_network_found_on_disk(runtime, tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    assert background_removal.available([tmp_path]) == tmp_path / name
    image, share = disc()
    mask = background_removal.load([tmp_path / "missing", tmp_path])(image)
    assert mask.shape == (200, 200)
    assert (mask - share).abs().mean() < 0.03


def test_background_removal_says_how_to_get_it(tmp_path, runtime, monkeypatch):
    with pytest.raises(ValueError, match="isnet-general-use.onnx"):
        background_removal.load([tmp_path])
    (tmp_path / "isnet-broken.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match="isnet-broken.onnx cannot be used"):
        background_removal.load([tmp_path])
    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.setattr(background_removal.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install onnxruntime"):
        background_removal.load([tmp_path])


def test_half_contrast_takes_the_middle_of_a_soft_edge():
    x = torch.linspace(-1, 1, 64)
    soft = torch.sigmoid((0.5 - x.abs()) * 12)
    view = 1 - soft.expand(3, 64, 64) * torch.tensor([0.2, 0.6, 0.8])[:, None, None] * soft[:, None]
    mask = foreground.mask_views(view[None], "half_contrast")[0, 0]
    keyed = foreground.mask_views(view[None], "plain_background")[0, 0]
    width = int((mask[32] > 0.5).sum())
    assert abs(width - 32) <= 2 and int((keyed[32] > 0.5).sum()) > width + 6
    with pytest.raises(ValueError, match="View 0: No object found"):
        foreground.mask_views(torch.ones(1, 3, 8, 8), "half_contrast")
