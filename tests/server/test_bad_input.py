"""Bad input ends a run with words that say what was given, what is expected and how to mend it, and the server goes on."""

import json
import re
from collections.abc import Callable

import pytest
from comfy_server import Server, ServerError
from shared_server import FIT_SPLATS, Graph

PREPARE = {"mask_is": "object", "cut_out": "plain background", "foreground_ratio": 0.85, "size": 128, "background": "#ffffff"}
BAKE = {"size": "512", "view_weights": "", "sharpness": 4.0, "unseen": "nearest colour"}
EVERYTHING = {"preset": "paper", "resolution": 0}
RENDER = {"width": 64, "height": 64, "background": "#ffffff", "supersample": False, "samples": 16}


def picture(g: Graph, **options) -> list:
    return g.add("LatheTestPicture", **{"kind": "box", "width": 64, "height": 64, "count": 1, **options})


def preset(g: Graph) -> list:
    return g.add("LatheCameraPreset", preset="zero123plus_v1.2", input_azimuth=0.0, elevation=0.0, radius=0.0)


def prepared(g: Graph, **options) -> list:
    image = picture(g, **options)
    return g.add("LathePrepareImage", image=image[0], **PREPARE)


def saved(g: Graph, **options) -> list:
    mesh = g.add("LatheTestTetrahedra", count=1)
    return g.add("LatheSaveMesh", **{"mesh": mesh[0], "filename_prefix": "lathe/mesh", "format": "glb", **options})


def turn(g: Graph, views: int) -> list:
    return g.add("LatheOrbitCameras", views=views, elevation=20.0, radius=4.0, fov=30.0, start=0.0, turn=360.0, endpoint=False)


def fitted(g: Graph, cameras: int, masks: dict | None = None, settings: dict | None = None, **options) -> list:
    """Fit Splats on test pictures; `masks` are those of other test pictures."""
    views = picture(g, **options)
    outlines = views if masks is None else picture(g, **masks)
    inputs = {**FIT_SPLATS, **(settings or {}), "images": views[0], "masks": outlines[1], "cameras": turn(g, cameras)[0]}
    return g.add("LatheFitSplats", **inputs)


def faded(g: Graph) -> list:
    ball, views = g.add("LatheTestBall", opacity=0.001, count=1), picture(g, count=4)
    return g.add("LatheFitSplats", images=views[0], masks=views[1], cameras=turn(g, 4)[0], start=ball[0], **{**FIT_SPLATS, "steps": 1})


def five_views_for_six_cameras(g: Graph) -> list:
    mesh, views = g.add("LatheTestTetrahedra", count=1), picture(g, count=5)
    return g.add("LatheBakeViewsTexture", mesh=mesh[0], images=views[0], cameras=preset(g)[0], **BAKE)


def two_masks_for_three_pictures(g: Graph) -> list:
    return g.add("LathePrepareImage", image=picture(g, count=3)[0], mask=picture(g, count=2)[1], **PREPARE)


def empty_mask(g: Graph) -> list:
    return g.add("LathePrepareImage", image=picture(g)[0], mask=picture(g, kind="white", width=65)[1], **PREPARE)


def a_view_that_is_not_there(g: Graph) -> list:
    return g.add("LatheSelectViews", cameras=preset(g)[0], views="0, 9", images=picture(g, count=6)[0])


def no_such_colour(g: Graph) -> list:
    return g.add("LathePrepareImage", image=picture(g)[0], **{**PREPARE, "background": "whitish"})


# What is given -> what the message must say.
CASES: dict[str, tuple[Callable[[Graph], list], str]] = {
    "a white picture": (lambda g: prepared(g, kind="white"), r"(?i)no object"),
    "a picture of one pixel": (lambda g: prepared(g, width=1, height=1), r"(?i)no object|plain|small"),
    "pixels that are not numbers": (lambda g: prepared(g, kind="nan"), r"(?i)finite|NaN"),
    "an empty mask": (empty_mask, r"(?i)mask is empty"),
    "fewer masks than pictures": (two_masks_for_three_pictures, r"3 images.* 2"),
    "five views for six cameras": (five_views_for_six_cameras, r"5 images .* 6 views"),
    "a view that is not there": (a_view_that_is_not_there, r"9"),
    "no such colour": (no_such_colour, r"whitish"),
    "splats of seven views for eight cameras": (lambda g: fitted(g, 8, count=7), r"7 images .* 8 views"),
    "splats of views that are not numbers": (lambda g: fitted(g, 4, kind="nan", count=4), r"(?i)NaN"),
    "splats of views without any mask": (lambda g: fitted(g, 4, kind="white", count=4), r"(?i)all masks are empty"),
    "splats of fewer masks than views": (lambda g: fitted(g, 4, count=4, masks={"count": 3}), r"(?i)4 views .* masks, not 3"),
    "splats of views of ten pixels": (lambda g: fitted(g, 4, count=4, width=10, height=10), r"(?i)10 x 10.* at least"),
    "splats of 4k views in little memory": (lambda g: fitted(g, 4, count=4, width=4096, height=4096, settings=EVERYTHING), r"GiB are free"),
    "splats that have all faded": (faded, r"(?i)every Gaussian"),
    "a file name that leads out": (lambda g: saved(g, filename_prefix="../../outside"), r"leads out of the output folder"),
    "an absolute file name": (lambda g: saved(g, filename_prefix="/tmp/outside"), r"leads out of the output folder"),
}


def shown(graph: Graph, last: list) -> dict:
    """The prompt with an output node after the last, so that it runs."""
    if graph.prompt[last[0][0]]["class_type"] != "LatheSaveMesh":
        graph.add("LatheTestFingerprint", value=last[0], salt="")
    return graph.prompt


