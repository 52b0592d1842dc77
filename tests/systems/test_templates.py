"""Each system gives what its template gives in a real ComfyUI, to the byte: both on one thread, where sums have one order."""

import comfy_source
import numpy as np
import pytest
import small_core
import torch
from lathe.pipelines.cameras.orbits import orbit_cameras
from lathe.pipelines.cameras.presets import preset_cameras
from lathe.pipelines.data.splats import Splats
from lathe.pipelines.distillation.prior_settings import stages_of
from lathe.pipelines.distillation.priors import ScoreDistillation
from lathe.pipelines.distillation.view_model_prior import ViewGridDenoiser
from lathe.pipelines.formats.meshes import save_mesh
from lathe.pipelines.formats.splats import save_splats
from lathe.pipelines.images import foreground, sheets
from lathe.pipelines.systems import geolrm, im3d, instantmesh, magic123
from lathe.pipelines.weights import mini_models
from lathe.pipelines.weights.geolrm import MINI_FILE, load_geolrm
from PIL import Image
from shared_server import WORKFLOWS, load_prompt, shared_server


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def server():
    if not comfy_source.add_to_path():
        pytest.skip("no ComfyUI: run `python dev.py test`, or set COMFYUI_DIR")
    return shared_server(threads=1)


def through_socket(splats: Splats) -> Splats:
    """As a SPLAT carries it between two nodes: its quaternions are normalised, and stand for the same rotations with the other sign."""
    from lathe.nodes.core.splat import from_core_splat, to_core_splat

    return from_core_splat(to_core_splat([splats]))[0]


