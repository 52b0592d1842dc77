"""Pictures inside mesh files: decoded by Pillow, every depth brought to shares of white."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

log = logging.getLogger(__name__)

LARGEST_SIDE = 8192  # pixels; larger pictures are scaled down
MOST_PIXELS = 16384 * 16384  # larger pictures are refused
_pillow = threading.Lock()


def decode_picture(data: bytes, name: str) -> np.ndarray:
    """A PNG, JPEG, WebP, ... as (H, W, 3) or, with transparency, (H, W, 4) float32 in [0, 1].

    Grey is repeated, 16 bits are kept (those of grey pictures), palettes resolved; a picture with more than 8192 pixels a side is
    scaled down, which is said in the log.

    Raises:
        ValueError: it cannot be decoded: damaged, cut short, larger than 16384 x 16384, or of a kind that Pillow does not know.
    """
    from PIL import Image

    try:
        with _own_limits(), Image.open(io.BytesIO(data)) as picture:
            width, height = picture.size
            if width * height > MOST_PIXELS:
                raise ValueError(f"it has {width} x {height} pixels, more than 16384 x 16384; scale it down")
            if max(width, height) > LARGEST_SIDE:
                log.warning("%s has %d x %d pixels and is scaled down to %d a side", name, width, height, LARGEST_SIDE)
                picture.draft(None, (LARGEST_SIDE, LARGEST_SIDE))  # a JPEG is decoded at half its size, others as they are
            picture.load()
            if max(picture.size) > LARGEST_SIDE:
                picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
            return _shares(picture)
    except Exception as error:  # a decoder raises many kinds of errors on a broken picture
        reason = (
            str(error) if data and "BytesIO" not in str(error) else "it is empty" if not data else "it is damaged or of an unknown kind"
        )
        raise ValueError(f"{name} cannot be decoded: {reason}") from error


@contextmanager
def _own_limits() -> Iterator[None]:
    """Pillow's limits as they should be here, put back afterwards: they are global, and other packs change them for their own ends."""
    from PIL import Image, ImageFile

    with _pillow:
        before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = MOST_PIXELS, False
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = before


def _shares(picture: object) -> np.ndarray:
    from PIL import Image

    assert isinstance(picture, Image.Image)
    if picture.mode == "F" or picture.mode.startswith("I"):
        grey = np.asarray(picture).astype(np.float32)
        full = 1.0 if picture.mode == "F" else 65535.0
        return np.repeat(np.nan_to_num(grey / full).clip(0, 1)[..., None], 3, axis=2)
    see_through = "A" in picture.getbands() or "a" in picture.getbands() or "transparency" in picture.info
    shares = np.asarray(picture.convert("RGBA" if see_through else "RGB")).astype(np.float32)
    shares /= 255
    return shares
