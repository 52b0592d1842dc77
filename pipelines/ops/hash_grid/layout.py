"""Which rows of a hash grid's table belong to which level; the text of `dispatch` describes the layout."""

from __future__ import annotations

import math
from dataclasses import dataclass

ROWS_MULTIPLE = 8


@dataclass(frozen=True)
class HashLayout:
    """Which rows of the table belong to which level.

    Attributes:
        resolutions: cells along an axis, per level.
        starts: first row of each level, and the number of rows at the end.
        dense: per level, whether each corner has a row of its own.
    """

    resolutions: tuple[int, ...]
    starts: tuple[int, ...]
    dense: tuple[bool, ...]

    @classmethod
    def of(cls, levels: int, log2_size: int, base: int, finest: int) -> HashLayout:
        """The layout that the text of `dispatch` describes."""
        growth = math.log(finest / base) / max(levels - 1, 1)
        # A hair above, so that rounding does not take a cell from the finest level.
        resolutions = tuple(math.floor(base * math.exp(growth * level) * (1 + 1e-9)) for level in range(levels))
        corners = [(resolution + 1) ** 3 for resolution in resolutions]
        dense = tuple(count <= 2**log2_size for count in corners)
        starts = [0]
        for count, fits in zip(corners, dense, strict=True):
            starts.append(starts[-1] + (-(-count // ROWS_MULTIPLE) * ROWS_MULTIPLE if fits else 2**log2_size))
        return cls(resolutions, tuple(starts), dense)
