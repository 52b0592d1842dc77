"""Files that gltfpack and glTF-Transform make of Lathe's own load to the same picture, or are refused by name with the remedy."""

import numpy as np
import pytest
import torch
import trimesh
from formats.gltf_samples import Gltf
from lathe.pipelines.cameras.orbits import posed_cameras
from lathe.pipelines.data.mesh import Mesh
from lathe.pipelines.formats.meshes import load_mesh, save_mesh
from lathe.pipelines.metrics import psnr_box
from lathe.pipelines.rendering.mesh import render_mesh
from lathe.pipelines.rendering.views import RenderedViews
from lathe_root import ROOT
from node_tools import packages, run_tool

DEMO = ROOT / "example_workflows" / "inputs" / "lathe_demo_mesh.glb"
SIZE = 160
LEAST = 35.0  # dB in the box of the object, in each view
EXACT = 60.0  # where the tool changes no number, but the order of vertices and objects

# Options, and a word of the JSON that shows what they did.
GLTFPACK = {
    "as it comes": ([], "KHR_mesh_quantization"),
    "normalized positions": (["-vpn"], "KHR_mesh_quantization"),
    "floating point": (["-vpf", "-vtf", "-vnf"], "COLOR_0"),
    "no quantization": (["-noq"], "COLOR_0"),
    "16 bits": (["-vp", 16, "-vt", 16, "-vn", 16, "-vc", 16], "KHR_mesh_quantization"),
    "interleaved": (["-vi"], "byteStride"),
    "GPU instances": (["-mi"], "EXT_mesh_gpu_instancing"),
    "merged instances": (["-mm"], "KHR_texture_transform"),
    "names kept": (["-kn", "-km"], "KHR_texture_transform"),
    "meshopt with a fallback": (["-cf"], "EXT_meshopt_compression"),
}
GLTFPACK_REFUSED = {
    "meshopt": (["-c"], "EXT_meshopt_compression"),
    "more meshopt": (["-cc"], "EXT_meshopt_compression"),
    "most meshopt": (["-cz"], "KHR_meshopt_compression"),
    "Khronos meshopt": (["-c", "-ce", "khr"], "KHR_meshopt_compression"),
}
# Command and options; such a word; whether the picture must stay exact, because no number is changed.
TRANSFORM = {
    "copy": (["--vertex-layout", "separate"], "COLOR_0", True),
    "partition": (["--meshes"], ".bin", True),
    "join": ([], "COLOR_0", True),
    "instance": (["--min", 2], "EXT_mesh_gpu_instancing", True),
    "weld": ([], "COLOR_0", True),
    "unweld": ([], "COLOR_0", True),
    "reorder": ([], "byteStride", True),
    "sparse": ([], '"sparse"', True),
    "unlit": ([], "KHR_materials_unlit", True),
    "palette": (["--min", 2], '"TEXCOORD_0"', False),
    "simplify": ([], "COLOR_0", False),
    "quantize": ([], "KHR_mesh_quantization", False),
    "quantize, one grid for the scene": (["--quantization-volume", "scene"], "KHR_mesh_quantization", False),
    "draco": ([], "KHR_draco_mesh_compression", False),
    "draco, sequential": (["--method", "sequential"], "KHR_draco_mesh_compression", False),
    "webp": ([], "EXT_texture_webp", False),
    "avif": ([], "EXT_texture_avif", False),
    "jpeg": (["--formats", "*"], "image/jpeg", False),
    "resize": (["--width", 256, "--height", 256], "image/png", False),
    "optimize": (["--compress", "draco", "--texture-compress", "webp"], "EXT_texture_webp", False),
}
TRANSFORM_REFUSED = {"meshopt": ([], "EXT_meshopt_compression")}


@pytest.fixture(scope="module", autouse=True)
def tools():
    try:
        packages()
    except LookupError as problem:
        pytest.skip(f"no glTF tools: {problem}")


def pictures(mesh: Mesh) -> RenderedViews:
    """Two views of it."""
    return render_mesh(mesh, posed_cameras([20.0, 200.0], [10.0, 35.0], 4.0, 32.0), SIZE, SIZE)


