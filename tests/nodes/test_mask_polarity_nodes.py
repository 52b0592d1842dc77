"""Each node with a mask says which side is the object's, in the words of the widget or node that mends it."""

import asyncio
import inspect
import logging
import types

import pytest
import torch
from lathe.nodes import LatheExtension
from lathe.nodes.core.images import object_masks_in, outlines_in
from lathe.nodes.distil import reference_in
from lathe.nodes.geolrm import masks_of
from lathe.nodes.images import LatheMaskViews, LathePrepareImage
from lathe.nodes.priors import one_picture

Y, X = torch.meshgrid(torch.linspace(-1, 1, 96), torch.linspace(-1, 1, 96), indexing="ij")
OBJECT = ((X * X + Y * Y) < 0.4).float()[None]
PICTURE = torch.where(OBJECT[..., None] > 0.5, torch.tensor([0.8, 0.2, 0.1]), torch.tensor([0.3, 0.4, 0.5]))


@pytest.fixture(autouse=True)
def running(monkeypatch):
    for node in (LathePrepareImage, LatheMaskViews):
        monkeypatch.setattr(node, "hidden", types.SimpleNamespace(unique_id="1"), raising=False)


def prepared(caplog, mask, mask_is, image=PICTURE):
    caplog.clear()
    image, out = LathePrepareImage.execute(image, mask_is, "plain background", 0.85, 96, "#ffffff", mask=mask).args
    return out, " ".join(record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)


def test_prepare_image_names_its_widget(caplog):
    right, text = prepared(caplog, OBJECT, "object")
    assert not text
    load_image, text = prepared(caplog, 1 - OBJECT, "transparency")
    assert not text and torch.equal(right, load_image), "core's Load Image gives 1 - alpha"
    _, text = prepared(caplog, OBJECT, "transparency")
    assert "what the mask at `mask` marks as the object covers" in text and "set `mask_is` to object" in text
    _, text = prepared(caplog, 1 - OBJECT, "object")
    assert "set `mask_is` to transparency" in text


def test_prepare_image_counts_the_masks_of_a_batch(caplog):
    _, text = prepared(caplog, OBJECT.repeat(3, 1, 1), "transparency", PICTURE.repeat(3, 1, 1, 1))
    assert text.count("seems to be the background") == 1 and "3 of the 3 masks" in text


def test_alpha_of_the_other_polarity_names_the_node_that_made_it(caplog):
    wrong = torch.cat([PICTURE, 1 - OBJECT[..., None]], dim=-1)
    _, text = prepared(caplog, None, "transparency", wrong)
    assert "the alpha channel at `image`" in text and "Join Image with Alpha" in text
    _, text = prepared(caplog, torch.zeros(1, 64, 64), "transparency", wrong)
    assert "the alpha channel at `image`" in text, "Load Image's empty mask counts as none"
    _, text = prepared(caplog, None, "transparency", torch.cat([PICTURE, OBJECT[..., None]], dim=-1))
    assert not text
    LatheMaskViews.execute(wrong, "alpha")
    assert "the alpha channel at `images`" in caplog.text


def test_other_nodes_name_core_s_node(caplog):
    object_masks_in(1 - OBJECT)
    assert "Invert Mask (InvertMask) in front" in caplog.text
    caplog.clear()
    outlines_in(PICTURE, 1 - OBJECT, "mask", "image")
    assert "at `mask`" in caplog.text
    caplog.clear()
    assert outlines_in(PICTURE, None) is None and outlines_in(PICTURE, OBJECT) is not None
    assert not caplog.records


@pytest.mark.parametrize(
    "read",
    [
        lambda mask: one_picture(PICTURE, mask),
        lambda mask: masks_of(PICTURE, mask),
        lambda mask: reference_in(PICTURE, mask, None, 0.0, 1.8, 40.0, 1.0),
    ],
    ids=["priors", "GeoLRM", "distillation"],
)
def test_what_nodes_share_to_read_masks_warns_once(caplog, read):
    read(OBJECT)
    assert not caplog.records
    read(1 - OBJECT)
    assert caplog.text.count("Invert Mask") == 1


NODES = asyncio.run(LatheExtension().get_node_list())  # here, where no other loop runs
PASSED_ON = {"LathePrepareImage", "LatheTileViews", "LatheJoinViews", "LatheSelectViews"}


def test_every_mask_socket_is_looked_at():
    """A node with a mask either reads it by these functions or, as those above, hands it on or has a widget for it."""
    readers = ("object_masks_in(", "outlines_in(", "one_picture(")
    unread = []
    for node in NODES:
        info = node.GET_NODE_INFO_V1()["input"]
        sockets = [name for group in info.values() for name, spec in group.items() if spec[0] == "MASK"]
        source = inspect.getsource(inspect.getmodule(node))
        if sockets and node.GET_SCHEMA().node_id not in PASSED_ON and not any(reader in source for reader in readers):
            unread.append(node.__name__)
    assert not unread


@pytest.mark.parametrize("mask", [torch.ones(1, 8, 8), torch.zeros(1, 64, 64)])
def test_masks_that_say_nothing_are_no_matter(caplog, mask):
    object_masks_in(mask)
    assert not caplog.records
