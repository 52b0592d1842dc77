"""Estimate Depth with a tiny DPT of random weights in a folder, as transformers saves it."""

import types

import pytest
import torch
from lathe.nodes import depth
from lathe.nodes.core import folders
from lathe.pipelines.images.depth_estimation import available
from tiny_dpt import save_tiny_dpt


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "model_folders", lambda: [tmp_path])
    monkeypatch.setattr(depth.LatheEstimateDepth, "hidden", types.SimpleNamespace(unique_id="1"), raising=False)
    return tmp_path


def test_depth_is_stretched_over_the_object(folder):
    save_tiny_dpt(folder / "tiny-dpt")
    (folder / "other").mkdir()
    (folder / "other" / "config.json").write_text('{"model_type": "clip"}')
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text("{")
    assert [path.name for path in available([folder])] == ["tiny-dpt"]
    assert "tiny-dpt" in str(depth.LatheEstimateDepth.define_schema().inputs[1].options)
    masks = torch.zeros(2, 40, 40)
    masks[:, 10:30, 8:32] = 1
    with torch.inference_mode():
        images = torch.rand(2, 40, 40, 3)
        (out,) = depth.LatheEstimateDepth.execute(images, "tiny-dpt", masks).args
        (whole,) = depth.LatheEstimateDepth.execute(images, depth.AUTO).args
        (again,) = depth.LatheEstimateDepth.execute(images, depth.AUTO).args
    assert out.shape == (2, 40, 40, 3) and torch.equal(out[..., 0], out[..., 1])
    assert float(out[masks == 0].max()) == 0 and [float(view.max()) for view in out] == pytest.approx([1, 1])
    assert float(whole.min()) == 0 and torch.equal(whole, again)


def test_what_is_missing_or_wrong_is_said_in_words(folder):
    image = torch.rand(1, 40, 40, 3)
    with pytest.raises(ValueError, match="Intel/dpt-hybrid-midas.*Or wire a depth picture"):
        depth.LatheEstimateDepth.execute(image, depth.AUTO)
    (folder / "cut").mkdir()
    (folder / "cut" / "config.json").write_text('{"model_type": "dpt"}')
    with pytest.raises(ValueError, match="cut cannot be used to estimate depth"):
        depth.LatheEstimateDepth.execute(image, depth.AUTO)
    save_tiny_dpt(folder / "cut")
    with pytest.raises(ValueError, match="mask is empty"):
        depth.LatheEstimateDepth.execute(image, "cut", torch.zeros(1, 40, 40))
    with pytest.raises(ValueError, match="as many masks of their size"):
        depth.LatheEstimateDepth.execute(image, "cut", torch.ones(1, 20, 20))