@pytest.mark.parametrize("case", CASES)
def test_the_message_says_it(comfy: Server, case: str):
    build, says = CASES[case]
    graph = Graph()
    run = comfy.run(shown(graph, build(graph)))
    assert run.status == "error", "the run went through"
    kind = run.error["exception_type"].rpartition(".")[2]
    said_in_words = ("ValueError", "EveryGaussianPruned", "NotEnoughMemory")
    assert kind in said_in_words, run.error["exception_type"] + ": " + run.error["exception_message"]
    assert re.search(says, run.error["exception_message"]), run.error["exception_message"]


def test_a_folder_that_cannot_be_written(comfy: Server):
    (comfy.base / "output").mkdir(exist_ok=True)
    (comfy.base / "output" / "taken").write_text("a file where a folder is wanted")
    graph = Graph()
    run = comfy.run(shown(graph, saved(graph, filename_prefix="taken/mesh")))
    assert run.status == "error" and "cannot be made" in run.error["exception_message"]


@pytest.mark.parametrize("name", ["../../secret.glb", "/etc/passwd", "nothing.glb [output]"])
def test_files_that_are_not_offered_are_not_read(comfy: Server, name: str):
    graph = Graph()
    mesh = graph.add("LatheLoadMesh", file=name, fit=False)
    try:
        run = comfy.run(shown(graph, mesh))
    except ServerError as refused:  # core refuses what is not in the list; a node reached all the same must refuse, too
        assert "value_not_in_list" in str(refused)
    else:
        assert run.status == "error" and run.error["exception_type"] == "ValueError"


@pytest.mark.parametrize(("views", "says"), [(1, "one view alone"), (4, "are the same picture")])
def test_views_that_say_nothing_of_depth_are_fitted_with_a_word(comfy: Server, views: int, says: str):
    graph = Graph()
    run = comfy.run(shown(graph, fitted(graph, views, count=views)))
    assert run.status == "success", run.error.get("exception_message")
    assert says in comfy.log_text()


PLY = """ply
format binary_little_endian 1.0
element vertex {count}
{properties}
end_header
"""
NAMES = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]


def ply(count: int, rows: int, names: list[str] = NAMES) -> bytes:
    """A splat file whose header promises `count` Gaussians, and `rows` of them."""
    properties = "\n".join(f"property float {name}" for name in names)
    return PLY.format(count=count, properties=properties).encode() + bytes(4 * len(names) * rows)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("cut.ply", ply(1000, 400), r"cut\.ply is cut short"),
        ("none.ply", ply(0, 0), r"none\.ply holds no Gaussians"),
        ("huge.ply", ply(50_000_000, 0), r"50,000,000 Gaussians; Lathe reads at most"),
        ("mesh.ply", ply(3, 3, ["x", "y", "z"]), r"no Gaussian splats"),
        ("cut.splat", bytes(33), r"cut short"),
        ("cut.spz", b"\x1f\x8b" + bytes(20), r"cut short"),
        ("words.ply", b"<!doctype html>", r"no PLY file"),
    ],
)
def test_splat_files_that_are_none(comfy: Server, name: str, content: bytes, says: str):
    (comfy.base / "input" / name).write_bytes(content)
    graph = Graph()
    run = comfy.run(shown(graph, graph.add("LatheLoadSplat", file=name, fit=False)))
    assert run.status == "error" and run.error["exception_type"] == "ValueError", run.error
    assert re.search(says, run.error["exception_message"]), run.error["exception_message"]
    (comfy.base / "input" / name).unlink()


def test_a_very_large_picture_is_taken(comfy: Server):
    graph = Graph()
    run = comfy.run(shown(graph, prepared(graph, width=8192, height=8192)))
    assert run.status == "success", run.error.get("exception_message")


def test_two_assets_in_a_batch_are_what_two_runs_give(comfy: Server):
    graph = Graph()
    mesh, cameras = graph.add("LatheTestTetrahedra", count=2), preset(graph)
    views = graph.add("LatheRenderViews", asset=mesh[0], cameras=cameras[0], **RENDER)
    both = graph.add("LatheTestFingerprint", value=views[0], salt="")
    single = graph.add("LatheRenderViews", asset=graph.add("LatheTestTetrahedra", count=1)[0], cameras=cameras[0], **RENDER)
    first = graph.add("ImageFromBatch", image=views[0], batch_index=0, length=6)
    of_batch = graph.add("LatheTestFingerprint", value=first[0], salt="")
    of_single = graph.add("LatheTestFingerprint", value=single[0], salt="")
    run = comfy.run(graph.prompt)
    assert run.status == "success", json.dumps(run.error)[:1000]
    prints = {id: run.outputs[id]["fingerprint"] for id in (both[0][0], of_batch[0][0], of_single[0][0])}
    assert prints[of_batch[0][0]] == prints[of_single[0][0]] != prints[both[0][0]]


def test_two_splats_in_a_batch_are_what_two_runs_give(comfy: Server):
    graph = Graph()
    cameras, prints = turn(graph, 3), []
    both = graph.add("LatheRenderViews", asset=graph.add("LatheTestBall", opacity=0.9, count=2)[0], cameras=cameras[0], **RENDER)
    single = graph.add("LatheRenderViews", asset=graph.add("LatheTestBall", opacity=0.9, count=1)[0], cameras=cameras[0], **RENDER)
    first = graph.add("ImageFromBatch", image=both[0], batch_index=0, length=3)
    for images in (first, single, both):
        prints.append(graph.add("LatheTestFingerprint", value=images[0], salt="")[0][0])
    run = comfy.run(graph.prompt)
    assert run.status == "success", json.dumps(run.error)[:1000]
    of_batch, of_single, of_both = (run.outputs[id]["fingerprint"] for id in prints)
    assert of_batch == of_single != of_both
