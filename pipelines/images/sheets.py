"""Views laid out as a sheet, row by row, and cut out of one again: the form in which Zero123++ draws its six views (3 rows, 2 columns)."""

from __future__ import annotations

import torch
from torch import Tensor


def tile(images: Tensor, columns: int, rows: int = 0, fill: float = 1.0) -> Tensor:
    """Lays images (N, C, H, W) out row by row.

    Args:
        images: the views, one asset after the other.
        columns: pictures in a row.
        rows: rows of one sheet, which makes N / (rows * columns) sheets; 0 puts all on one sheet, as many rows as it takes.
        fill: value of the cells that stay empty on such a sheet.

    Returns:
        (sheets, C, rows * H, columns * W).

    Raises:
        ValueError: N is not a multiple of rows * columns.
    """
    n, c, h, w = images.shape
    if rows == 0:
        rows = -(-n // columns)
        empty = images.new_full((rows * columns - n, c, h, w), fill)
        images = torch.cat([images, empty])
    cells = rows * columns
    if images.shape[0] == 0 or images.shape[0] % cells:
        raise ValueError(
            f"{n} images do not fill sheets of {rows} rows and {columns} columns: give a multiple of {cells} images, or set rows to 0 "
            "for one sheet of any size."
        )
    return images.reshape(-1, rows, columns, c, h, w).permute(0, 3, 1, 4, 2, 5).reshape(-1, c, rows * h, columns * w)


def split(sheets: Tensor, columns: int, rows: int) -> Tensor:
    """Cuts sheets (S, C, rows * H, columns * W) into images (S * rows * columns, C, H, W), row by row.

    Raises:
        ValueError: the sheet's size is not a multiple of its rows and columns.
    """
    s, c, h, w = sheets.shape
    if rows < 1:
        raise ValueError("Say how many rows the sheet has: cutting one up needs at least 1.")
    if h % rows or w % columns:
        raise ValueError(f"A sheet of {w}x{h} pixels cannot be cut into {columns} columns and {rows} rows of equal size; crop it.")
    return sheets.reshape(s, c, rows, h // rows, columns, w // columns).permute(0, 2, 4, 1, 3, 5).reshape(-1, c, h // rows, w // columns)
