"""Every shipped workflow runs in a real ComfyUI, caches what did not change, and leaves its inputs as they were."""

import copy

import pytest
from comfy_server import Server
from shared_server import load_prompt, workflow_names

# One widget a workflow, changed for a second run: (node class, input, new value, classes that must not run again).
CHANGES: dict[str, tuple[str, str, object, set[str]]] = {
    "asset_rendered_and_retextured": ("LatheSelectViews", "views", "0-5", {"LatheLoadMesh", "LatheJoinViews"}),
    "distil_splat_mini": ("LatheDistilSplat", "seed", 5, {"LatheFitSplats", "LathePriorFromViewModel", "LatheGenerateViews"}),
    "image_to_mesh": ("LatheSimplifyMesh", "faces", 3000, {"LatheGenerateViews", "LatheReconstruct", "LatheFieldToMesh"}),
    "image_to_mesh_mini": ("LatheRenderViews", "background", "#000000", {"LatheUnwrapMesh", "LatheBakeFieldTexture"}),
    "magic123": ("LatheDistilMesh", "seed", 5, {"LatheDistilField", "LatheCombinePriors", "LathePriorFromZero123"}),
    "magic123_mini": ("LatheDistilMesh", "texture_size", "1024", {"LatheDistilField", "LathePriorFromViewModel"}),
    "refine_any_mesh": ("LatheDistilMesh", "surface", "flexicubes", {"LatheLoadMesh", "LathePriorFromViewModel"}),
    "text_to_3d_with_your_checkpoint": ("LatheDistilMesh", "faces", 700, {"LatheDistilField", "LathePriorFromModel"}),
    "image_to_splat_mini": ("LatheSaveSplat", "format", "spz", {"LatheFitSplats", "LatheRenoiseRefine", "LatheAddPicture"}),
    "splat_to_mesh": ("LatheFitMesh", "smooth", 2.0, {"LatheLoadSplat", "LatheSplatToField", "LatheFieldToMesh"}),
    "sv3d_to_splat_refined": ("LatheRenoiseRefine", "level", 0.3, {"KSampler", "LatheFitSplats", "SV3D_Conditioning"}),
    "turntable_to_splat": ("LatheRenderViews", "background", "#000000", {"LatheFitSplats", "LatheEstimateElevation"}),
    "sv3d_to_geolrm": ("LatheReconstructSplats", "threshold", 0.4, {"KSampler", "LatheProposeVoxels"}),
    "views_to_splat_mini": ("LatheFitMesh", "smooth", 2.0, {"LatheProposeVoxels", "LatheReconstructSplats", "LatheSplatToField"}),
    "zero123plus_to_geolrm": ("LatheReconstructSplats", "seed", 5, {"LatheGenerateViews", "LatheProposeVoxels"}),
    "own_views_to_mesh": ("LatheBakeViewsTexture", "size", "512", {"LatheReconstruct", "LatheUnwrapMesh"}),
    "views_upscaled_by_core_then_baked": (
        "LatheBakeViewsTexture",
        "view_weights",
        "1, 1, 1, 1, 1, 0",
        {"LatheGenerateViews", "LatheUnwrapMesh", "ImageUpscaleWithModel"},
    ),
}


def by_name(entries: list[dict]) -> list[tuple]:
    return sorted(tuple(sorted(entry.items())) for entry in entries)


def routed_through_probes(prompt: dict, salt: str = "") -> tuple[dict, dict[str, list]]:
    """The prompt with a fingerprint taken of everything a node hands to another before the other sees it; probe ids -> links."""
    probes: dict[str, list] = {}
    routed = copy.deepcopy(prompt)
    for node in routed.values():
        for key, value in node["inputs"].items():
            if isinstance(value, list) and len(value) == 2 and value[0] in prompt:
                id = f"probe{salt}_{value[0]}_{value[1]}"
                probes[id] = list(value)
                node["inputs"][key] = [id, 0]
    for id, link in probes.items():
        routed[id] = {"class_type": "LatheTestFingerprint", "inputs": {"value": link, "salt": salt}}
    return routed, probes


@pytest.fixture(scope="module", params=workflow_names())
def name(request) -> str:
    """Both tests of a workflow follow each other: ComfyUI's cache knows the last prompt only."""
    return request.param


def test_a_shipped_workflow(comfy: Server, name: str):
    """Runs with probes on every link, then again: all from the cache, the same files, and no probe sees another value."""
    prompt, probes = routed_through_probes(load_prompt(name))
    run = comfy.run(prompt)
    assert run.status == "success", run.error.get("exception_message")
    files = run.files()
    assert files and all(comfy.file(entry).stat().st_size > 0 for entry in files)

    again = {**prompt}
    for id, link in probes.items():
        again[f"{id}_after"] = {"class_type": "LatheTestFingerprint", "inputs": {"value": link, "salt": "after"}}
    after = comfy.run(again)
    assert after.status == "success"
    assert {id for id in after.executed if not id.endswith("_after")} == set()
    assert by_name(after.files()) == by_name(files)
    changed = [probes[id] for id in probes if after.outputs[id]["fingerprint"] != after.outputs[f"{id}_after"]["fingerprint"]]
    assert not changed, f"a node wrote into what it was given: {[(load_prompt(name)[i]['class_type'], slot) for i, slot in changed]}"


def test_one_changed_widget_runs_only_what_hangs_on_it(comfy: Server, name: str):
    node_class, key, value, spared = CHANGES[name]
    prompt, _ = routed_through_probes(load_prompt(name))
    first = comfy.run(prompt)
    changed = copy.deepcopy(prompt)
    touched = [id for id, node in changed.items() if node["class_type"] == node_class]
    assert touched
    for id in touched:
        assert changed[id]["inputs"][key] != value
        changed[id]["inputs"][key] = value
    second = comfy.run(changed)
    assert second.status == "success"
    ran = {changed[id]["class_type"] for id in second.executed}
    assert node_class in ran and not ran & spared
    before, after = (sorted(comfy.file(f).read_bytes() for f in run.files()) for run in (first, second))
    assert before != after