def loaded(name: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A shipped picture as core's LoadImage and the node after it read it: (3, H, W), and (H, W) with 1 = object."""
    with Image.open(WORKFLOWS / "inputs" / name) as file:
        picture = torch.from_numpy(np.array(file.convert("RGB")).astype(np.float32) / 255).movedim(-1, 0)
        if "A" not in file.getbands():
            return picture, None
        transparency = 1 - torch.from_numpy(np.array(file.getchannel("A")).astype(np.float32) / 255)
    return picture, foreground.mask_from_socket(transparency, "transparency")


def node(prompt: dict, node_class: str, index: int = 0) -> tuple[str, dict]:
    """Id and widgets of one node of a prompt."""
    found = [(id, part["inputs"]) for id, part in prompt.items() if part["class_type"] == node_class]
    return found[index]


def written(server, prompt: dict, *savers: str) -> list[bytes]:
    """Runs what these nodes need of the prompt, and nothing else; the one file that each writes."""
    ids = [node(prompt, saver)[0] for saver in savers]
    needed, waiting = set(), list(ids)
    while waiting:
        needed.add(waiting[-1])
        waiting += [value[0] for value in prompt[waiting.pop()]["inputs"].values() if isinstance(value, list)]
    run = server.run({id: part for id, part in prompt.items() if id in needed})
    assert run.status == "success", run.error.get("exception_message")
    assert len(run.files()) == len(ids)
    entries = [next(iter(run.outputs[id].values()))[0] for id in ids]
    return [server.file(entry).read_bytes() for entry in entries]


def mesh_bytes(mesh, folder) -> bytes:
    return save_mesh(mesh, folder / "mesh.glb")[-1].read_bytes()


def splat_bytes(splats, folder) -> bytes:
    save_splats(through_socket(splats), folder / "splats.ply")
    return (folder / "splats.ply").read_bytes()


def test_instantmesh_is_image_to_mesh(server, tmp_path):
    prompt, loaders = load_prompt("image_to_mesh"), small_core.module("loaders")
    assert node(prompt, "LatheSimplifyMesh")[1]["faces"] == instantmesh.FACES
    assert int(node(prompt, "LatheBakeFieldTexture")[1]["size"]) == instantmesh.TEXTURE_SIZE
    node(prompt, "LatheSimplifyMesh")[1]["faces"] = 5000
    node(prompt, "LatheUnwrapMesh")[1]["texture_size"] = node(prompt, "LatheBakeFieldTexture")[1]["size"] = "512"
    models = loaders.tiny_views(), loaders.tiny_lrm()
    made = instantmesh.image_to_mesh(*loaded("lathe_demo_picture.png"), *models, faces=5000, texture_size=512)
    assert [mesh_bytes(made, tmp_path)] == written(server, prompt, "LatheSaveMesh")


def test_im3d_is_image_to_splat_mini_up_to_its_loop(server, tmp_path):
    prompt = load_prompt("image_to_splat_mini")
    (refine, round_of), (_, fit) = node(prompt, "LatheRenoiseRefine"), node(prompt, "LatheFitSplats")
    node(prompt, "LatheSaveSplat")[1]["splat"] = [refine, 0]
    model, (picture, mask) = mini_models.load_views(), loaded("lathe_demo_picture.png")
    views = instantmesh.image_to_views(picture, mask, model)
    splats = im3d.views_to_splats(views, preset=fit["preset"], steps=fit["steps"], points=fit["points"])
    image, outline = foreground.prepare(picture, mask, size=instantmesh.PICTURE_SIZE, background=model.background)
    generator = im3d.ViewModelRedenoise(model, image[None], outline[None], round_of["steps"])
    how = {"preset": round_of["preset"], "rounds": round_of["rounds"], "level": round_of["level"], "steps": round_of["fit_iterations"]}
    refined, _ = im3d.refine(through_socket(splats), views, generator, background=model.background, **how)
    assert [splat_bytes(refined, tmp_path)] == written(server, prompt, "LatheSaveSplat")


def test_geolrm_is_views_to_splat_mini(server, tmp_path):
    prompt = load_prompt("views_to_splat_mini")
    images = sheets.split(loaded("lathe_demo_turntable.png")[0][None], 4, 4)
    views = images, foreground.mask_views(images, "plain_background"), orbit_cameras(16, elevation=20.0)
    model = load_geolrm(MINI_FILE)
    splats = geolrm.voxels_to_splats(geolrm.views_to_voxels(views, model), views, model)
    (_, fit), (_, field), (_, seen) = node(prompt, "LatheFitMesh"), node(prompt, "LatheSplatToField"), node(prompt, "LatheRenderViews", 1)
    changes = {"steps": fit["steps"], "resolution": fit["resolution"], "faces": fit["faces"], "texture_size": int(fit["texture_size"])}
    mesh = geolrm.splats_to_asset(through_socket(splats), cells=field["resolution"], size=seen["width"], **changes)
    made = [splat_bytes(splats, tmp_path), mesh_bytes(mesh, tmp_path)]
    assert made == written(server, prompt, "LatheSaveSplat", "LatheSaveMesh")


def test_magic123_is_magic123_mini(server, tmp_path):
    prompt, model = load_prompt("magic123_mini"), mini_models.load_views()
    (_, coarse), (_, fine) = node(prompt, "LatheDistilField"), node(prompt, "LatheDistilMesh")
    place = {name: float(coarse[name]) for name in ("elevation", "radius", "fov")}
    reference = magic123.reference_view(*loaded("lathe_demo_picture.png"), **place)

    def prior(strength: float) -> ScoreDistillation:
        denoiser = ViewGridDenoiser(model, reference.image, reference.mask)
        cameras = preset_cameras(model.camera_preset)
        return ScoreDistillation(denoiser, stages_of("threestudio", "views", strength), required_cameras=cameras)

    first = magic123.coarse(reference, prior(1.0), preset="mini", steps=coarse["steps"])
    first.run(coarse["steps"])
    changes = {name: fine[name] for name in ("steps", "size", "faces")} | {"texture": int(fine["texture_size"])}
    second = magic123.fine(first.field(), reference, prior(0.1), preset="mini", **changes)
    second.run(fine["steps"])
    assert [mesh_bytes(second.textured(), tmp_path)] == written(server, prompt, "LatheSaveMesh")


def test_the_pages_defaults_are_the_nodes(server):
    """The templates set widgets of their own, so these are compared apart."""
    from lathe.nodes.geolrm import LatheReconstructSplats
    from lathe.nodes.renoise import LatheRenoiseRefine

    def defaults(node_class) -> dict:
        return {part.id: getattr(part, "default", None) for part in node_class.define_schema().inputs}

    refine, reconstruct = defaults(LatheRenoiseRefine), defaults(LatheReconstructSplats)
    assert [refine[name] for name in ("rounds", "fit_iterations", "steps", "level")] == [
        im3d.ROUNDS, im3d.ROUND_STEPS, im3d.DENOISING_STEPS, im3d.LEVEL,
    ]  # fmt: skip
    assert [reconstruct[name] for name in ("threshold", "tokens")] == [geolrm.THRESHOLD, geolrm.TOKENS]
