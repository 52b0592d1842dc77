"""The check at the end of every session finds invalid files of Lathe's and judges no others; the builder of sample files passes it too."""

import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import node_tools
import numpy as np
import pytest
import torch
from formats.gltf_samples import FAN, LINE_LOOP, LINE_STRIP, LINES, POINTS, STRIP, Gltf
from lathe.pipelines.data.material import Material
from lathe.pipelines.data.mesh import Mesh
from lathe.pipelines.formats.meshes import save_mesh
from lathe_root import ROOT
from written_glbs import InvalidFiles, check_written_glbs, written_by_lathe

QUAD = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype=float)
TWO = [0, 1, 2, 0, 2, 3]


@pytest.fixture
def folder():
    """One that the session's own check does not look into."""
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


@pytest.fixture
def node():
    try:
        node_tools.packages()
    except LookupError as problem:
        pytest.skip(f"no glTF tools: {problem}")


def quad(generator: str = "Lathe") -> Gltf:
    gltf = Gltf()
    gltf.tree["asset"]["generator"] = generator
    gltf.node(mesh=gltf.mesh(gltf.primitive({"POSITION": QUAD}, TWO)))
    return gltf


def planted(folder: Path, generator: str = "Lathe") -> Path:
    """A file with an index beyond its vertices."""
    gltf = quad(generator)
    gltf.tree["meshes"][0]["primitives"][0]["indices"] = gltf.accessor([0, 1, 9], "u4", target=34963, bounds=False)
    return gltf.save(folder / "planted.glb")


def test_an_invalid_file_is_named_with_its_error(node, folder):
    quad().save(folder / "good.glb")
    (folder / "below").mkdir()
    path = planted(folder / "below")
    with pytest.raises(InvalidFiles, match="1 of 2 GLB files that Lathe wrote are not valid") as caught:
        check_written_glbs([folder])
    assert str(path) in str(caught.value) and "ACCESSOR_INDEX_OOB" in str(caught.value) and "good.glb" not in str(caught.value)


def test_a_session_that_writes_an_invalid_file_fails(node, folder):
    test = folder / "test_writes.py"
    test.write_text("from test_written_glbs import planted\n\ndef test_passes(tmp_path):\n    planted(tmp_path)\n")
    shutil.copy(ROOT / "tests" / "conftest.py", folder)
    command = [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "--rootdir", ROOT, "--basetemp", folder / "tmp", test]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=ROOT, stdin=subprocess.DEVNULL)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "ACCESSOR_INDEX_OOB" in done.stdout and "1 passed, 1 error" in done.stdout.splitlines()[-1]


def test_what_lathe_writes_is_found_and_nothing_else(folder):
    own = save_mesh(Mesh(torch.tensor(QUAD).float(), torch.tensor([TWO]).reshape(2, 3)), folder / "own.glb")[-1]
    data = own.read_bytes()
    assert struct.unpack_from("<I", data, 8) == (len(data),)
    (folder / "cut.glb").write_bytes(data[:-8])
    (folder / "empty.glb").write_bytes(b"")
    planted(folder, "somebody else")
    assert written_by_lathe([folder, folder / "missing"]) == [own]
    assert check_written_glbs([folder / "missing"]) == ""


