"""Textures of one glTF material on different uvs: the surface shows the same when they share one layout."""

import numpy as np
import pytest
import torch
from formats.gltf_samples import Gltf
from lathe.pipelines.formats import gltf_layouts
from lathe.pipelines.formats.meshes import load_mesh
from lathe.pipelines.ops.texture_sampling import sample_texture

QUAD = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype=np.float64)
UVS = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], dtype=np.float64)
FACES = [0, 1, 2, 0, 2, 3]
TURNED = np.array([[0, 0], [0, 1], [1, 1], [1, 0]], dtype=np.float64)  # u grows with y, v (downward) with x
LEFT, RIGHT = UVS * [0.45, 0.9] + [0.02, 0.05], UVS * [0.45, 0.9] + [0.52, 0.05]  # two places of a lightmap


def noise(seed, size=32):
    """Smooth, where it repeats as well, so that resampling is forgiving."""
    small = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    small = torch.cat([small, small.flip(2)], dim=2)
    small = torch.cat([small, small.flip(3)], dim=3)
    big = torch.nn.functional.interpolate(small, size=(size, size), mode="bilinear")[0].movedim(0, -1)
    return (big * 255).round().to(torch.uint8).numpy()


def saved(gltf, tmp_path, *primitives):
    gltf.node(mesh=gltf.mesh(*primitives))
    return load_mesh(gltf.save(tmp_path / "a.glb"))


def inner_points(mesh, n=300):
    random = torch.Generator().manual_seed(0)
    bary = torch.rand(n, 3, generator=random) + 0.05
    return torch.randint(len(mesh.faces), (n,), generator=random), bary / bary.sum(1, keepdim=True)


def shown(mesh, image, uvs=None):
    """The values of an image at points of the surface, by the mesh's uvs or by others of the same vertices."""
    uvs = mesh.uvs if uvs is None else torch.from_numpy(uvs.copy()).float()
    face, bary = inner_points(mesh)
    return sample_texture(image, (uvs[mesh.faces[face]] * bary[..., None]).sum(1))


def picture(pixels):
    return torch.from_numpy(pixels).float() / 255


def assert_close(one, other, tolerance=0.02):
    torch.testing.assert_close(one, other, atol=tolerance, rtol=0)


@pytest.mark.parametrize("lightmap", [TURNED, LEFT, UVS[:, ::-1], 1 - UVS])
def test_occlusion_on_its_own_uvs_comes_into_the_base_textures_layout(tmp_path, lightmap, caplog):
    gltf = Gltf()
    base, shine, occlusion = noise(1), noise(2, 16), noise(3, 64)
    paint = gltf.material(
        baseColorTexture=gltf.texture_info(base),
        metallicRoughnessTexture=gltf.texture_info(shine),
        occlusionTexture=gltf.texture_info(occlusion, uv=1),
    )
    attributes = {"POSITION": QUAD, "TEXCOORD_0": UVS, "TEXCOORD_1": lightmap}
    mesh = saved(gltf, tmp_path, gltf.primitive(attributes, FACES, material=paint))
    assert torch.equal(mesh.texture, picture(base)) and torch.equal(mesh.uvs, torch.from_numpy(UVS).float())
    read = shown(mesh, mesh.material.metallic_roughness)
    assert mesh.material.occlusion_in_red
    assert_close(read[:, 0], shown(mesh, picture(occlusion), lightmap)[:, 0])
    assert_close(read[:, 1:], shown(mesh, picture(shine), UVS)[:, 1:])
    assert len(caplog.records) == 1 and "resampled to one layout at 256 pixels" in caplog.text


@pytest.mark.parametrize("base_uvs", [UVS * 3, UVS * 2 - 0.5])
def test_a_repeating_base_texture_comes_into_the_lightmaps_layout(tmp_path, base_uvs, caplog):
    gltf = Gltf()
    base, occlusion = noise(1, 200), noise(2)
    paint = gltf.material(baseColorTexture=gltf.texture_info(base), occlusionTexture=gltf.texture_info(occlusion, uv=1))
    attributes = [{"POSITION": QUAD + [2 * i, 0, 0], "TEXCOORD_0": base_uvs, "TEXCOORD_1": uv} for i, uv in enumerate((LEFT, RIGHT))]
    mesh = saved(gltf, tmp_path, *(gltf.primitive(one, FACES, material=paint) for one in attributes))
    assert_close(mesh.uvs, torch.from_numpy(np.concatenate([LEFT, RIGHT])).float(), 1e-6)
    assert_close(shown(mesh, mesh.texture), shown(mesh, picture(base), np.concatenate([base_uvs] * 2)), 0.04)
    assert_close(shown(mesh, mesh.material.metallic_roughness)[:, 0], shown(mesh, picture(occlusion))[:, 0])
    reach = np.ptp(base_uvs[:, 0])
    assert mesh.texture.shape[0] >= 200 * reach  # the base texture's density
    assert f"at {mesh.texture.shape[0]} pixels" in caplog.text and "coarser" not in caplog.text