def same_picture(mesh: Mesh, truth: RenderedViews, least: float) -> None:
    found = psnr_box(pictures(mesh).images, truth.images, truth.masks)
    assert float(found.min()) > least, f"PSNR {[round(float(value), 1) for value in found]} dB"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo's mesh through Load and Save, and its pictures from another reader."""
    path = save_mesh(load_mesh(DEMO), tmp_path_factory.mktemp("demo") / "demo.glb")[-1]
    return path, pictures(Mesh(*demo_parts()))


def demo_parts() -> list[torch.Tensor]:
    """The demo's vertices, faces, uvs and texture, as trimesh reads them."""
    (part,) = trimesh.load_scene(DEMO, process=False).geometry.values()
    uvs = np.stack([part.visual.uv[:, 0], 1 - part.visual.uv[:, 1]], axis=1)
    texture = np.asarray(part.visual.material.baseColorTexture.convert("RGB")) / np.float32(255)
    return [torch.tensor(a) for a in (part.vertices.astype("f4"), part.faces.astype("i8"), uvs.astype("f4"), texture)]


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A hierarchy of textured, coloured and plain objects in a file, and its pictures put together object by object."""
    gltf, parts = make_scene()
    path = gltf.save(tmp_path_factory.mktemp("scene") / "scene.glb")
    return path, together([pictures(part) for part in parts])


def make_scene() -> tuple[Gltf, list[Mesh]]:
    gltf, parts = Gltf(), []

    def place(mesh: int, look: Mesh, move: tuple[float, ...], size: float, turn: tuple[float, ...] = (0, 0, 0, 1)) -> None:
        """Two nodes, one in the other, that share the placing; the same by hand."""
        above = gltf.node(translation=list(move))
        gltf.node(parent=above, mesh=mesh, rotation=list(turn), scale=[size] * 3)
        axes = torch.tensor(trimesh.transformations.quaternion_matrix([turn[3], *turn[:3]])[:3, :3]).float()
        corners = look.vertices @ axes.T * size + torch.tensor(move)
        parts.append(Mesh(corners, look.faces, look.uvs, look.texture, look.vertex_colors))

    vertices, faces, uvs, texture = demo_parts()
    pixels = (texture.numpy() * 255).round().astype(np.uint8)
    painted = gltf.material(baseColorTexture=gltf.texture_info(pixels), metallicFactor=0)
    attributes = {"POSITION": vertices.numpy(), "TEXCOORD_0": uvs.numpy()}
    mesh = gltf.mesh(gltf.primitive(attributes, faces.numpy().reshape(-1), material=painted))
    look = Mesh(vertices, faces, uvs, texture)
    place(mesh, look, (-0.5, -0.3, 0.0), 0.45)
    place(mesh, look, (0.5, -0.3, 0.1), 0.4, (0, 0.6, 0, 0.8))
    tint = torch.stack([vertices[:, 1] * 0.5 + 0.5, torch.ones(len(vertices)), vertices[:, 1] * -0.5 + 0.5], dim=1).clamp(0, 1)
    mesh = gltf.mesh(gltf.primitive({**attributes, "COLOR_0": tint.numpy()}, faces.numpy().reshape(-1), material=painted))
    place(mesh, Mesh(vertices, faces, uvs, texture, tint), (0.0, 0.45, -0.5), 0.35, (0, 0, 0.28, 0.96))

    ball = trimesh.creation.icosphere(3)
    corners, sides = torch.tensor(ball.vertices).float(), torch.tensor(ball.faces).long()
    colors = (corners * torch.tensor([0.5, 0.5, 0.4]) + 0.5) * (corners[:, 1:2] > 0.4)  # black but for its top, so that sparse storage pays
    mesh = gltf.mesh(gltf.primitive({"POSITION": corners.numpy(), "COLOR_0": colors.numpy()}, sides.numpy().reshape(-1)))
    place(mesh, Mesh(corners, sides, vertex_colors=colors), (0.0, 0.3, 0.5), 0.3)

    flat = trimesh.creation.box()
    corners, sides = torch.tensor(flat.vertices).float(), torch.tensor(flat.faces).long()
    for index, color in enumerate([(0.8, 0.1, 0.1), (0.1, 0.6, 0.2), (0.1, 0.2, 0.7), (0.7, 0.6, 0.1), (0.3, 0.1, 0.5)]):
        plain = gltf.material(baseColorFactor=[*color, 1.0], metallicFactor=0)
        mesh = gltf.mesh(gltf.primitive({"POSITION": corners.numpy()}, sides.numpy().reshape(-1), material=plain))
        look = Mesh(corners, sides, vertex_colors=torch.tensor(color).expand_as(corners))
        place(mesh, look, (-0.6 + 0.3 * index, -0.75, 0.45), 0.2)
    return gltf, parts


def together(parts: list[RenderedViews]) -> RenderedViews:
    """The farthest object first, each nearer one over it, on white; pixel by pixel."""
    images, masks, depths = (torch.stack([getattr(part, name) for part in parts]) for name in ("images", "masks", "depths"))
    picture = torch.ones_like(images[0])
    for rank in torch.where(depths > 0, depths, torch.inf).argsort(dim=0, descending=True):
        image, mask = (torch.gather(layers, 0, rank.expand_as(layers[0])[None])[0] for layers in (images, masks))
        picture = torch.where(mask > 0, image + (1 - mask) * (picture - 1), picture)
    return RenderedViews(picture, masks.amax(dim=0), depths.amax(dim=0), parts[0].normals)


def test_the_files_themselves_load_to_the_right_picture(demo, scene):
    for path, truth in (demo, scene):
        assert float(truth.images.std()) > 0.1
        same_picture(load_mesh(path), truth, LEAST)


@pytest.fixture(scope="module")
def scene_as_read(scene):
    """What our reader makes of the scene: what files made from it are held to."""
    path, _ = scene
    return path, pictures(load_mesh(path))


@pytest.fixture(scope="module")
def demo_as_read(demo):
    path, _ = demo
    return path, pictures(load_mesh(path))


def gltfpack(path, target, options):
    done = run_tool("gltfpack", "-i", path, "-o", target, *options)
    assert done.returncode == 0, done.stdout + done.stderr


def transform(path, target, name, options):
    done = run_tool("@gltf-transform/cli", name.partition(",")[0], path, target, *options)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("mode", GLTFPACK)
def test_gltfpack(scene_as_read, tmp_path, mode):
    path, truth = scene_as_read
    options, word = GLTFPACK[mode]
    gltfpack(path, tmp_path / "made.glb", options)
    assert word.encode() in (tmp_path / "made.glb").read_bytes()
    same_picture(load_mesh(tmp_path / "made.glb"), truth, LEAST)


def test_gltfpack_to_separate_files(scene_as_read, tmp_path):
    gltfpack(scene_as_read[0], tmp_path / "made.gltf", [])
    same_picture(load_mesh(tmp_path / "made.gltf"), scene_as_read[1], LEAST)


@pytest.mark.parametrize("mode", GLTFPACK_REFUSED)
def test_gltfpack_compression_is_refused_by_name(demo, tmp_path, mode):
    options, extension = GLTFPACK_REFUSED[mode]
    gltfpack(demo[0], tmp_path / "made.glb", options)
    with pytest.raises(ValueError, match=rf"made.glb.*{extension}.*save it without"):
        load_mesh(tmp_path / "made.glb")


@pytest.mark.parametrize("mode", TRANSFORM)
def test_gltf_transform(scene_as_read, tmp_path, mode):
    path, truth = scene_as_read
    options, word, exact = TRANSFORM[mode]
    made = tmp_path / ("made.gltf" if mode == "partition" else "made.glb")  # separate files: buffers and picture
    transform(path, made, mode, options)
    assert word.encode() in made.read_bytes()
    same_picture(load_mesh(made), truth, EXACT if exact else LEAST)


@pytest.mark.parametrize("mode", ["gltfpack", "draco", "quantize", "webp"])
def test_a_saved_mesh_through_them(demo_as_read, tmp_path, mode):
    path, truth = demo_as_read
    if mode == "gltfpack":
        gltfpack(path, tmp_path / "made.glb", [])
    else:
        transform(path, tmp_path / "made.glb", mode, [])
    same_picture(load_mesh(tmp_path / "made.glb"), truth, LEAST)


@pytest.mark.parametrize("mode", TRANSFORM_REFUSED)
def test_gltf_transform_compression_is_refused_by_name(demo, tmp_path, mode):
    options, extension = TRANSFORM_REFUSED[mode]
    transform(demo[0], tmp_path / "made.glb", mode, options)
    with pytest.raises(ValueError, match=rf"made.glb.*{extension}.*save"):
        load_mesh(tmp_path / "made.glb")
