"""Payloads of another kind than the socket's are refused at every node's entry, in words."""

import asyncio
from types import SimpleNamespace

import pytest
import torch
from comfy_api.latest import io
from lathe.nodes import LatheExtension
from lathe.nodes.core.socket_values import check_sockets
from lathe.pipelines.cameras.orbits import posed_cameras

NODES = {node.GET_SCHEMA().node_id: node for node in asyncio.run(LatheExtension().get_node_list())}
OPEN = ("LOAD3D_CAMERA", "LOAD3D_MODEL_INFO")  # core's dictionaries, whose reader says what is missing
SOCKETS = [
    pytest.param(node, one, id=f"{name}-{one.id}")
    for name, node in NODES.items()
    for one in node.SCHEMA.inputs
    if not isinstance(one, io.WidgetInput) and one.get_io_type() not in OPEN
]


@pytest.mark.parametrize(("node", "socket"), SOCKETS)
def test_every_socket_says_what_it_takes(node, socket):
    for value in ("a word", 7, [], {}, SimpleNamespace(), torch.zeros(2, dtype=torch.complex64)):
        with pytest.raises(ValueError, match=f"^{node.SCHEMA.display_name}: .* takes .*, not "):
            check_sockets(node.SCHEMA, {socket.id: value})
    if socket.optional:
        check_sockets(node.SCHEMA, {socket.id: None})
    else:
        with pytest.raises(ValueError, match="got nothing"):
            check_sockets(node.SCHEMA, {socket.id: None})


def spoiled(**parts):
    cameras = posed_cameras([0.0, 90.0], [0.0, 0.0], 2.0, 40.0)
    for name, part in parts.items():
        object.__setattr__(cameras, name, part(cameras))
    return cameras


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"c2w": lambda c: c.c2w * float("nan")}, "finite"),
        ({"c2w": lambda c: c.c2w.tolist()}, "float32"),
        ({"K": lambda c: c.K.long()}, "float32"),
        ({"K": lambda c: c.K.double()}, "float32"),
        ({"K": lambda c: c.K * 1e30}, "computed with"),
        ({"K": lambda c: -c.K}, "positive"),
        ({"c2w": lambda c: c.c2w[:, :3]}, "shape"),
        ({"c2w": lambda c: c.c2w + torch.eye(4)[3]}, "last row"),
        ({"names": lambda c: ("one",)}, "names"),
        ({"c2w": lambda c: c.c2w[:0], "K": lambda c: c.K[:0], "names": lambda c: ()}, "no views"),
    ],
)
def test_cameras_that_were_changed_after_they_were_made(parts, says):
    schema = NODES["LatheRenderViews"].SCHEMA
    check_sockets(schema, {"cameras": spoiled()})
    with pytest.raises(ValueError, match=f"Render Views: cameras.*{says}"):
        check_sockets(schema, {"cameras": spoiled(**parts)})


def test_pictures_that_are_handed_on_are_looked_at_too():
    schema = NODES["LatheSelectViews"].SCHEMA
    check_sockets(schema, {"images": torch.zeros(6, 8, 8, 3), "masks": torch.zeros(6, 8, 8)})
    for shape in ((8, 8, 3), (6, 8, 8, 2), (0, 8, 8, 3)):
        with pytest.raises(ValueError, match="Select Views: images takes pictures of shape"):
            check_sockets(schema, {"images": torch.zeros(shape)})
    for name, value in (("images", torch.full((6, 8, 8, 3), float("nan"))), ("masks", torch.full((6, 8, 8), float("inf")))):
        with pytest.raises(ValueError, match=f"Select Views: {name} holds NaN or infinite"):
            check_sockets(schema, {name: value})


def test_conditioning():
    schema, tokens = NODES["LathePriorFromModel"].SCHEMA, torch.zeros(1, 7, 64)
    check_sockets(schema, {"positive": [[tokens, {}]]})
    for bad in (tokens * float("nan"), tokens[0], tokens[:, :0]):
        with pytest.raises(ValueError, match="Prior From Model: positive must hold finite numbers"):
            check_sockets(schema, {"positive": [[bad, {}]]})