def test_all_maps_come_into_one_layout_each_in_its_place(tmp_path):
    gltf = Gltf()
    base, shine, glow, occlusion = (noise(seed, 64) for seed in range(4))
    paint = gltf.material(
        baseColorTexture=gltf.texture_info(base),
        metallicRoughnessTexture=gltf.texture_info(shine),
        emissiveTexture=gltf.texture_info(glow), emissiveFactor=[1, 1, 1],
        occlusionTexture=gltf.texture_info(occlusion, uv=1),
    )  # fmt: skip
    attributes = {"POSITION": QUAD, "TEXCOORD_0": UVS * 2, "TEXCOORD_1": LEFT}
    mesh = saved(gltf, tmp_path, gltf.primitive(attributes, FACES, material=paint))
    read = shown(mesh, mesh.material.metallic_roughness)
    assert_close(shown(mesh, mesh.texture), shown(mesh, picture(base), UVS * 2), 0.04)
    assert_close(shown(mesh, mesh.material.emissive), shown(mesh, picture(glow), UVS * 2), 0.04)
    assert_close(read[:, 1:], shown(mesh, picture(shine), UVS * 2)[:, 1:], 0.04)
    assert_close(read[:, 0], shown(mesh, picture(occlusion))[:, 0])


def test_what_would_be_too_large_gets_coarser_and_that_is_said(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(gltf_layouts, "MOST_PIXELS", 300)
    gltf = Gltf()
    paint = gltf.material(baseColorTexture=gltf.texture_info(noise(1, 200)), occlusionTexture=gltf.texture_info(noise(2), uv=1))
    attributes = {"POSITION": QUAD, "TEXCOORD_0": UVS * 4, "TEXCOORD_1": UVS}
    mesh = saved(gltf, tmp_path, gltf.primitive(attributes, FACES, material=paint))
    assert mesh.texture.shape[:2] == (300, 300) and "at 300 pixels, coarser" in caplog.text
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("uvs", "value"),
    [
        (TURNED, (0.5, 0.75)),  # its u is the base's up
        (UVS * [-1, 1] + [1, 0], (0.25, 0.5)),  # mirrored
        (1 - UVS, (0.25, 0.5)),  # turned by half
    ],
)
def test_a_normal_map_is_turned_to_the_axes_of_its_new_layout(tmp_path, uvs, value):
    gltf = Gltf()
    tilted = np.full((8, 8, 3), (191, 128, 238), np.uint8)
    paint = gltf.material(baseColorTexture=gltf.texture_info(noise(1)), normalTexture=gltf.texture_info(tilted, uv=1))
    attributes = {
        "POSITION": QUAD, "NORMAL": [[0, 0, 1]] * 4, "TANGENT": [[0, 1, 0, 1]] * 4, "TEXCOORD_0": UVS, "TEXCOORD_1": uvs,
    }  # fmt: skip
    mesh = saved(gltf, tmp_path, gltf.primitive(attributes, FACES, material=paint))
    assert_close(mesh.material.normal_map[..., :2], torch.tensor(value).expand(*mesh.material.normal_map.shape[:2], 2), 0.01)
    assert mesh.tangents is None  # those of the file were made for the other uvs


def test_tangents_stay_where_the_normal_map_stays(tmp_path):
    gltf = Gltf()
    paint = gltf.material(
        baseColorTexture=gltf.texture_info(noise(1)),
        normalTexture=gltf.texture_info(noise(2)),
        occlusionTexture=gltf.texture_info(noise(3), uv=1),
    )
    attributes = {"POSITION": QUAD, "NORMAL": [[0, 0, 1]] * 4, "TANGENT": [[1, 0, 0, 1]] * 4, "TEXCOORD_0": UVS, "TEXCOORD_1": TURNED}
    mesh = saved(gltf, tmp_path, gltf.primitive(attributes, FACES, material=paint))
    assert torch.equal(mesh.material.normal_map, picture(noise(2))) and mesh.tangents is not None


