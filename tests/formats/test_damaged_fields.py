"""Files of fields whose settings or tensors are changed in any way are refused in words that name the file, or give a sound field."""

import json
import math

import pytest
import torch
from lathe.pipelines.cameras.presets import preset_cameras
from lathe.pipelines.data.splats import Splats
from lathe.pipelines.formats.fields import load_field
from lathe.pipelines.nets.mini_heads import PointHeads, PosedViews
from lathe.pipelines.nets.projected_field import ProjectedField
from lathe.pipelines.nets.triplane_field import Decoder, TriplaneField
from lathe.pipelines.splats.field import splat_field
from safetensors.torch import save_file

WRONG = [None, "", "a", [], [[1]], {}, True, -1, 0, 0.5, math.nan, math.inf, 2**40, 10**400, "lathe.other"]


def triplane():
    return TriplaneField(torch.randn(3, 8, 16, 16), Decoder("mesh", 8, 32).requires_grad_(False), grid_res=16)


def projected():
    cameras = preset_cameras("zero123plus_v1.2")
    views = PosedViews(torch.rand(6, 4, 16, 16), cameras.c2w, cameras.K)
    return ProjectedField(torch.randn(3, 8, 16, 16), PointHeads(8, 16, True).requires_grad_(False), views, grid_res=8, grid_scale=2.1)


def of_splats():
    rows = torch.nn.functional.normalize(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), dim=1) * 0.5
    turn = torch.tensor([1.0, 0, 0, 0]).expand(50, 4)
    return splat_field(Splats(rows, torch.full((50, 3), 0.1), turn, torch.full((50,), 0.9), torch.zeros(50, 1, 3)), resolution=16)


@pytest.mark.parametrize("make", [triplane, projected, of_splats])
def test_changed_files(tmp_path, make):
    tensors, settings = make().state()
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    path = tmp_path / "some.safetensors"

    def tried(tensors, settings) -> str:
        save_file(tensors, path, metadata={"lathe": json.dumps(settings)})
        try:
            field = load_field(path)
        except ValueError as error:
            assert "some.safetensors" in str(error), error
            return "refused"
        points = torch.rand(20, 3) * 2 - 1
        assert torch.isfinite(field.geometry(points)).all() and torch.isfinite(field.color(points)).all()
        return "read"

    assert tried(tensors, settings) == "read"
    for name in settings:
        assert tried(tensors, {key: value for key, value in settings.items() if key != name}) == "refused", name
        for value in WRONG:
            tried(tensors, {**settings, name: value})
        for value in (None, "a", [[1]], math.nan, math.inf, 10**400):
            assert tried(tensors, {**settings, name: value}) == "refused" or name == "point_input", (name, value)
    for name, tensor in tensors.items():
        assert tried({key: value for key, value in tensors.items() if key != name}, settings) == "refused", name
        assert (
            tried({**tensors, name: tensor[:1, ...].contiguous() if tensor.ndim else tensor[None]}, settings) == "refused"
            or len(tensor) == 1
        )
        if tensor.is_floating_point():
            assert tried({**tensors, name: torch.full_like(tensor, math.nan)}, settings) == "refused", name
