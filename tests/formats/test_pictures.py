"""Pictures in mesh files: large ones are scaled down, broken ones refused, whatever other packs set in Pillow."""

import io

import numpy as np
import pytest
from lathe.pipelines.formats import pictures
from lathe.pipelines.formats.pictures import decode_picture
from PIL import Image, ImageFile


def stored(picture, form="PNG"):
    out = io.BytesIO()
    picture.save(out, form)
    return out.getvalue()


@pytest.mark.parametrize(("form", "mode", "color"), [("PNG", "L", 90), ("JPEG", "RGB", (90, 60, 30))])
def test_pictures_beyond_pillows_own_limit_are_scaled_down(form, mode, color, caplog):
    before = Image.MAX_IMAGE_PIXELS
    image = decode_picture(stored(Image.new(mode, (16384, 11000), color), form), "a.png")
    assert image.shape == (5500, 8192, 3) and Image.MAX_IMAGE_PIXELS == before
    np.testing.assert_allclose(image[::1000, ::1000], np.broadcast_to(np.array(color) / 255, (6, 9, 3)), atol=0.01)
    assert len(caplog.records) == 1 and "16384 x 11000 pixels and is scaled down to 8192" in caplog.text


def test_a_long_picture_keeps_its_shape():
    assert decode_picture(stored(Image.new("RGB", (16000, 40))), "a.png").shape == (20, 8000 + 192, 3)


def test_larger_pictures_are_refused_with_their_size(monkeypatch):
    monkeypatch.setattr(pictures, "MOST_PIXELS", 100)
    for size in ((11, 10), (40, 40)):  # beyond our limit, and beyond the double, where Pillow refuses by itself
        with pytest.raises(ValueError, match=r"a.png cannot be decoded: .*pixels"), pytest.warns() if size[0] == 11 else _nothing():
            decode_picture(stored(Image.new("RGB", size)), "a.png")


def _nothing():
    from contextlib import nullcontext

    return nullcontext()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_picture_that_is_cut_short_is_refused_whatever_other_packs_set(form, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    data = stored(Image.fromarray(noise), form)
    assert decode_picture(data, "a.png").shape == (64, 64, 3)
    with pytest.raises(ValueError, match="a.png cannot be decoded"):
        decode_picture(data[: len(data) // 2], "a.png")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
