"""GeoLRM in the server: bad views, cameras, grids and files end in plain words; full grids stay bounded, files of one network serve."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from comfy_server import Run, Server
from data.tiny_geolrm import tiny_model
from lathe.pipelines.cameras.orbits import orbit_cameras
from lathe.pipelines.formats.cameras import save_cameras
from lathe.pipelines.weights.geolrm import save_geolrm
from shared_server import Graph

ORBIT = {"elevation": 20.0, "radius": 4.0, "fov": 30.0, "start": 0.0, "turn": 360.0, "endpoint": False}
CHOICE = {"threshold": 0.5, "tokens": 64, "seed": 0, "compatible": False}
LOAD = {"proposal_form": "auto", "reconstruction_form": "auto", "precision": "fp32", "download": False}


def stages(g: Graph, geolrm: list | None = None, cameras: list | None = None, choice: dict | None = None, **given) -> list:
    """Both stages on test pictures, three of 64 pixels unless told; what comes back are the splats."""
    count, number = given.pop("count", 3), given.pop("cameras_count", 3)
    geolrm = geolrm or g.add("LatheTestGeoLRM")
    views = g.add("LatheTestPicture", **{"kind": "box", "width": 64, "height": 64, "count": count, **given})
    posed = {"images": views[0], "masks": views[1], "cameras": (cameras or g.add("LatheOrbitCameras", views=number, **ORBIT))[0]}
    voxel = g.add("LatheProposeVoxels", geolrm=geolrm[0], threshold=0.5, **posed)
    return g.add("LatheReconstructSplats", geolrm=geolrm[0], voxel=voxel[0], **posed, **CHOICE | (choice or {}))


def run(comfy: Server, g: Graph, last: list) -> Run:
    g.add("LatheTestShapes", value=last[0])
    return comfy.run(g.prompt)


def shape(done: Run) -> dict:
    assert done.status == "success", done.error.get("exception_message")
    (shapes,) = (output["shapes"][0] for output in done.outputs.values() if "shapes" in output)
    return shapes


def says(done: Run, words: str) -> None:
    assert done.status == "error" and done.error["exception_type"] == "ValueError", done.error
    assert re.search(words, done.error["exception_message"]), done.error["exception_message"]


def with_other_masks(g: Graph) -> list:
    geolrm, views = g.add("LatheTestGeoLRM"), g.add("LatheTestPicture", kind="box", width=64, height=64, count=3)
    masks = g.add("LatheTestPicture", kind="box", width=32, height=64, count=3)
    posed = {"images": views[0], "masks": masks[1], "cameras": g.add("LatheOrbitCameras", views=3, **ORBIT)[0]}
    return g.add("LatheProposeVoxels", geolrm=geolrm[0], threshold=0.5, **posed)


def of_two_sizes(g: Graph) -> list:
    large, small = (g.add("LatheTestPicture", kind="box", width=size, height=size, count=2) for size in (64, 48))
    cameras = g.add("LatheOrbitCameras", views=2, **ORBIT)
    sets = {"cameras_1": cameras[0], "cameras_2": cameras[0], "images_1": large[0], "images_2": small[0]}
    return g.add("LatheJoinViews", **sets)[1:]


CASES: dict[str, tuple[Callable[[Graph], list], str]] = {
    "no voxel is occupied": (lambda g: stages(g, choice={"threshold": 1.0}), r"No voxel of asset 1 is occupied.* Lower the threshold"),
    "five views for six cameras": (lambda g: stages(g, count=5, cameras_count=6), r"5 images .* 6 views"),
    "more views than it takes": (lambda g: stages(g, count=25, cameras_count=25), r"1 to 24 views, not 25.* Select Views"),
    "no mask shows anything": (lambda g: stages(g, kind="white"), r"All 3 masks of asset 1 are empty"),
    "pixels that are not numbers": (lambda g: stages(g, kind="nan"), r"NaN"),
    "masks of another size": (with_other_masks, r"Masks must have shape \(3, 1, 64, 64\)"),
    "views of different size": (of_two_sizes, r"64.*48"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_message_says_it(comfy: Server, case: str):
    build, words = CASES[case]
    graph = Graph()
    says(run(comfy, graph, build(graph)), words)


def test_cameras_that_look_away(comfy: Server):
    """All of them: refused. One of three: named in the log, and the run goes on."""
    cameras = orbit_cameras(3, elevation=20)
    turned = cameras.c2w.clone()
    turned[:, :3, 0], turned[:, :3, 2] = -turned[:, :3, 0], -turned[:, :3, 2]
    one = torch.cat([turned[:1], cameras.c2w[1:]])
    for name, c2w in (("away.json", turned), ("one_away.json", one)):
        save_cameras(replace(cameras, c2w=c2w), comfy.base / "input" / name)
        graph = Graph()
        done = run(comfy, graph, stages(graph, cameras=graph.add("LatheLoadCameras", file=name)))
        (comfy.base / "input" / name).unlink()
        if name == "away.json":
            says(done, "The cameras of asset 1 look away: none of its 3 views")
        else:
            assert done.status == "success" and "asset 1: 1 of 3 cameras look away" in comfy.log_text()


def test_a_full_grid_stays_within_the_budget(comfy: Server):
    """All 4096 cells are above 0; 100 tokens of 4 Gaussians are made of them, of padding none but where it is asked for."""
    graph = Graph()
    full = shape(run(comfy, graph, stages(graph, choice={"threshold": 0.0, "tokens": 100})))
    assert full["finite"] and 0 < full["positions"][1] <= 400
    counts = []
    for compatible in (False, True):
        graph = Graph()
        done = shape(run(comfy, graph, stages(graph, choice={"tokens": 8192, "compatible": compatible})))
        counts.append(done["positions"][1])
    assert counts[0] <= 4 * 4096 < counts[1] <= 4 * 8192


def test_two_assets_at_once(comfy: Server):
    graph = Graph()
    assert shape(run(comfy, graph, stages(graph, count=6)))["positions"][0] == 2


@pytest.fixture
def models(comfy: Server) -> Path:
    folder = comfy.base / "models" / "lathe"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def load(g: Graph, name: str, **options) -> list:
    return g.add("LatheLoadGeoLRM", **{"model": name, **LOAD, **options})


def test_a_file_of_one_network(comfy: Server, models: Path):
    save_geolrm(tiny_model(reconstruction=None, name="half"), models / "proposal_only.safetensors", dtype=torch.float32)
    save_geolrm(tiny_model(proposal=None, name="half"), models / "reconstruction_only.safetensors", dtype=torch.float32)
    graph = Graph()
    says(run(comfy, graph, stages(graph, load(graph, "proposal_only.safetensors"))), "half holds no reconstruction network")
    graph = Graph()
    says(run(comfy, graph, stages(graph, load(graph, "reconstruction_only.safetensors"))), "half holds no proposal network")
    graph = Graph()
    whole, half = graph.add("LatheTestGeoLRM"), load(graph, "reconstruction_only.safetensors")
    last = stages(graph, whole)
    graph.prompt[last[0][0]]["inputs"]["geolrm"] = half[0]  # proposed by one file, reconstructed by the other
    assert shape(run(comfy, graph, last))["finite"]


def test_a_wrong_form_that_is_forced_works_and_warns(comfy: Server, models: Path):
    save_geolrm(tiny_model(name="own"), models / "own_form.safetensors", dtype=torch.float32)
    graph = Graph()
    done = run(comfy, graph, stages(graph, load(graph, "own_form.safetensors", proposal_form="heads", reconstruction_form="heads")))
    assert shape(done)["finite"]
    assert "proposal: heads, as asked; the file says tokens, scale 0.5" in comfy.log_text()


def test_files_that_are_none(comfy: Server, models: Path):
    torch.save({"unet.conv_in.weight": torch.ones(4, 4)}, models / "other_geo.ckpt")
    whole = models / "cut_geo.ckpt"
    torch.save({"serializer.w": torch.ones(1000)}, whole)
    whole.write_bytes(whole.read_bytes()[:2000])
    for name in ("other_geo.ckpt", "cut_geo.ckpt"):
        graph = Graph()
        graph.add("LatheTestFingerprint", value=load(graph, name)[0], salt="")
        says(comfy.run(graph.prompt), name)
    graph = Graph()
    graph.add("LatheTestFingerprint", value=load(graph, "geolrm")[0], salt="")
    says(comfy.run(graph.prompt), r"(?s)not on this machine.*huggingface\.co/LinShan/GeoLRM")
