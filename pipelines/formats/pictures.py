"""Pictures inside mesh files: decoded by Pillow, every depth brought to shares of white."""

from __future__ import annotations

import io

import numpy as np

LARGEST_SIDE = 8192  # pixels; larger pictures are scaled down


def decode_picture(data: bytes, name: str) -> np.ndarray:
    """A PNG, JPEG, WebP, ... as (H, W, 3) or, with transparency, (H, W, 4) float32 in [0, 1].

    Grey is repeated, 16 bits are kept (those of grey pictures), palettes resolved; a picture with more than 8192 pixels a side is
    scaled down.

    Raises:
        ValueError: it cannot be decoded: damaged, cut short, too large, or of a kind that Pillow does not know.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            if max(picture.size) > LARGEST_SIDE:
                picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
            return _shares(picture)
    except Exception as error:  # a decoder raises many kinds of errors on a broken picture
        reason = str(error) if data and "BytesIO" not in str(error) else "it is empty" if not data else "it is damaged or of an unknown kind"
        raise ValueError(f"{name} cannot be decoded: {reason}") from error


def _shares(picture: object) -> np.ndarray:
    from PIL import Image

    assert isinstance(picture, Image.Image)
    if picture.mode == "F" or picture.mode.startswith("I"):
        grey = np.asarray(picture).astype(np.float32)
        full = 1.0 if picture.mode == "F" else 65535.0
        return np.repeat(np.nan_to_num(grey / full).clip(0, 1)[..., None], 3, axis=2)
    see_through = "A" in picture.getbands() or "a" in picture.getbands() or "transparency" in picture.info
    return np.asarray(picture.convert("RGBA" if see_through else "RGB")).astype(np.float32) / 255
