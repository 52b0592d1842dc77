"""Priors and Textual Inversion in the real server, with core's own small models."""

import re

import pytest
from comfy_server import Run, Server
from shared_server import Graph

PRIOR = {"preset": "threestudio", "strength": 1.0, "guidance": 3.0, "resolution": 64}
INVERSION = {"starts_as": "toy", "vectors": 1, "rate": 0.01, "batch": 1, "resolution": 64, "seed": 0}


def picture(g: Graph) -> list:
    drawn = g.add("LatheTestPicture", kind="box", width=64, height=64, count=1)
    common = {"mask_is": "object", "cut_out": "plain background", "foreground_ratio": 0.85, "size": 64, "background": "#ffffff"}
    return g.add("LathePrepareImage", image=drawn[0], **common)


def from_model(g: Graph, family: str = "sd15", **changes) -> list:
    model = g.add("LatheTestCoreModel", family=family, strength=changes.pop("lora", 0.0))
    text = g.add("LatheTestCoreConditioning", family="sd15", frames=6)
    return g.add("LathePriorFromModel", model=model[0], vae=model[1], positive=text[0], negative=text[1], **{**PRIOR, **changes})


def from_zero123(g: Graph, family: str = "zero123", **changes) -> list:
    model, eye, seen = g.add("LatheTestCoreModel", family=family, strength=0.0), g.add("LatheTestCoreEncoders", kind="sd15"), picture(g)
    more = {"pose_value": "Stable Zero123", "elevation": 0.0, "radius": 1.8, **PRIOR, **changes}
    return g.add("LathePriorFromZero123", model=model[0], vae=model[1], clip_vision=eye[1], image=seen[0], mask=seen[1], **more)


def from_views(g: Graph) -> list:
    model, seen = g.add("LatheTestViewModel"), picture(g)
    rest = {name: value for name, value in PRIOR.items() if name != "resolution"}
    return g.add("LathePriorFromViewModel", view_model=model[0], image=seen[0], mask=seen[1], seed=0, **rest)


def asked(g: Graph, prior: list, salt: str = "") -> str:
    return g.add("LatheTestAskPrior", prior=prior[0], salt=salt)[0][0]


def told(run: Run, id: str) -> dict:
    assert run.status == "success", run.error.get("exception_message")
    return run.outputs[id]["guidance"][0]


@pytest.mark.parametrize("make", [from_model, from_zero123, from_views])
def test_priors_guide(comfy: Server, make):
    g = Graph()
    id = asked(g, make(g))
    answer = told(comfy.run(g.prompt), id)
    assert answer["finite"] and answer["size"] > 0 and answer["loss"] > 0


def test_combined_with_a_slider_and_a_patched_model(comfy: Server):
    def answer(imagination: float, lora: float = 0.0, salt: str = "") -> dict:
        g = Graph()
        both = g.add("LatheCombinePriors", prior_2d=from_model(g, lora=lora)[0], prior_3d=from_zero123(g)[0], imagination=imagination)
        id = asked(g, both, salt)
        return told(comfy.run(g.prompt), id)

    alone, both, patched = answer(0.0), answer(0.5), answer(0.5, lora=1.0)
    assert alone["gradient"] != both["gradient"] != patched["gradient"]
    assert answer(0.5, salt="again")["gradient"] == both["gradient"], "the models went and came, the answer is the same"


@pytest.mark.parametrize(("make", "says"), [
    (lambda g: from_model(g, "svd"), "denoises films"), (lambda g: from_zero123(g, "sd15"), "not told a pose"),
    (lambda g: from_model(g, resolution=128), None),
])  # fmt: skip
def test_models_of_another_kind(comfy: Server, make, says):
    g = Graph()
    id = asked(g, make(g))
    run = comfy.run(g.prompt)
    if says is None:
        assert told(run, id)["finite"]
    else:
        assert run.status == "error" and re.search(says, run.error["exception_message"]), run.error.get("exception_message")


def inverted(g: Graph, name: str, steps: int) -> list:
    model, text, seen = g.add("LatheTestCoreModel", family="sd15", strength=0.0), g.add("LatheTestCoreEncoders", kind="sd15"), picture(g)
    wired = {"model": model[0], "vae": model[1], "clip": text[0], "image": seen[0], "mask": seen[1]}
    return g.add("LatheTextualInversion", name=name, steps=steps, **wired, **INVERSION)


def test_a_learned_word_is_read_by_core(comfy: Server):
    g = Graph()
    clip = inverted(g, "lathe_test_word", 3)[0]
    texts = [g.add("CLIPTextEncode", clip=clip, text=f"a photo of {word}") for word in ("<e>", "embedding:lathe_test_word", "toy")]
    ids = [g.add("LatheTestFingerprint", value=text[0], salt="")[0][0] for text in texts]
    run = comfy.run(g.prompt)
    assert run.status == "success", run.error.get("exception_message")
    word, spelled, plain = (run.outputs[id]["fingerprint"][0] for id in ids)
    assert word == spelled != plain


def test_a_name_that_leads_elsewhere(comfy: Server):
    g = Graph()
    inverted(g, "../word", 3)
    run = comfy.run(g.prompt)
    assert run.status == "error" and "cannot be the name of an embedding" in run.error["exception_message"]


def test_cancel_while_training(comfy: Server):
    g = Graph()
    out = inverted(g, "lathe_test_cancelled", 2000)
    node = out[0][0]

    def watch(run: Run, event: str, data: dict) -> None:
        if event == "progress" and data.get("node") == node and data["value"] >= 2:
            comfy.interrupt()

    assert comfy.run(g.prompt, watch).status == "interrupted"
    after = Graph()
    id = asked(after, from_model(after))
    assert told(comfy.run(after.prompt), id)["finite"], "the server goes on"
