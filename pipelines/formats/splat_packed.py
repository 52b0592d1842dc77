"""The small splat files: .splat, 32 bytes a Gaussian, and .spz versions 2 and 3, bytes by attribute under gzip.

Written here because no kept-up library reads both (docs/decisions/0003): both are a table of bytes. Everything is little-endian.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..data.progress import Tick, no_tick
from ..data.splats import MOST_DEGREES, Splats
from ..ops.spherical_harmonics import CONSTANT, OFFSET
from .splat_ply import check_count

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPLAT_ROW = [("place", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("rotation", "u1", 4)]
SPZ_WORDS, SPZ_BYTES = ("magic", "version", "count"), ("degree", "fraction_bits", "flags", "zero")
SPZ_HEADER = [(name, "<u4") for name in SPZ_WORDS] + [(name, "u1") for name in SPZ_BYTES]
SPZ_MAGIC = 0x5053474E
BLOCK = 1 << 18  # Gaussians between two ticks
PIECE = 1 << 22  # bytes between two ticks
MOST_SHRUNK, SMALL = 100, 1 << 26  # gzip makes real scenes about half as long; what is small may be of anything
SPZ_COLOR = 0.15  # constant term a byte's whole range over
MOST_FRACTION_BITS = 18
MAGNITUDE = 511  # of a 10-bit quaternion component: sign and 9 bits


def _byte(values: Tensor) -> NDArray[Any]:
    return values.round().clamp(0, 255).to(torch.uint8).numpy()


def _float(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(values.astype("float32"))


def splat_bytes(splats: Splats) -> bytes:
    """A .splat of splats that stand y-down: place and scale as float32, colour, opacity and quaternion as bytes. Degree 0 only."""
    import numpy

    rows = numpy.zeros(len(splats), SPLAT_ROW)
    rows["place"], rows["scale"] = splats.positions.numpy(), splats.scales.numpy()
    rgba = torch.cat([OFFSET + CONSTANT * splats.sh[:, 0], splats.opacities[:, None]], dim=1)
    rows["rgba"], rows["rotation"] = _byte(rgba * 255), _byte(splats.rotations * 128 + 128)
    return rows.tobytes()


def read_splat(path: Path, most: int, *, tick: Tick = no_tick) -> dict[str, Tensor]:
    """The attributes of Splats, activated, as they stand in a .splat.

    Raises:
        ValueError: a length that is no multiple of 32 bytes, or more than `most` Gaussians.
    """
    import numpy

    size = path.stat().st_size
    check_count(path, size // 32, most)
    if size % 32:
        raise ValueError(f"{path.name} has {size} bytes, no multiple of 32: it is cut short, or no .splat file.")
    rows = numpy.fromfile(path, SPLAT_ROW)  # half a gigabyte at most
    tick(1, 1)
    rgba = _float(rows["rgba"]) / 255
    return {
        "positions": _float(rows["place"]),
        "scales": _float(rows["scale"]),
        "rotations": (_float(rows["rotation"]) - 128) / 128,
        "opacities": rgba[:, 3],
        "sh": ((rgba[:, :3] - OFFSET) / CONSTANT)[:, None],
    }


def spz_bytes(splats: Splats) -> bytes:
    """An .spz, version 3, of splats that stand y-down, as the viewers read it.

    Positions have as many bits behind the point as their range leaves, at most 18; scales steps of 1/16 in their logarithm from e^-10 to
    e^5.9; spherical harmonics above the constant term lie in [-1, 1].
    """
    import numpy

    reach = max(float(splats.positions.abs().max()), 1e-3)
    bits = max(0, min(MOST_FRACTION_BITS, math.floor(math.log2((2**23 - 1) / reach))))
    header = numpy.array([(SPZ_MAGIC, 3, len(splats), splats.degree, bits, 0, 0)], SPZ_HEADER)
    fixed = (splats.positions.double() * 2**bits).round().clamp(-(2**23), 2**23 - 1).to(torch.int32).numpy().astype("<i4")
    parts = [
        header.tobytes(),
        fixed.view("u1").reshape(-1, 3, 4)[..., :3].tobytes(),
        _byte(splats.opacities * 255).tobytes(),
        _byte((splats.sh[:, 0] * SPZ_COLOR + 0.5) * 255).tobytes(),
        _byte((splats.scales.log() + 10) * 16).tobytes(),
        _smallest_three(splats.rotations).tobytes(),
        _byte(splats.sh[:, 1:].flatten(1) * 128 + 128).tobytes(),
    ]
    return gzip.compress(b"".join(parts), mtime=0)


def read_spz(path: Path, most: int, *, tick: Tick = no_tick) -> dict[str, Tensor]:
    """The attributes of Splats, activated, as they stand in an .spz of version 2 or 3.

    Raises:
        ValueError: another version or no .spz, cut short, or more than `most` Gaussians.
    """
    import numpy

    with open(path, "rb") as file:
        plain = file.read(4) == SPZ_MAGIC.to_bytes(4, "little")
    if plain:
        raise ValueError(f"{path.name} is an .spz of version 4 or above; Lathe reads 2 and 3: save it as one of those, or as .ply.")
    try:
        with gzip.open(path) as stream:
            head = numpy.frombuffer(_exactly(stream, 16, path), SPZ_HEADER)[0]
            if head["magic"] != SPZ_MAGIC or head["version"] not in (2, 3) or head["degree"] > MOST_DEGREES:
                version, degree = int(head["version"]), int(head["degree"])
                kind = f"version {version} with degree {degree}" if head["magic"] == SPZ_MAGIC else "something else"
                raise ValueError(f"{path.name} is no .spz that Lathe reads, but {kind}; versions 2 and 3 with degree 0 to 3 are expected.")
            n, terms = int(head["count"]), (int(head["degree"]) + 1) ** 2 - 1
            check_count(path, n, most)

            widths = (9, 1, 3, 3, 4 if head["version"] == 3 else 3, 3 * terms)
            total, packed = n * sum(widths), path.stat().st_size
            if total > MOST_SHRUNK * packed + SMALL:
                raise ValueError(
                    f"{path.name} is no .spz of a real scene, or damaged: its {packed:,} bytes are to hold {n:,} "
                    "Gaussians, far more than fit."
                )

            def column(width: int) -> NDArray[Any]:
                return numpy.frombuffer(_exactly(stream, n * width, path, tick), "u1").reshape(n, width)

            fixed, alpha, color, scale, rotation, rest = map(column, widths)
            stream.read(1)  # at its end gzip compares the checksum, and says where it is missing
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path.name} is no .spz file, or it is cut short or damaged: {error}.") from error
    version, bits = int(head["version"]), int(head["fraction_bits"])
    out = {"positions": (3,), "scales": (3,), "rotations": (4,), "opacities": (), "sh": (1 + terms, 3)}
    splats = {name: torch.empty(n, *shape) for name, shape in out.items()}
    for first in range(0, n, BLOCK):
        tick(first, n)
        part = slice(first, first + BLOCK)
        splats["positions"][part] = _places(fixed[part]) / 2.0**bits
        splats["scales"][part] = (_float(scale[part]) / 16 - 10).exp()
        splats["rotations"][part] = (_from_smallest_three if version == 3 else _from_three)(rotation[part])
        splats["opacities"][part] = _float(alpha[part])[:, 0] / 255
        splats["sh"][part, 0] = (_float(color[part]) / 255 - 0.5) / SPZ_COLOR
        splats["sh"][part, 1:] = ((_float(rest[part]) - 128) / 128).view(len(rest[part]), terms, 3)
    return splats


def _places(rows: NDArray[Any]) -> Tensor:
    """Three whole numbers of 24 bits a row, as floats."""
    import numpy

    words = numpy.zeros((len(rows), 3, 4), "u1")
    words[..., 1:] = rows.reshape(-1, 3, 3)  # 24 bits at the top, so that the shift brings the sign along
    return _float(words.view("<i4")[..., 0] >> 8)


def _exactly(stream: Any, size: int, path: Path, tick: Tick = no_tick) -> bytearray:
    data = bytearray()
    while len(data) < size and (piece := stream.read(min(PIECE, size - len(data)))):
        data += piece
        tick(len(data), size)
    if len(data) < size:
        raise ValueError(f"{path.name} is cut short: {size} bytes were to come, {len(data)} came.")
    return data


def _smallest_three(rotations: Tensor) -> NDArray[Any]:
    """Unit quaternions (N, 4), w first -> 32 bits each: which of x, y, z, w is largest in the upper two, then the others in that order,
    each a sign and 9 bits of |q| sqrt(2)."""
    q = torch.cat([rotations[:, 1:], rotations[:, :1]], dim=1)
    largest = q.abs().argmax(dim=1, keepdim=True)
    q = q * torch.where(q.gather(1, largest) < 0, -1.0, 1.0)
    codes = (q.abs() * 2**0.5 * MAGNITUDE).round().clamp(0, MAGNITUDE).long() + 512 * (q < 0).long()
    packed = largest[:, 0].clone()
    for i in range(4):
        packed = torch.where(largest[:, 0] == i, packed, packed * 1024 + codes[:, i])
    return packed.numpy().astype("<u4")


def _from_smallest_three(rows: NDArray[Any]) -> Tensor:
    packed = torch.from_numpy(rows.copy().view("<u4")[:, 0].astype("int64"))
    largest, q = packed >> 30, torch.zeros(len(packed), 4)
    for i in (3, 2, 1, 0):
        value = (packed & MAGNITUDE).float() / (MAGNITUDE * 2**0.5) * torch.where((packed & 512) > 0, -1.0, 1.0)
        q[:, i] = torch.where(largest == i, 0.0, value)
        packed = torch.where(largest == i, packed, packed >> 10)
    q.scatter_(1, largest[:, None], (1 - q.square().sum(1, keepdim=True)).clamp(min=0).sqrt())
    return q.roll(1, dims=1)


def _from_three(rows: NDArray[Any]) -> Tensor:
    """x, y, z as bytes; w is positive and what is left."""
    q = _float(rows) / 127.5 - 1
    return torch.cat([(1 - q.square().sum(1, keepdim=True)).clamp(min=0).sqrt(), q], dim=1)
