"""Files that say they are mini models and are not: refused in words."""

import json

import pytest
import torch
from lathe.pipelines.weights import mini_models
from safetensors.torch import save_file


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (None, "not one of Lathe's mini models"),
        ("[1]", "no JSON object"),
        ("{", "no JSON that can be read"),
        ("[" * 100_000, "mini.safetensors is nested too deep"),
        (json.dumps({"kind": "lrm"}), "holds a lrm model"),
        (json.dumps({"kind": "views", "patch": 4, "unet": {}}), "lack view_size, camera_preset"),
    ],
)
def test_headers_that_say_something_else(tmp_path, config, says):
    path = tmp_path / "mini.safetensors"
    save_file({"w": torch.ones(1)}, path, metadata=None if config is None else {"lathe_config": config})
    with pytest.raises(ValueError, match=says):
        mini_models.load_views(path)


def test_a_preview_leaves_the_codec_where_it_is():
    model = mini_models.load_views()
    before = {name: value.data_ptr() for name, value in model.codec.codec.state_dict().items()}
    picture = model.codec.preview(torch.zeros(1, model.codec.channels, 4, 4))
    assert picture.shape == (4 * model.codec.factor, 4 * model.codec.factor, 3)
    assert {name: value.data_ptr() for name, value in model.codec.codec.state_dict().items()} == before
