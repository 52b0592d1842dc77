"""Re-noise Refine and Re-noise Views in the real server, by view models and by core's own small models."""

import re
import time

import pytest
from comfy_server import Run, Server, ServerError
from shared_server import Graph

SETTINGS = {"rounds": 1, "level": 0.4, "steps": 3, "fit_iterations": 6, "cfg": 2.0, "seed": 1, "preset": "fast", "new_masks": "render"}
PICTURE = {"mask_is": "object", "cut_out": "plain background", "foreground_ratio": 0.85, "size": 64, "background": "#ffffff"}
FAMILIES = {"sd15": 0.0, "flow": 0.0, "sdxl": 1.0, "sv3d_p": 0.0, "svd": 0.0}  # and the strength of a LoRA's patch


def orbit(g: Graph, views: int = 6) -> list:
    return g.add("LatheOrbitCameras", views=views, elevation=10.0, radius=4.0, fov=30.0, start=0.0, turn=360.0, endpoint=False)[0]


def rendered(g: Graph, splat: list, cameras: list, size: int = 64) -> list:
    common = {"width": size, "height": size, "background": "#ffffff", "supersample": False, "samples": 16}
    return g.add("LatheRenderViews", asset=splat, cameras=cameras, **common)


def core(g: Graph, family: str, frames: int = 6, strength: float = 0.0) -> dict:
    model = g.add("LatheTestCoreModel", family=family, strength=strength)
    conditioning = g.add("LatheTestCoreConditioning", family=family, frames=frames)
    return {"model": model[0], "vae": model[1], "positive": conditioning[0], "negative": conditioning[1]}


def refined(g: Graph, generator: dict, views: int = 6, cameras: list | None = None, size: int = 64, **changes) -> list:
    splat, cameras = g.add("LatheTestBall", opacity=0.9, count=1)[0], cameras or orbit(g, views)
    seen = rendered(g, splat, cameras, size)
    return g.add("LatheRenoiseRefine", splat=splat, images=seen[0], masks=seen[1], cameras=cameras, **{**SETTINGS, **changes}, **generator)


def watched(g: Graph, *links: list) -> list[str]:
    return [g.add("LatheTestShapes", value=link)[0][0] for link in links]


def shapes(run: Run, ids: list[str]) -> list[dict]:
    assert run.status == "success", run.error.get("exception_message")
    return [run.outputs[id]["shapes"][0] for id in ids]


def prints(run: Run, id: str) -> str:
    assert run.status == "success", run.error.get("exception_message")
    return run.outputs[id]["fingerprint"][0]


@pytest.mark.parametrize("family", FAMILIES)
def test_core_models_refine(comfy: Server, family: str):
    g = Graph()
    out = refined(g, core(g, family, strength=FAMILIES[family]))
    ids = watched(g, *out[:5])
    run = comfy.run(g.prompt)
    splat, images, masks, preview, curve = shapes(run, ids)
    assert splat["finite"] and splat["positions"][0] == 1 and splat["positions"][2] == 3
    assert images == {"shape": [6, 64, 64, 3], "finite": True} and masks == {"shape": [6, 64, 64], "finite": True}
    assert preview["finite"] and preview["shape"][0] == 1 and curve["shape"][0] == 1
    (node,) = (id for id in g.prompt if g.prompt[id]["class_type"] == "LatheRenoiseRefine")
    steps = [step for id, step, _ in run.progress if id == node]
    assert steps == sorted(steps) and len(steps) >= 3  # newer cores send a few a second


def test_views_that_no_cell_of_the_vae_fills_keep_their_size(comfy: Server):
    g = Graph()
    out = refined(g, core(g, "sd15"), size=72 - 4)
    ids = watched(g, out[1])
    assert shapes(comfy.run(g.prompt), ids)[0]["shape"] == [6, 68, 68, 3]


def sampled(g: Graph, model: list, conditioning: list, salt: str) -> str:
    """Fingerprint of what core's KSampler draws with this MODEL."""
    empty = g.add("EmptyLatentImage", width=64, height=64, batch_size=2)
    latent = g.add(
        "KSampler", model=model, seed=5, steps=2, cfg=3.0, sampler_name="euler", scheduler="normal", positive=conditioning[0],
        negative=conditioning[1], latent_image=empty[0], denoise=1.0,
    )  # fmt: skip
    return g.add("LatheTestFingerprint", value=latent[0], salt=salt)[0][0]


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_the_model_samples_as_before(comfy: Server, strength: float):
    """The same MODEL object serves KSampler, then the refinement, then KSampler again."""

    def graph(refine: bool, salt: str) -> tuple[Graph, str]:
        g = Graph()
        parts = core(g, "sd15", strength=strength)
        if refine:
            g.add("LatheTestFingerprint", value=refined(g, parts, seed=7)[1], salt="")
        id = sampled(g, parts["model"], [parts["positive"], parts["negative"]], salt)
        return g, id

    before, id = graph(False, "before")
    first = prints(comfy.run(before.prompt), id)
    between, _ = graph(True, "between")
    run = comfy.run(between.prompt)
    assert run.status == "success" and "1" in run.cached, "the model came from the cache"
    after = Graph()
    parts = core(after, "sd15", strength=strength)
    id = sampled(after, parts["model"], [parts["positive"], parts["negative"]], "after")
    (sampler,) = (node for node in after.prompt.values() if node["class_type"] == "KSampler")
    sampler["inputs"]["cfg"] = 3.0 + 1e-9  # another key in the cache, the same number in float32
    assert prints(comfy.run(after.prompt), id) == first


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_the_same_seed_the_same_views_and_a_patched_model_others(comfy: Server, family: str):
    def views(strength: float, salt: str, **changes) -> str:
        g = Graph()
        id = g.add("LatheTestFingerprint", value=refined(g, core(g, family, strength=strength), **changes)[1], salt=salt)[0][0]
        return prints(comfy.run(g.prompt), id)

    plain = views(0.0, "a")
    assert plain == views(0.0, "b", fit_iterations=5), "the views of one round do not depend on the fit after it"
    assert plain != views(1.0, "c") and plain != views(0.0, "d", seed=2)


