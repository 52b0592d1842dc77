"""MESH sockets carry the whole of a mesh: on this core, and on the MESH of newer cores, whose parameters are written down here."""

from dataclasses import fields, replace

import pytest
import torch
from comfy_api.latest import Types
from lathe.nodes.core import mesh as sockets
from lathe.pipelines.data.material import Material
from lathe.pipelines.data.mesh import Mesh
from lathe.pipelines.ops.color import linear_to_srgb, srgb_to_linear


class NewerMesh:
    """The parameters of MESH in core 0.33, in their order, with their defaults."""

    def __init__(
        self, vertices, faces, uvs=None, vertex_colors=None, texture=None, metallic_roughness=None, vertex_counts=None, face_counts=None,
        unlit=False, normals=None, tangents=None, normal_map=None, occlusion_in_mr=False, material=None, emissive=None,
    ):  # fmt: skip
        assert (vertex_counts is None) == (face_counts is None)
        self.__dict__.update({key: value for key, value in locals().items() if key != "self"})


@pytest.fixture(params=["this core", "core 0.33"])
def core_mesh(request, monkeypatch):
    if request.param == "core 0.33":
        monkeypatch.setattr(Types, "MESH", NewerMesh)
    return Types.MESH


def rows(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def rich(n=5, alpha=True, **changes):
    normals = torch.nn.functional.normalize(rows(n, 3, seed=1) - 0.5, dim=1)
    material = Material(
        metallic_roughness=rows(4, 4, 3, seed=2), metallic=0.5, roughness=0.25, occlusion_in_red=True, occlusion_strength=0.5,
        normal_map=rows(4, 4, 3, seed=3), normal_scale=0.75, emissive=rows(4, 4, 3, seed=4), emissive_factor=(1.0, 0.5, 0.25),
        emissive_strength=2.0, alpha_mode="MASK" if alpha else "OPAQUE", alpha_cutoff=0.25, double_sided=True, unlit=True,
    )  # fmt: skip
    channels = 4 if alpha else 3
    mesh = Mesh(
        rows(n, 3), torch.tensor([[0, 1, 2], [0, 2, 3]]), rows(n, 2), rows(6, 6, channels), rows(n, channels), normals,
        torch.cat([normals.roll(1, 1), torch.ones(n, 1)], dim=1), material,
    )  # fmt: skip
    return replace(mesh, **changes)


def assert_equal(one, other):
    for f in (*fields(Mesh), *fields(Material)):
        mine, theirs = (getattr(m if hasattr(m, f.name) else m.material, f.name) for m in (one, other))
        if isinstance(mine, torch.Tensor):
            torch.testing.assert_close(theirs, mine, msg=f.name)
        elif f.name != "material":
            assert mine == theirs, f.name


@pytest.mark.parametrize("alpha", [True, False])
def test_everything_comes_back(core_mesh, alpha):
    mesh = rich(alpha=alpha)
    core = sockets.to_core_mesh([mesh])
    assert isinstance(core, core_mesh)
    assert core.texture.shape == (1, 6, 6, 3)  # newer cores save nothing else
    assert_equal(mesh, sockets.from_core_mesh(core)[0])


def test_a_batch_of_different_sizes_comes_back(core_mesh):
    first, second = rich(5), rich(7)
    for mesh, back in zip((first, second), sockets.from_core_mesh(sockets.to_core_mesh([first, second])), strict=True):
        assert_equal(mesh, back)


def test_a_plain_mesh_says_nothing_of_materials(core_mesh):
    core = sockets.to_core_mesh([Mesh(rows(3, 3), torch.tensor([[0, 1, 2]]))])
    assert core.material is None and core.metallic_roughness is None and core.normals is None and core.unlit is False


def test_members_of_a_batch_keep_their_own_look(core_mesh, caplog):
    """A batch has one set of factors; each member's own are in its maps."""
    green = torch.tensor([0.0, 1.0, 0.0])
    plain = rich(material=Material(metallic=0.25, roughness=0.75), texture=None, vertex_colors=green.expand(5, 3).clone())
    first = rich(alpha=False)
    first = replace(first, material=replace(first.material, double_sided=False, unlit=False, emissive_strength=0.5))
    back = sockets.from_core_mesh(sockets.to_core_mesh([first, plain]))
    shine = back[1].material.metallic_roughness * torch.tensor([1, back[1].material.roughness, back[1].material.metallic])
    torch.testing.assert_close(shine, torch.tensor([1, 0.75, 0.25]).expand_as(shine))
    assert float(back[1].material.emissive.max()) == 0  # it does not glow
    glow = first.material.emissive_factor[1] * first.material.emissive_strength
    wanted = linear_to_srgb(srgb_to_linear(first.material.emissive[..., 1]) * glow)
    torch.testing.assert_close(back[0].material.emissive[..., 1], wanted)
    occlusion = 1 + 0.5 * (first.material.metallic_roughness[..., 0] - 1)
    torch.testing.assert_close(back[0].material.metallic_roughness[..., 0], occlusion)
    assert not caplog.records


def test_what_a_batch_cannot_hold_apart_is_said(core_mesh, caplog):
    sockets.to_core_mesh([rich(), rich(material=Material())])
    assert "alpha mode, double sided, unlit, alpha cutoff, emission brighter than 1 cannot differ" in caplog.text


def test_factors_of_other_nodes_are_read_as_core_writes_them():
    core = NewerMesh(
        rows(1, 4, 3), torch.tensor([[[0, 1, 2]]]), uvs=rows(1, 4, 2), texture=torch.ones(1, 2, 2, 3), metallic_roughness=rows(1, 2, 2, 3),
        emissive=rows(1, 2, 2, 3), material={"base_color_factor": [0.25, 1, 1], "metallic_factor": -1.0, "roughness_factor": 0.5},
    )  # fmt: skip
    mesh = sockets.from_core_mesh(core)[0]
    assert (mesh.material.metallic, mesh.material.roughness) == (1.0, 0.5)
    assert mesh.material.emissive_factor == (1.0, 1.0, 1.0) and mesh.material.double_sided
    torch.testing.assert_close(mesh.texture[0, 0], torch.tensor([0.5371, 1, 1]), atol=1e-3, rtol=0)


def test_lists_of_tensors_are_batches():
    one = [rows(4, 3), rows(6, 3)]
    faces = [torch.tensor([[0, 1, 2]]), torch.tensor([[0, 1, 5], [1, 2, 5]])]
    meshes = sockets.from_core_mesh(NewerMesh(one, faces, normals=[torch.nn.functional.normalize(v, dim=1) for v in one]))
    assert [len(m.vertices) for m in meshes] == [4, 6] and [len(m.faces) for m in meshes] == [1, 2]
    assert torch.equal(meshes[1].vertices, one[1])


NONSENSE = {
    "text": {"vertices": "here"},
    "nothing": {"vertices": None},
    "one dimension": {"vertices": rows(4)},
    "too few uvs": {"uvs": rows(1, 3, 2)},
    "nan in uvs": {"uvs": torch.full((1, 4, 2), torch.nan)},
    "nan in colours": {"vertex_colors": torch.full((1, 4, 3), torch.nan)},
    "nan in a map": {"uvs": rows(1, 4, 2), "normal_map": torch.full((1, 2, 2, 3), torch.nan)},
    "nan faces": {"faces": torch.full((1, 2, 3), torch.nan)},
    "faces of nobody": {"faces": torch.tensor([[[0, 1, 9]]])},
    "far away": {"vertices": torch.full((1, 4, 3), 1e30)},
    "a material of text": {"material": {"metallic_factor": "much"}},
    "a factor of two": {"material": {"base_color_factor": [1, 1]}},
    "other counts": {"vertices": rows(2, 4, 3)},
    "a map of the wrong shape": {"uvs": rows(1, 4, 2), "emissive": rows(1, 4, 4, 2)},
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_is_refused_in_words(kind):
    given = {"vertices": rows(1, 4, 3), "faces": torch.tensor([[[0, 1, 2], [0, 2, 3]]]), **NONSENSE[kind]}
    with pytest.raises(ValueError, match="(?i)mesh|material"):
        sockets.from_core_mesh(NewerMesh(**given))


def test_pictures_without_uvs_are_left_out_and_said(caplog):
    core = NewerMesh(rows(1, 4, 3), torch.tensor([[[0, 1, 2]]]), texture=rows(1, 4, 4, 3))
    assert sockets.from_core_mesh(core)[0].texture is None
    assert "no UVs" in caplog.text
