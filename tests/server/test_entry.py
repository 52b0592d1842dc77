"""The entry of every node in a real ComfyUI: linked numbers are checked, and warnings come into the history."""

import math
import re

import pytest
from comfy_server import Server
from shared_server import FIT_SPLATS, Graph

ORBIT = {"views": 4, "elevation": 20.0, "radius": 4.0, "fov": 30.0, "start": 0.0, "turn": 360.0, "endpoint": False}


@pytest.mark.parametrize(
    ("widget", "primitive", "value", "says"),
    [
        ("views", "PrimitiveInt", 2**40, r"Orbit Cameras: views takes whole numbers from 1 to 4096, not 1099511627776"),
        ("views", "PrimitiveInt", -1, r"Orbit Cameras: views takes whole numbers"),
        ("elevation", "PrimitiveFloat", math.nan, r"Orbit Cameras: elevation takes numbers from -90 to 90, not NaN"),
        ("fov", "PrimitiveFloat", 1e12, r"Orbit Cameras: fov takes numbers from 1 to 170, not 1000000000000"),
    ],
)
def test_linked_numbers_are_checked(comfy: Server, widget: str, primitive: str, value: float, says: str):
    g = Graph()
    number = g.add(primitive, value=value)
    cameras = g.add("LatheOrbitCameras", **{**ORBIT, widget: number[0]})
    g.add("LatheTestFingerprint", value=cameras[0], salt="")
    run = comfy.run(g.prompt)
    assert run.status == "error" and run.error["exception_type"] == "ValueError", run.error
    assert re.search(says, run.error["exception_message"]), run.error["exception_message"]


def test_warnings_are_in_the_history_and_in_the_log(comfy: Server):
    g = Graph()
    views = g.add("LatheTestPicture", kind="box", width=64, height=64, count=1)
    fit = g.add(
        "LatheFitSplats", images=views[0], masks=views[1], cameras=g.add("LatheOrbitCameras", **{**ORBIT, "views": 1})[0], **FIT_SPLATS
    )
    g.add("LatheTestFingerprint", value=fit[0], salt="notices")
    run = comfy.run(g.prompt)
    assert run.status == "success", run.error.get("exception_message")
    assert sum("one view alone" in text for text in run.outputs[fit[0][0]]["text"]) == 1
    assert comfy.log_text().count("one view alone says nothing") >= 1
