"""Views on a sheet and back."""

import pytest
import torch
from lathe.pipelines.images import sheets


def test_cells_run_row_by_row_and_come_back():
    views = torch.arange(12.0).reshape(12, 1, 1, 1).expand(12, 3, 4, 5).contiguous()
    two = sheets.tile(views, columns=2, rows=3)
    assert two.shape == (2, 3, 12, 10)
    assert two[1, 0, ::4, ::5].tolist() == [[6, 7], [8, 9], [10, 11]]
    assert torch.equal(sheets.split(two, columns=2, rows=3), views)


def test_one_sheet_of_any_size_is_filled_up():
    sheet = sheets.tile(torch.zeros(5, 3, 2, 2), columns=3)
    assert sheet.shape == (1, 3, 4, 6)
    assert float(sheet[0, :, 2:, 4:].min()) == 1.0 and float(sheet[0, :, 2:, :4].max()) == 0.0


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="7 images"):
        sheets.tile(torch.zeros(7, 3, 2, 2), columns=2, rows=3)
    with pytest.raises(ValueError, match="10x9 pixels"):
        sheets.split(torch.zeros(1, 3, 9, 10), columns=2, rows=2)
    with pytest.raises(ValueError, match="rows"):
        sheets.split(torch.zeros(1, 3, 9, 10), columns=2, rows=0)