@pytest.mark.parametrize("seed", range(3))
def test_whatever_a_mesh_carries_is_written_as_valid_gltf(node, folder, seed):
    """Meshes from 1e-30 to 1e12 across; normals and tangents of no length, or any; numbers of materials outside their ranges."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*choices):
        return choices[int(torch.randint(len(choices), (), generator=generator))]

    def numbers(*shape):
        return torch.rand(*shape, generator=generator)

    for index in range(25):
        n = draw(3, 30, 300)
        material = Material(
            metallic_roughness=draw(None, numbers(6, 4, 3)),
            normal_map=draw(None, numbers(1, 1, 3)),
            emissive=draw(None, numbers(3, 5, 3)),
            metallic=draw(0.0, 1.0, -2.0, 3.0),
            roughness=draw(0.0, 1.0, -1.0, 9.0),
            occlusion_in_red=draw(True, False),
            occlusion_strength=draw(1.0, 0.4, -1.0, 7.0),
            normal_scale=draw(1.0, -3.0, 0.0, 1e30),
            emissive_factor=(draw(0.0, 4.0, -2.0), draw(0.0, 0.5, 1e30), 1.0),
            emissive_strength=draw(1.0, 0.0, 5.0, -2.0),
            alpha_mode=draw("OPAQUE", "MASK", "BLEND"),
            alpha_cutoff=draw(0.5, -1.0, 3.0),
            double_sided=draw(True, False),
            unlit=draw(True, False),
        )
        length = (0.0, 1e-30, 7e-13, 1e-6, 1.0, 5.0, 1e30)
        mesh = Mesh(
            (numbers(n, 3) * 2 - 1) * draw(1e-30, 1e-20, 1e-9, 1e-6, 1e-5, 1e-4, 1.0, 1e6, 1e12) * 0.99,
            torch.randint(n, (draw(1, 40, 500), 3), generator=generator),
            numbers(n, 2) * draw(1.0, 1e6) - 0.5,
            draw(None, numbers(7, 5, 3), numbers(1, 1, 4)),
            draw(None, numbers(n, 3), numbers(n, 4) * 1.5 - 0.2),
            draw(None, (numbers(n, 3) * 2 - 1) * draw(*length)),
            draw(None, (numbers(n, 4) * 2 - 1) * draw(*length)),
            material,
        )
        save_mesh(mesh, folder / f"{index}.glb")
    assert check_written_glbs([folder]).startswith("25 GLB files that Lathe wrote have no errors")


def test_where_node_is_missing_the_report_says_so(folder, monkeypatch):
    planted(folder)
    monkeypatch.setattr(node_tools, "_installed", lambda: (None, "there is no node or no npm on the PATH"))
    assert check_written_glbs([folder]) == "1 GLB files that Lathe wrote were not validated: there is no node or no npm on the PATH"


def test_a_registry_that_does_not_answer_is_said(folder, monkeypatch):
    if shutil.which("npm") is None:
        pytest.skip("no npm")
    monkeypatch.setattr(node_tools, "INSTALLED", folder / "node")
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    monkeypatch.setenv("npm_config_cache", str(folder / "cache"))
    found, problem = node_tools._installed.__wrapped__()
    assert found is None and "npm could not install" in problem and "ECONNREFUSED" in problem


def test_the_sample_builder_writes_valid_files(node, folder):
    uv = QUAD[:, :2]
    for component in ("i1", "u1", "i2", "u2"):
        for normalized in (False, True):
            gltf = Gltf()
            gltf.use("KHR_mesh_quantization", required=True)
            attributes = {
                "POSITION": gltf.accessor(QUAD, component, normalized=normalized),
                "TEXCOORD_0": gltf.accessor(uv, component, normalized=normalized, stride=8),
            }
            gltf.node(mesh=gltf.mesh(gltf.primitive(attributes, TWO, index_component=component if component[0] == "u" else "u4")))
            gltf.save(folder / f"{component}{normalized}.glb")
    for mode, indices in ((POINTS, None), (LINES, None), (LINE_LOOP, None), (LINE_STRIP, None), (STRIP, [0, 1, 3, 2]), (FAN, None)):
        gltf = Gltf()
        gltf.node(mesh=gltf.mesh(gltf.primitive({"POSITION": QUAD}, indices, mode=mode)))
        gltf.save(folder / f"mode{mode}.glb")
    for number, how in enumerate(({"base": QUAD * 0}, {"sparse": True, "sparse_index": "u1"}, {"stride": 20, "offset": 8})):
        gltf = Gltf()
        gltf.node(mesh=gltf.mesh(gltf.primitive({"POSITION": gltf.accessor(QUAD, **how)}, TWO)))
        gltf.save(folder / f"stored{number}.glb")
    full_scene().save(folder / "full.glb")
    version, faults = node_tools.validate(sorted(folder.glob("*.glb")))
    assert version == "2.0.0-dev.3.10" and faults == {}


def full_scene() -> Gltf:
    """Material with a moved texture, two uv sets, colours, skin, morph targets, hierarchy, instances."""
    gltf = Gltf()
    uv = QUAD[:, :2]
    picture = gltf.texture_info(np.full((4, 4, 4), 200, np.uint8), uv=1, sampler={"wrapS": 33071}, offset=[0.5, 0], rotation=0.3)
    attributes = {
        "POSITION": QUAD,
        "TEXCOORD_0": uv,
        "TEXCOORD_1": gltf.accessor(uv, "u2", normalized=True),
        "COLOR_0": gltf.accessor(np.ones((4, 4)), "u1", normalized=True),
        "JOINTS_0": np.zeros((4, 4)),
        "WEIGHTS_0": np.tile([1.0, 0, 0, 0], (4, 1)),
    }
    material = gltf.material(baseColorTexture=picture, alphaMode="MASK", unlit=True, doubleSided=True)
    targets = [{"POSITION": QUAD * 0.1}, {"POSITION": gltf.accessor(QUAD * 0.3, sparse=True)}]
    mesh = gltf.mesh(gltf.primitive(attributes, TWO, material=material, targets=targets), weights=[0.5, 0])
    hip = gltf.node(translation=[0, 1, 0])
    knee = gltf.node(parent=hip, matrix=np.eye(4))
    gltf.node(mesh=mesh, skin=gltf.skin([hip, knee], np.stack([np.eye(4)] * 2)))
    copies = gltf.node(mesh=gltf.mesh(gltf.primitive({"POSITION": QUAD}, TWO)))
    turns = gltf.accessor([[0, 0, 0, 1.0]] * 2, "i2", normalized=True, target=None)
    gltf.instances(copies, TRANSLATION=np.array([[0, 0, 0], [2, 0, 0]]), ROTATION=turns)
    return gltf
