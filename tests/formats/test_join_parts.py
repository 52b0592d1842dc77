"""Several parts as one mesh: atlases that look as the parts did, and what is said of the rest."""

import numpy as np
import pytest
import torch
from formats.gltf_samples import Gltf
from lathe.pipelines.data.material import Material
from lathe.pipelines.formats import atlas, join_parts
from lathe.pipelines.formats.join_parts import join
from lathe.pipelines.formats.meshes import load_mesh
from lathe.pipelines.formats.parts import Contents, Look, Part
from lathe.pipelines.ops.mesh_colors import colors_on_faces
from lathe.pipelines.ops.texture_sampling import sample_texture

QUAD = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype=np.float64)
UVS = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], dtype=np.float64)
FACES = np.array([[0, 1, 2], [0, 2, 3]])


def picture(height, width, seed, channels=3):
    """Smooth noise, so that a texel's middle and its neighbours are told apart but sampling is forgiving."""
    small = torch.rand(1, channels, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(small, size=(height, width), mode="bilinear")[0].movedim(0, -1).contiguous().numpy()


def part(look, at=0.0, uvs=UVS, **more):
    return Part(QUAD + [at, 0, 0], FACES, look, uvs, **more)


def joined(*parts):
    contents = Contents(list(parts))
    return join(contents), contents.notes


def inner_points(n=400, seed=0):
    """Faces and places on them, (N,) and (N, 3)."""
    random = torch.Generator().manual_seed(seed)
    bary = torch.rand(n, 3, generator=random) + 0.02
    return torch.randint(2, (n,), generator=random), bary / bary.sum(1, keepdim=True)


def assert_looks_like(mesh, number, given, tolerance=0.02):
    """Part `number` of the mesh, in order of its faces, shows the colours of a part alone."""
    alone = join(Contents([given]))
    face, bary = inner_points()
    rows = mesh.faces[2 * number : 2 * number + 2]
    torch.testing.assert_close(
        colors_on_faces(mesh, face + 2 * number, bary),
        colors_on_faces(alone, face, bary),
        atol=tolerance,
        rtol=0,
        msg=f"part {number}, {rows}",
    )


def test_textures_of_different_sizes_and_none():
    parts = [
        part(Look(picture(64, 64, 1))),
        part(Look(picture(32, 48, 2), np.array([0.5, 1, 0.25, 1], np.float32)), 2),
        part(Look(None, np.array([0.1, 0.2, 0.9, 1], np.float32)), 4),
        part(Look(picture(16, 16, 3), np.array([0.9, 0.2, 0.1, 1], np.float32)), 6, uvs=None),
        part(Look(picture(20, 20, 4)), 8, colors=np.full((4, 3), 0.5, np.float32)),
    ]
    mesh, notes = joined(*parts)
    assert mesh.texture.shape[2] == 3 and len(mesh.faces) == 10
    assert notes == ["an object without UVs has a material with pictures, which are left out there"]
    for number, given in enumerate(parts):
        assert_looks_like(mesh, number, given)


@pytest.mark.parametrize("uvs", [UVS * 3, UVS * 2.5 - 0.7, UVS + 100, UVS * [1, -1], UVS * 0.5 + [0.75, 0.25]])
def test_textures_that_repeat(uvs):
    parts = [part(Look(picture(32, 32, 1)), uvs=uvs), part(Look(picture(16, 16, 2)), 2)]
    mesh, _ = joined(*parts)
    assert float(mesh.uvs.min()) > 0 and float(mesh.uvs.max()) < 1
    assert_looks_like(mesh, 0, parts[0])
    assert_looks_like(mesh, 1, parts[1])


def test_many_repeats_get_coarser_and_that_is_said():
    mesh, notes = joined(part(Look(picture(256, 256, 1)), uvs=UVS * 20), part(Look(picture(16, 16, 2)), 2))
    assert any("coarser" in note for note in notes) and max(mesh.texture.shape[:2]) <= 8192


def test_an_atlas_that_would_be_too_large_shrinks_and_that_is_said(monkeypatch):
    monkeypatch.setattr(atlas, "LARGEST_SIDE", 128)
    parts = [part(Look(picture(128, 128, 1))), part(Look(picture(64, 128, 2)), 2)]
    mesh, notes = joined(*parts)
    assert max(mesh.texture.shape[:2]) <= 128 and any("times smaller" in note for note in notes)
    for number, given in enumerate(parts):
        assert_looks_like(mesh, number, given, tolerance=0.1)


def test_equal_materials_of_two_objects_share_one_texture_without_an_atlas():
    mesh, _ = joined(part(Look(picture(8, 8, 1))), part(Look(picture(8, 8, 1)), 2))
    assert mesh.texture.shape[:2] == (8, 8) and torch.equal(mesh.uvs[:4], mesh.uvs[4:])


def test_pictures_of_many_materials_are_compared_once_each(monkeypatch):
    """Equal at a glance, so that only the whole picture tells them apart."""
    digested = []
    real = join_parts.blake2b
    monkeypatch.setattr(join_parts, "blake2b", lambda data: digested.append(len(data)) or real(data))
    pictures = [np.zeros((64, 64, 3), np.float32) for _ in range(20)]
    for number, image in enumerate(pictures):
        image[1, 1] = number / 20
    parts = [part(Look(image), 2 * number) for number, image in enumerate(pictures)]
    again = [part(Look(image.copy()), 2 * number, UVS) for number, image in enumerate(pictures)]
    mesh, _ = joined(*parts, *again)
    assert len(digested) == 40
    assert torch.equal(mesh.uvs[:80], mesh.uvs[80:])
    for number, given in enumerate(parts):
        assert_looks_like(mesh, number, given)


@pytest.mark.parametrize("differs", ["texture", "factor", "map", "sides", "occlusion"])
def test_materials_that_differ_in_one_thing_stay_apart(differs):
    image, other = picture(8, 8, 1), picture(8, 8, 1)
    shine = [torch.full((8, 8, 3), 0.5), torch.full((8, 8, 3), 0.5)]
    factor = np.ones(4, np.float32)
    material = Material(metallic_roughness=shine[1])
    if differs == "texture":
        other[3, 3, 1] += 1e-3
    elif differs == "factor":
        factor[1] = 0.5
    elif differs == "map":
        shine[1][3, 3, 1] = 0.25
    elif differs == "sides":
        material = Material(metallic_roughness=shine[1], double_sided=True)
    else:
        material = Material(metallic_roughness=shine[1], occlusion_in_red=True)
    mesh, _ = joined(part(Look(image, material=Material(metallic_roughness=shine[0]))), part(Look(other, factor, material), 2))
    assert mesh.texture.shape[:2] != (8, 8)


def test_maps_and_factors_meet_in_the_atlas():
    grey = torch.full((8, 8, 3), 0.5)
    first = Material(
        metallic_roughness=grey, metallic=1.0, roughness=0.5, normal_map=torch.tensor([0.75, 0.5, 0.93]).expand(8, 8, 3).clone()
    )
    second = Material(metallic=0.25, roughness=0.75, emissive_factor=(0.0, 1.0, 0.0), double_sided=True)
    mesh, notes = joined(part(Look(picture(8, 8, 1), material=first)), part(Look(picture(8, 8, 2), material=second), 2))
    middle = mesh.uvs[mesh.faces[[0, 2]]].mean(1)
    shine = sample_texture(mesh.material.metallic_roughness, middle)
    torch.testing.assert_close(shine[:, 1:], torch.tensor([[0.25, 0.5], [0.75, 0.25]]), atol=0.01, rtol=0)
    assert (mesh.material.metallic, mesh.material.roughness, mesh.material.double_sided) == (1.0, 1.0, True)
    glow = sample_texture(mesh.material.emissive, middle)
    torch.testing.assert_close(glow, torch.tensor([[0.0, 0, 0], [0, 1, 0]]), atol=0.01, rtol=0)
    bend = sample_texture(mesh.material.normal_map, middle) * 2 - 1
    torch.testing.assert_close(bend, torch.tensor([[0.5, 0, 0.86], [0, 0, 1.0]]), atol=0.02, rtol=0)
    assert any("show from behind" in note for note in notes)


def test_alpha_modes_meet():
    rgba = picture(8, 8, 1, channels=4)
    rgba[..., 3] = 0.4
    modes = [Material(alpha_mode="MASK", alpha_cutoff=0.3), Material(alpha_mode="BLEND"), Material()]
    mesh, _ = joined(*(part(Look(rgba, material=m), 2 * i) for i, m in enumerate(modes)))
    assert mesh.material.alpha_mode == "BLEND"
    alpha = sample_texture(mesh.texture, mesh.uvs[mesh.faces[::2]].mean(1))[:, 3]
    torch.testing.assert_close(alpha, torch.tensor([1.0, 0.4, 1.0]), atol=0.01, rtol=0)


def test_materials_without_textures_say_what_differs():
    shiny, dull = (Look(factor=np.array([0.5, 0.5, 0.5, 1], np.float32), material=Material(metallic=m)) for m in (1.0, 0.0))
    mesh, notes = joined(part(shiny), part(shiny, 2), part(dull, 4))
    assert mesh.material.metallic == 1.0 and notes == ["its materials differ in metallic; that of the largest counts for all"]
    torch.testing.assert_close(mesh.vertex_colors, torch.full((12, 3), 0.5))


def test_parts_with_and_without_normals():
    given = np.tile(np.array([[1, 0, 0]], np.float32), (4, 1))
    mesh, _ = joined(part(Look(), normals=given), part(Look(), 2))
    assert mesh.normals[0].tolist() == [1, 0, 0] and mesh.normals[4].tolist() == [0, 0, 1]


@pytest.mark.parametrize(("offset", "moved"), [(0.0, False), (100.0, False), (4e6, True)])
def test_far_coordinates_are_moved_only_where_float32_would_show(offset, moved):
    mesh, notes = joined(Part(QUAD * 0.1 + [offset, offset, 0], FACES))
    extent = mesh.vertices.amax(0) - mesh.vertices.amin(0)
    torch.testing.assert_close(extent[:2], torch.full((2,), 0.1), atol=1e-3, rtol=0)
    assert bool(notes) is moved


@pytest.mark.parametrize("fit", [None, 0.95])
@pytest.mark.filterwarnings("error")
def test_coordinates_beyond_all_objects_are_refused_without_noise(fit):
    with pytest.raises(ValueError, match=r"1e\+308 from the origin, beyond 1e\+12"):
        join(Contents([Part(QUAD * 1e308, FACES)]), fit_radius=fit)


def test_one_warning_a_file_and_call(tmp_path, caplog):
    gltf = Gltf()
    for number in range(3):
        paint = gltf.material(baseColorTexture={"index": gltf.texture(gltf.image(None, uri=f"gone{number}.png"))})
        gltf.node(mesh=gltf.mesh(gltf.primitive({"POSITION": QUAD, "TEXCOORD_0": UVS}, FACES.reshape(-1), material=paint)))
    load_mesh(gltf.save(tmp_path / "a.glb"))
    assert len(caplog.records) == 1 and caplog.text.count("is missing") == 3


def test_a_plain_material_beside_a_texture_shows_its_colour_whatever_uvs_it_has():
    plain = Look(None, np.array([0, 1, 0, 1], np.float32))
    parts = [part(Look(picture(8, 8, 1))), part(plain, 2, UVS * 10 - 3)]
    mesh, _ = joined(*parts)
    assert_looks_like(mesh, 1, part(plain))


@pytest.mark.parametrize("reach", [5000.0, 1e5, 1e30])
def test_a_texture_that_repeats_without_end_takes_no_more_memory(reach):
    mesh, notes = joined(part(Look(picture(8, 8, 1))), part(Look(np.full((8, 8, 3), 0.5, np.float32)), 2, UVS * reach))
    assert any("coarser" in note for note in notes) and max(mesh.texture.shape[:2]) <= 8192
    assert_looks_like(mesh, 1, part(Look(np.full((8, 8, 3), 0.5, np.float32))))


def test_ten_equal_squares_fill_an_atlas_that_is_about_square(monkeypatch):
    monkeypatch.setattr(atlas, "LARGEST_SIDE", 320)
    mesh, notes = joined(*(part(Look(picture(64, 64, seed)), 2 * seed) for seed in range(10)))
    height, width = mesh.texture.shape[:2]
    assert max(height, width) <= 1.5 * min(height, width)
    assert not any("times smaller" in note for note in notes)


def test_an_atlas_is_drawn_under_the_eyes_of_cancel():
    class Stopped(Exception):
        pass

    def stop(done, total, preview=None):
        raise Stopped

    with pytest.raises(Stopped):
        join(Contents([part(Look(picture(8, 8, 1))), part(Look(picture(8, 8, 2)), 2)]), tick=stop)


def test_alpha_that_is_cut_keeps_its_cut_beside_other_materials_without_textures():
    mask = Look(None, np.array([1, 0, 0, 0.3], np.float32), Material(alpha_mode="MASK", alpha_cutoff=0.2))
    other_cut = Look(None, np.array([1, 0, 0, 0.3], np.float32), Material(alpha_mode="MASK", alpha_cutoff=0.5))
    blend = Look(None, np.array([0, 1, 0, 0.5], np.float32), Material(alpha_mode="BLEND"))
    mesh, _ = joined(part(mask), part(blend, 2))
    assert mesh.material.alpha_mode == "BLEND" and mesh.vertex_colors[[0, 4], 3].tolist() == [1, 0.5]
    mesh, _ = joined(part(mask), part(other_cut, 2), part(Look(), 4))
    shown = mesh.vertex_colors[[0, 4, 8], 3] >= mesh.material.alpha_cutoff
    assert mesh.material.alpha_mode == "MASK" and shown.tolist() == [True, False, True]