def test_details_of_another_scale_on_a_mirrored_layout(tmp_path):
    """Both halves lie on one place of the texture, and read the same of the details there."""
    gltf = Gltf()
    detail = noise(2, 64)
    paint = gltf.material(
        baseColorTexture=gltf.texture_info(noise(1)),
        emissiveTexture=gltf.texture_info(detail, scale=(4, 4)), emissiveFactor=[1, 1, 1],
    )  # fmt: skip
    places = np.concatenate([QUAD, QUAD * [-1, 1, 1]])
    attributes = {"POSITION": places, "TEXCOORD_0": np.concatenate([UVS, UVS])}
    mesh = saved(gltf, tmp_path, gltf.primitive(attributes, [*FACES, 4, 6, 5, 4, 7, 6], material=paint))
    assert torch.equal(mesh.texture, picture(noise(1)))
    assert_close(shown(mesh, mesh.material.emissive), shown(mesh, picture(detail), np.concatenate([UVS, UVS]) * 4), 0.04)


def test_instances_share_a_lightmap(tmp_path):
    gltf = Gltf()
    paint = gltf.material(baseColorTexture=gltf.texture_info(noise(1)), occlusionTexture=gltf.texture_info(noise(2), uv=1))
    gltf.node(mesh=gltf.mesh(gltf.primitive({"POSITION": QUAD, "TEXCOORD_0": UVS, "TEXCOORD_1": TURNED}, FACES, material=paint)))
    gltf.node(mesh=0, translation=[3, 0, 0])
    mesh = load_mesh(gltf.save(tmp_path / "a.glb"))
    assert len(mesh.vertices) == 8 and mesh.material.occlusion_in_red


def test_an_odd_map_that_is_clamped(tmp_path):
    gltf = Gltf()
    odd = noise(2)
    info = gltf.texture_info(odd, uv=1, sampler={"wrapS": 33071, "wrapT": 33071})
    paint = gltf.material(baseColorTexture=gltf.texture_info(noise(1)), emissiveTexture=info, emissiveFactor=[1, 1, 1])
    attributes = {"POSITION": QUAD, "TEXCOORD_0": UVS, "TEXCOORD_1": UVS * 3 - 1}
    mesh = saved(gltf, tmp_path, gltf.primitive(attributes, FACES, material=paint))
    padded = np.pad(odd, ((32, 32), (32, 32), (0, 0)), mode="edge")
    assert_close(shown(mesh, mesh.material.emissive), shown(mesh, picture(padded), UVS), 0.04)


@pytest.mark.parametrize("case", ["both repeat", "both overlap", "the set is missing on one part", "no area", "far away"])
def test_a_map_is_left_out_where_no_layout_serves(tmp_path, case, caplog):
    sets = {
        "both repeat": [(UVS * 2, UVS * 3)],
        "both overlap": [(UVS, UVS), (UVS, TURNED)],
        "the set is missing on one part": [(LEFT, TURNED), (RIGHT, None)],
        "no area": [(UVS * 2, UVS * 0)],
        "far away": [(UVS, UVS * 1e30)],
    }[case]
    gltf = Gltf()
    paint = gltf.material(baseColorTexture=gltf.texture_info(noise(1)), normalTexture=gltf.texture_info(noise(2), uv=1))
    primitives = []
    for number, (base, other) in enumerate(sets):
        attributes = {"POSITION": QUAD + [2 * number, 0, 0], "TEXCOORD_0": base}
        primitives.append(gltf.primitive(attributes if other is None else {**attributes, "TEXCOORD_1": other}, FACES, material=paint))
    mesh = saved(gltf, tmp_path, *primitives)
    assert torch.equal(mesh.texture, picture(noise(1))) and mesh.material.normal_map is None
    assert len(caplog.records) == 1 and "its normal texture is left out, its UVs differ" in caplog.text


def test_resampling_can_be_cancelled(tmp_path):
    gltf = Gltf()
    paint = gltf.material(baseColorTexture=gltf.texture_info(noise(1)), normalTexture=gltf.texture_info(noise(2), uv=1))
    gltf.node(mesh=gltf.mesh(gltf.primitive({"POSITION": QUAD, "TEXCOORD_0": UVS, "TEXCOORD_1": TURNED}, FACES, material=paint)))
    totals = []
    load_mesh(gltf.save(tmp_path / "a.glb"), tick=lambda done, total, preview=None: totals.append(total))
    assert 256 * 256 in totals
