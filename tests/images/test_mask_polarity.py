"""Which masks are taken for those of the background, and which are not."""

import pytest
import torch
from lathe.pipelines.images.mask_polarity import seem_inverted, tell_inverted

H, W = 144, 256
Y, X = torch.meshgrid((torch.arange(H) + 0.5) / H, (torch.arange(W) + 0.5) / W, indexing="ij")


def disc(x=0.5, y=0.5, r=0.35):
    return ((X - x) * W / H) ** 2 + (Y - y) ** 2 < r * r


def box(left, top, right, bottom):
    return (left <= X) & (right > X) & (top <= Y) & (bottom > Y)


def soft(mask, width=9):
    return torch.nn.functional.avg_pool2d(mask[None, None].float(), width, 1, width // 2)[0, 0]


OBJECTS = {
    "disc": disc(),
    "small": disc(r=0.1),
    "small, in a corner": disc(0.3, 0.3, 0.12),
    "thin, upright": box(0.48, 0.1, 0.52, 0.9),
    "thin, across": box(0.1, 0.47, 0.9, 0.53),
    "two": disc(0.25, 0.5, 0.2) | disc(0.7, 0.5, 0.2),
    "ring": disc(r=0.4) & ~disc(r=0.25),
    "soft": soft(disc()),
    "soft and dim": 0.8 * soft(disc(), 21),
    "at the lower border": box(0.3, 0.3, 0.7, 1.0),
    "a bust": box(0.1, 0.5, 0.9, 1.0) | disc(0.5, 0.4, 0.25),
}
NOT_OF_THE_BACKGROUND = {
    "at one border": box(0.3, 0.0, 0.7, 0.8),
    "at two borders": box(0.0, 0.0, 0.6, 0.8),
    "across": box(0.0, 0.3, 1.0, 0.7),
    "at three borders": box(0.0, 0.0, 1.0, 0.8),
    "at three borders, a horseshoe": box(0.0, 0.0, 1.0, 1.0) & ~box(0.2, 0.0, 0.8, 0.7),
    "a close-up over the corners": disc(r=1.1),
    "a close-up with a corner free": ~box(0.0, 0.0, 0.2, 0.2),
    "a close-up with a small hole": ~disc(0.3, 0.6, 0.06),
    "all ones": torch.ones(H, W),
    "nothing": torch.zeros(H, W),
    "grey": torch.full((H, W), 0.5),
    "noise": torch.rand(H, W, generator=torch.Generator().manual_seed(0)),
    "a close-up with noise": (torch.rand(H, W, generator=torch.Generator().manual_seed(0)) > 0.05).float(),
}


def of(mask):
    return bool(seem_inverted(mask.float()[None, None])[0])


@pytest.mark.parametrize("name", OBJECTS)
def test_a_mask_of_the_background_is_told_and_the_object_s_is_not(name):
    mask = OBJECTS[name].float()
    assert of(1 - mask) or name == "a bust", "a bust fills most of one border: its background is at three"
    assert not of(mask)


@pytest.mark.parametrize("name", NOT_OF_THE_BACKGROUND)
def test_masks_that_touch_borders_are_not_told(name):
    assert not of(NOT_OF_THE_BACKGROUND[name])


@pytest.mark.parametrize("size", [(64, 64), (16, 16), (3, 3), (1, 1), (2, 500), (720, 405), (2000, 30)])
def test_any_size(size):
    y, x = torch.meshgrid(*((torch.arange(n) + 0.5) / n - 0.5 for n in size), indexing="ij")
    inside = (x.abs() < 0.3) & (y.abs() < 0.3)
    masks = torch.stack([inside, ~inside, torch.ones(size), torch.zeros(size)]).float()[:, None]
    told = seem_inverted(masks).tolist()
    assert told[0] is False and told[2:] == [False, False]
    assert told[1] or min(size) < 16


def test_one_warning_counts_the_masks(caplog):
    masks = torch.stack([disc(), ~disc(), ~disc(), torch.ones(H, W)]).float()[:, None]
    tell_inverted(masks, "masks")
    (record,) = caplog.records
    assert "2 of the 4 masks at `masks` mark" in record.getMessage() and "Invert Mask" in record.getMessage()
    caplog.clear()
    tell_inverted(masks[1:2], "mask", "set `mask_is` to object")
    assert "what the mask at `mask` marks as the object covers" in caplog.text and "set `mask_is` to object" in caplog.text
    caplog.clear()
    tell_inverted(masks[:1], "mask")
    assert not caplog.records