def view_model(g: Graph) -> dict:
    model, drawn = g.add("LatheTestViewModel"), g.add("LatheTestPicture", kind="box", width=64, height=64, count=1)
    prepared = g.add("LathePrepareImage", image=drawn[0], **PICTURE)
    return {"view_model": model[0], "image": prepared[0], "image_mask": prepared[1]}


def preset(g: Graph) -> list:
    return g.add("LatheCameraPreset", preset="zero123plus_v1.2", input_azimuth=40.0, elevation=0.0, radius=0.0)[0]


def test_a_view_model_refines_two_rounds(comfy: Server):
    g = Graph()
    out = refined(g, view_model(g), cameras=preset(g), rounds=2, new_masks="half_contrast")
    ids = watched(g, *out[:3])
    splat, images, masks = shapes(comfy.run(g.prompt), ids)
    assert splat["finite"] and images == {"shape": [6, 64, 64, 3], "finite": True} and masks["shape"] == [6, 64, 64]


def test_re_noise_views_alone(comfy: Server):
    g = Graph()
    cameras, parts = preset(g), view_model(g)
    seen = rendered(g, g.add("LatheTestBall", opacity=0.9, count=1)[0], cameras)
    out = g.add("LatheRenoiseViews", images=seen[0], level=0.3, steps=3, guidance=0.0, seed=0, **parts)
    ids = watched(g, *out[:2])
    images, masks = shapes(comfy.run(g.prompt), ids)
    assert images == {"shape": [6, 64, 64, 3], "finite": True} and masks == {"shape": [6, 64, 64], "finite": True}


# What is wired -> what the message must say.
def neither(g: Graph) -> list:
    return refined(g, {})


def both(g: Graph) -> list:
    return refined(g, {**core(g, "sd15"), **view_model(g)})


def half_a_generator(g: Graph) -> list:
    return refined(g, {name: link for name, link in core(g, "sd15").items() if name != "vae"})


def no_picture(g: Graph) -> list:
    return refined(g, {"view_model": view_model(g)["view_model"]})


def other_cameras(g: Graph) -> list:
    return refined(g, view_model(g))


def other_frames(g: Graph) -> list:
    return refined(g, core(g, "sv3d_p", frames=21))


def other_views(g: Graph) -> list:
    return refined(g, view_model(g), views=4)


def two_splats(g: Graph) -> list:
    cameras = orbit(g)
    seen = rendered(g, g.add("LatheTestBall", opacity=0.9, count=1)[0], cameras)
    splats = g.add("LatheTestBall", opacity=0.9, count=2)[0]
    return g.add("LatheRenoiseRefine", splat=splats, images=seen[0], cameras=cameras, **SETTINGS, **core(g, "sd15"))


CASES = {
    "no generator": (neither, "no generator"),
    "two generators": (both, "one generator"),
    "half a generator": (half_a_generator, "needs vae"),
    "a view model without its picture": (no_picture, "needs `image`"),
    "cameras the view model does not draw": (other_cameras, r"degrees from where they should.*zero123plus_v1\.2"),
    "another number of cameras": (other_views, r"4 cameras.*6 views"),
    "conditioning of another length": (other_frames, r"21 frames.*6 views"),
    "splats of two assets for views of one": (two_splats, r"1 assets.*splats of 2"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_message_says_it(comfy: Server, case: str):
    build, says = CASES[case]
    g = Graph()
    g.add("LatheTestFingerprint", value=build(g)[1], salt="")
    run = comfy.run(g.prompt)
    assert run.status == "error" and run.error["exception_type"] == "ValueError", run.error.get("exception_message")
    assert re.search(says, run.error["exception_message"]), run.error["exception_message"]


@pytest.mark.parametrize("changes", [{"steps": 200, "level": 1.0}, {"fit_iterations": 5000}], ids=["inside core", "in the fit"])
def test_cancel_leaves_the_server_usable(comfy: Server, changes: dict):
    g = Graph()
    out = refined(g, core(g, "sv3d_p"), seed=11, **changes)
    after = g.add("LatheTestFingerprint", value=out[0], salt="")[0][0]
    (node,) = (id for id in g.prompt if g.prompt[id]["class_type"] == "LatheRenoiseRefine")
    pressed: list[float] = []

    def watch(run: Run, event: str, data: dict) -> None:
        least = 255 if "fit_iterations" in changes else 2
        if event == "progress" and data.get("node") == node and least <= data["value"] < data["max"] and not pressed:
            pressed.append(time.monotonic())
            comfy.interrupt()

    run = comfy.run(g.prompt, watch)
    assert run.status == "interrupted" and time.monotonic() - pressed[0] < 10
    again = comfy.run(g.prompt)
    assert again.status == "success" and node in again.cached, "the last good state stayed"
    assert prints(again, after)


def test_refused_prompts_do_not_name_other_sockets(comfy: Server):
    """The optional sockets are what they say: a picture does not fit the model's."""
    g = Graph()
    wrong = refined(g, {"model": orbit(g)})
    g.add("LatheTestFingerprint", value=wrong[0], salt="")
    with pytest.raises(ServerError, match="return_type_mismatch"):
        comfy.run(g.prompt)
