"""glTF as the format allows it: every file here holds one quad or triangle whose right place, uvs and look are written out."""

import base64
import json
import math
from urllib.parse import quote

import numpy as np
import pytest
import torch
from formats.gltf_samples import FAN, LINES, POINTS, STRIP, Gltf, png
from lathe.pipelines.formats.meshes import load_mesh

QUAD = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype=np.float64)
UVS = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], dtype=np.float64)
FACES = [0, 1, 2, 0, 2, 3]
CHECK = np.zeros((8, 8, 3), np.uint8)
CHECK[:4, :4], CHECK[:4, 4:], CHECK[4:, :4], CHECK[4:, 4:] = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)


def saved(gltf, tmp_path, primitive, **node):
    gltf.node(mesh=gltf.mesh(primitive), **node)
    return load_mesh(gltf.save(tmp_path / "a.glb"))


def quad(gltf, **more):
    return gltf.primitive({"POSITION": QUAD, "TEXCOORD_0": UVS, **more}, FACES)


def corners(mesh):
    """The corners of the faces, (F, 3, 3), to compare shapes whatever the order of vertices."""
    return mesh.vertices[mesh.faces]


def area(mesh):
    a, b, c = corners(mesh).unbind(1)
    return torch.linalg.cross(b - a, c - a).sum(0) / 2


@pytest.mark.parametrize("component", ["i1", "u1", "i2", "u2"])
@pytest.mark.parametrize("normalized", [True, False])
def test_positions_of_every_component_type(tmp_path, component, normalized):
    gltf = Gltf()
    gltf.use("KHR_mesh_quantization", required=True)
    top = 1.0 if normalized else 100.0
    at = gltf.accessor(QUAD * top, component, normalized=normalized, stride=16, offset=4)
    mesh = saved(gltf, tmp_path, gltf.primitive({"POSITION": at}, FACES), scale=[2 / top] * 3)
    torch.testing.assert_close(mesh.vertices, torch.tensor(QUAD * 2).float(), atol=1e-6, rtol=0)


def test_the_least_signed_integer_is_minus_one(tmp_path):
    gltf = Gltf()
    gltf.use("KHR_mesh_quantization", required=True)
    at = gltf.accessor(np.array([[-128, 0, 0], [127, 0, 0], [0, 127, 0]], np.int8), "i1", normalized=True)
    mesh = saved(gltf, tmp_path, gltf.primitive({"POSITION": at}))
    assert float(mesh.vertices[0, 0]) == -1.0 and float(mesh.vertices[1, 0]) == 1.0


@pytest.mark.parametrize("component", ["u1", "u2", "u4"])
def test_indices_of_every_component_type(tmp_path, component):
    gltf = Gltf()
    mesh = saved(gltf, tmp_path, gltf.primitive({"POSITION": QUAD}, FACES, index_component=component))
    assert mesh.faces.reshape(-1).tolist() == FACES


def test_triangles_without_indices(tmp_path):
    gltf = Gltf()
    mesh = saved(gltf, tmp_path, gltf.primitive({"POSITION": QUAD[FACES]}))
    assert mesh.faces.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(("mode", "order"), [(STRIP, [0, 1, 3, 2]), (FAN, [0, 1, 2, 3])])
@pytest.mark.parametrize("indexed", [True, False])
def test_strips_and_fans_keep_their_winding(tmp_path, mode, order, indexed):
    gltf = Gltf()
    given = gltf.primitive({"POSITION": QUAD}, order, mode=mode) if indexed else gltf.primitive({"POSITION": QUAD[order]}, mode=mode)
    mesh = saved(gltf, tmp_path, given)
    torch.testing.assert_close(area(mesh), torch.tensor([0.0, 0.0, 1.0]))
    assert len(mesh.faces) == 2


def test_a_long_strip_covers_what_it_should(tmp_path):
    steps = np.stack([np.repeat(np.arange(5.0), 2), np.tile([0.0, 1.0], 5), np.zeros(10)], axis=1)
    gltf = Gltf()
    mesh = saved(gltf, tmp_path, gltf.primitive({"POSITION": steps}, mode=STRIP))
    torch.testing.assert_close(area(mesh), torch.tensor([0.0, 0.0, -4.0]))  # as the first of its triangles winds


def test_points_and_lines_are_left_out_and_said(tmp_path, caplog):
    gltf = Gltf()
    mesh = gltf.mesh(quad(gltf), gltf.primitive({"POSITION": QUAD}, mode=POINTS), gltf.primitive({"POSITION": QUAD}, mode=LINES))
    gltf.node(mesh=mesh)
    assert len(load_mesh(gltf.save(tmp_path / "a.glb")).vertices) == 4
    assert [r.levelname for r in caplog.records] == ["WARNING"] and "points and lines are left out" in caplog.text


@pytest.mark.parametrize("over_zeros", [True, False])
@pytest.mark.parametrize("index", ["u1", "u2", "u4"])
def test_sparse_accessors(tmp_path, over_zeros, index):
    moved = QUAD.copy()
    moved[2, 2] = 3
    gltf = Gltf()
    kind = {"sparse": True} if over_zeros else {"base": QUAD}
    mesh = saved(gltf, tmp_path, gltf.primitive({"POSITION": gltf.accessor(moved, sparse_index=index, **kind)}, FACES))
    torch.testing.assert_close(mesh.vertices, torch.tensor(moved).float())


def test_hierarchies_and_mirrors(tmp_path):
    gltf = Gltf()
    turn = [0, 0, math.sin(math.pi / 4), math.cos(math.pi / 4)]  # a quarter turn about z
    above = gltf.node(translation=[10, 0, 0], rotation=turn)
    gltf.node(parent=above, mesh=gltf.mesh(quad(gltf, NORMAL=np.tile([0.0, 0, 1], (4, 1)))), scale=[-2, 1, 1])
    mesh = load_mesh(gltf.save(tmp_path / "a.glb"))
    # (1, 0, 0) -> scaled (-2, 0, 0) -> turned (0, -2, 0) -> moved.
    torch.testing.assert_close(mesh.vertices[1], torch.tensor([10.0, -2.0, 0.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(area(mesh), torch.tensor([0.0, 0.0, 2.0]), atol=1e-6, rtol=0)  # still faces +z
    torch.testing.assert_close(mesh.normals, torch.tensor([[0.0, 0, 1]]).expand(4, 3), atol=1e-6, rtol=0)


def test_a_matrix_shears_normals_rightly(tmp_path):
    shear = np.eye(4)
    shear[0, 2] = 2.0  # x += 2 z
    gltf = Gltf()
    side = np.array([[0, 0, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1]], dtype=np.float64)
    mesh = saved(gltf, tmp_path, gltf.primitive({"POSITION": side, "NORMAL": np.tile([1.0, 0, 0], (4, 1))}, FACES), matrix=shear)
    a, b, c = corners(mesh)[0]
    flat = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=0)
    torch.testing.assert_close(mesh.normals[0], flat, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("scale", "said"), [(1e250, "beyond 1e\\+12"), (1e300, "beyond all numbers"), (1e2, "beyond 1e\\+12")])
@pytest.mark.filterwarnings("error")
def test_coordinates_beyond_all_objects_are_refused_without_noise(tmp_path, scale, said):
    gltf = Gltf()
    with pytest.raises(ValueError, match=said):
        saved(gltf, tmp_path, gltf.primitive({"POSITION": QUAD * 3e38, "NORMAL": QUAD + [0, 0, 1]}, FACES), scale=[scale] * 3)


def test_the_default_scene_counts_and_the_others_are_said(tmp_path, caplog):
    gltf = Gltf()
    gltf.node(mesh=gltf.mesh(quad(gltf)))
    gltf.node(mesh=gltf.mesh(quad(gltf)), translation=[9, 0, 0])
    gltf.tree["scenes"] = [{"nodes": [0]}, {"nodes": [1]}]
    gltf.tree["scene"] = 1
    mesh = load_mesh(gltf.save(tmp_path / "a.glb"))
    assert len(mesh.vertices) == 4 and float(mesh.vertices[:, 0].min()) == 9
    assert "of its 2 scenes one is read" in caplog.text


def test_instances_with_all_their_attributes(tmp_path):
    gltf = Gltf()
    node = gltf.node(mesh=gltf.mesh(quad(gltf)), translation=[0, 0, 1])
    half = math.sin(math.pi / 4)
    gltf.instances(node, TRANSLATION=[[0, 0, 0], [5, 0, 0]], ROTATION=[[0, 0, 0, 1], [0, 0, half, half]], SCALE=[[1, 1, 1], [2, 2, 2]])
    mesh = load_mesh(gltf.save(tmp_path / "a.glb"))
    assert len(mesh.vertices) == 8
    torch.testing.assert_close(mesh.vertices[5], torch.tensor([5.0, 2.0, 1.0]), atol=1e-6, rtol=0)


def test_a_skin_is_read_in_its_pose_and_its_node_does_not_count(tmp_path):
    gltf = Gltf()
    root = gltf.node(translation=[0, 7, 0])
    tip = gltf.node(parent=root, translation=[0, 1, 0])
    inverse = np.stack([np.eye(4), np.eye(4)])
    inverse[1, 1, 3] = -1
    more = {"JOINTS_0": [[0, 1, 0, 0]] * 4, "WEIGHTS_0": [[1, 0, 0, 0], [1, 0, 0, 0], [0.25, 0.75, 0, 0], [0, 1, 0, 0]]}
    gltf.node(mesh=gltf.mesh(quad(gltf, **more)), skin=gltf.skin([root, tip], inverse), translation=[50, 0, 0])
    mesh = load_mesh(gltf.save(tmp_path / "a.glb"))
    torch.testing.assert_close(mesh.vertices, torch.tensor(QUAD).float() + torch.tensor([0.0, 7, 0]))


def test_morph_targets_at_the_weights_of_the_file(tmp_path):
    gltf = Gltf()
    up, right = np.zeros((4, 3)), np.zeros((4, 3))
    up[2, 2], right[:, 0] = 2, 10
    primitive = gltf.primitive({"POSITION": QUAD}, FACES, targets=[{"POSITION": up}, {"POSITION": right}])
    gltf.node(mesh=gltf.mesh(primitive, weights=[0.5, 0.0]))
    gltf.node(mesh=0, weights=[0.0, 1.0])
    mesh = load_mesh(gltf.save(tmp_path / "a.glb"))
    assert mesh.vertices[2].tolist() == [1, 1, 1] and mesh.vertices[4].tolist() == [10, 0, 0]


@pytest.mark.parametrize("component", ["f4", "u1", "u2"])
@pytest.mark.parametrize("width", [3, 4])
def test_vertex_colors_of_every_kind(tmp_path, component, width):
    rows = np.array([[1, 0, 0, 0.5], [0, 1, 0, 1], [0, 0, 1, 1], [0.2, 0.4, 0.6, 1]])[:, :width]
    gltf = Gltf()
    color = gltf.accessor(rows, component, normalized=component != "f4")
    primitive = gltf.primitive({"POSITION": QUAD, "COLOR_0": color}, FACES, material=gltf.material(alphaMode="BLEND"))
    mesh = saved(gltf, tmp_path, primitive)
    torch.testing.assert_close(mesh.vertex_colors, torch.tensor(rows).float(), atol=3e-3, rtol=0)


def textured(gltf, info, **material):
    paint = gltf.material(baseColorTexture=info, **material)
    return gltf.primitive({"POSITION": QUAD, "TEXCOORD_0": UVS, "TEXCOORD_1": UVS / 2}, FACES, material=paint)


@pytest.mark.parametrize("where", ["texCoord", "transform"])
def test_further_uv_sets(tmp_path, where):
    gltf = Gltf()
    info = gltf.texture_info(CHECK, uv=1) if where == "texCoord" else gltf.texture_info(CHECK, texCoord=1)
    mesh = saved(gltf, tmp_path, textured(gltf, info))
    torch.testing.assert_close(mesh.uvs, torch.tensor(UVS / 2).float())


def test_a_texture_transform_turns_and_scales(tmp_path):
    gltf = Gltf()
    mesh = saved(gltf, tmp_path, textured(gltf, gltf.texture_info(CHECK, offset=(0, 1), rotation=math.pi / 2, scale=(0.5, 0.5))))
    # The extension's own example: the lower left quarter of the picture, turned.
    u, v = UVS[:, 0], UVS[:, 1]
    torch.testing.assert_close(mesh.uvs, torch.tensor(np.stack([0.5 * v, 1 - 0.5 * u], axis=1)).float(), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("wrap", "right"), [(33648, "mirrored"), (33071, "clamped"), (10497, "repeated")])
def test_samplers_that_do_not_repeat(tmp_path, wrap, right):
    from lathe.pipelines.ops.texture_sampling import sample_texture

    ramp = np.repeat(np.arange(0, 160, 10, dtype=np.uint8)[None, :, None], 16, axis=0).repeat(3, axis=2)
    gltf = Gltf()
    info = gltf.texture_info(ramp, sampler={"wrapS": wrap, "wrapT": wrap}, scale=(2, 1))
    mesh = saved(gltf, tmp_path, textured(gltf, info))
    at = torch.tensor([0.25, 0.75, 1.25, 1.75])  # along u of the file, 4 texel centres to either side of what is sampled
    wanted = {"mirrored": [0.25, 0.75, 0.75, 0.25], "clamped": [0.25, 0.75, 1, 1], "repeated": [0.25, 0.75, 0.25, 0.75]}[right]
    values = ((torch.tensor(wanted) * 16 - 0.5) * 10).clamp(0, 150) / 255
    low, high = mesh.uvs[:, 0].min(), mesh.uvs[:, 0].max()
    uv = torch.stack([low + (high - low) * at / 2, torch.full_like(at, 0.5)], dim=1)
    torch.testing.assert_close(sample_texture(mesh.texture, uv)[:, 0], values, atol=1e-5, rtol=0)


def test_alpha_counts_only_where_the_mode_says(tmp_path):
    picture = np.full((4, 4, 4), 255, np.uint8)
    picture[:, :2, 3] = 0
    for mode, channels in (("OPAQUE", 3), ("MASK", 4), ("BLEND", 4)):
        gltf = Gltf()
        mesh = saved(gltf, tmp_path, textured(gltf, gltf.texture_info(picture), alphaMode=mode, baseColorFactor=[1, 1, 1, 0.5]))
        assert mesh.texture.shape[2] == channels and mesh.material.alpha_mode == mode
        if channels == 4:
            assert mesh.texture[0, :, 3].tolist() == [0, 0, 0.5, 0.5]


def test_a_factor_multiplies_the_texture_in_linear_light(tmp_path):
    gltf = Gltf()
    mesh = saved(gltf, tmp_path, textured(gltf, gltf.texture_info(np.full((2, 2, 3), 255, np.uint8)), baseColorFactor=[0.25, 1, 1, 1]))
    torch.testing.assert_close(mesh.texture[0, 0], torch.tensor([0.5371, 1, 1]), atol=1e-3, rtol=0)


def test_all_maps_of_a_material(tmp_path):
    gltf = Gltf()
    grey = [np.full((4, 4, 3), value, np.uint8) for value in (40, 80, 120, 160)]
    paint = gltf.material(
        baseColorTexture=gltf.texture_info(CHECK),
        metallicRoughnessTexture=gltf.texture_info(grey[0]), metallicFactor=0.5, roughnessFactor=0.25,
        normalTexture={**gltf.texture_info(grey[1]), "scale": 0.5},
        occlusionTexture={**gltf.texture_info(grey[2]), "strength": 0.75},
        emissiveTexture=gltf.texture_info(grey[3]), emissiveFactor=[1, 0.5, 0],
        extensions={"KHR_materials_emissive_strength": {"emissiveStrength": 3}},
        alphaMode="MASK", alphaCutoff=0.3, doubleSided=True,
    )  # fmt: skip
    gltf.use("KHR_materials_emissive_strength")
    mesh = saved(gltf, tmp_path, gltf.primitive({"POSITION": QUAD, "TEXCOORD_0": UVS}, FACES, material=paint))
    material = mesh.material
    assert material.metallic_roughness[0, 0].mul(255).round().tolist() == [120, 40, 40]
    assert (material.metallic, material.roughness, material.occlusion_in_red, material.occlusion_strength) == (0.5, 0.25, True, 0.75)
    assert float(material.normal_map[0, 0, 0] * 255) == 80 and material.normal_scale == 0.5
    assert float(material.emissive[0, 0, 0] * 255) == 160 and material.emissive_factor == (1, 0.5, 0)
    assert material.emissive_strength == 3 and material.double_sided and not material.unlit
    assert material.alpha_mode == "MASK" and material.alpha_cutoff == pytest.approx(0.3)


@pytest.mark.parametrize("glow", ["texture", "factor"])
def test_a_black_surface_that_glows_shows_its_glow(tmp_path, glow, caplog):
    gltf = Gltf()
    emissive = {"emissiveTexture": gltf.texture_info(CHECK)} if glow == "texture" else {}
    paint = gltf.material(baseColorFactor=[0, 0, 0, 1], emissiveFactor=[1, 0.5, 0.25], **emissive)
    mesh = saved(gltf, tmp_path, gltf.primitive({"POSITION": QUAD, "TEXCOORD_0": UVS}, FACES, material=paint))
    assert mesh.material.unlit and "only glows" in caplog.text
    if glow == "texture":
        torch.testing.assert_close(mesh.texture[0, 0], torch.tensor([1.0, 0, 0]))
    else:
        torch.testing.assert_close(mesh.vertex_colors[0], torch.tensor([1, 0.5, 0.25]))


LAMP = np.zeros((8, 8, 3), np.uint8)
LAMP[0, 0] = 255


@pytest.mark.parametrize("kind", ["a lamp", "a normal map", "a metallic-roughness map"])
def test_a_black_surface_that_glows_in_places_or_shines_stays_lit(tmp_path, kind, caplog):
    gltf = Gltf()
    emissive = gltf.texture_info(LAMP if kind == "a lamp" else CHECK)
    more = {"a lamp": {}, "a normal map": {"normalTexture": gltf.texture_info(CHECK)}}.get(
        kind, {"metallicRoughnessTexture": gltf.texture_info(CHECK)}
    )
    paint = gltf.material(baseColorFactor=[0, 0, 0, 1], emissiveFactor=[1, 1, 1], emissiveTexture=emissive, **more)
    mesh = saved(gltf, tmp_path, gltf.primitive({"POSITION": QUAD, "TEXCOORD_0": UVS}, FACES, material=paint))
    assert not mesh.material.unlit and mesh.material.emissive_factor == (1, 1, 1)
    torch.testing.assert_close(mesh.material.emissive[0, 0], torch.tensor([1.0, float(kind == "a lamp"), float(kind == "a lamp")]))
    assert len(caplog.records) == 1 and "base colour only, black" in caplog.text


@pytest.mark.parametrize("emissive", ["none", "black"])
def test_a_black_surface_that_does_not_glow_is_not_spoken_of(tmp_path, emissive, caplog):
    gltf = Gltf()
    more = {} if emissive == "none" else {"emissiveFactor": [1, 1, 1], "emissiveTexture": gltf.texture_info(np.zeros((4, 4, 3), np.uint8))}
    paint = gltf.material(baseColorFactor=[0, 0, 0, 1], **more)
    saved(gltf, tmp_path, gltf.primitive({"POSITION": QUAD, "TEXCOORD_0": UVS}, FACES, material=paint))
    assert not caplog.records


@pytest.mark.parametrize("mode", ["OPAQUE", "BLEND"])
def test_vertex_colors_do_not_multiply_a_glow_that_is_shown_as_colour(tmp_path, mode, caplog):
    gltf = Gltf()
    paint = gltf.material(baseColorFactor=[0, 0, 0, 1], emissiveFactor=[1, 1, 1], emissiveTexture=gltf.texture_info(CHECK), alphaMode=mode)
    attributes = {"POSITION": QUAD, "TEXCOORD_0": UVS, "COLOR_0": np.full((4, 4), 0.5)}
    mesh = saved(gltf, tmp_path, gltf.primitive(attributes, FACES, material=paint))
    torch.testing.assert_close(mesh.texture[0, 0, :3], torch.tensor([1.0, 0, 0]))
    wanted = torch.ones(4, 3) if mode == "OPAQUE" else torch.tensor([[1, 1, 1, 0.5]]).expand(4, 4)
    torch.testing.assert_close(mesh.vertex_colors, wanted)
    assert "vertex colours" in caplog.text


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_pictures_of_other_kinds(tmp_path, form):
    gltf = Gltf()
    image = gltf.image(np.full((8, 8, 3), 90, np.uint8), f"image/{form}")
    if form == "webp":
        gltf.use("EXT_texture_webp", required=True)
        texture = gltf.add("textures", extensions={"EXT_texture_webp": {"source": image}})
    else:
        texture = gltf.texture(image)
    mesh = saved(gltf, tmp_path, textured(gltf, {"index": texture}))
    torch.testing.assert_close(mesh.texture.mean(), torch.tensor(90 / 255), atol=0.01, rtol=0)


@pytest.mark.parametrize(("depth", "value"), [(np.uint16, 30000), (np.uint8, 117)])
def test_grey_pictures_of_each_depth(tmp_path, depth, value):
    gltf = Gltf()
    mesh = saved(gltf, tmp_path, textured(gltf, gltf.texture_info(np.full((4, 4), value, depth))))
    torch.testing.assert_close(mesh.texture, torch.full((4, 4, 3), value / np.iinfo(depth).max))


@pytest.mark.parametrize("suffix", [".glb", ".gltf"])
@pytest.mark.parametrize("uri", ["my%20tex.png", "my tex.png", "sub/t%C3%A4.png"])
def test_pictures_beside_the_file(tmp_path, suffix, uri):
    from urllib.parse import unquote

    place = tmp_path / unquote(uri)
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(png(CHECK))
    gltf = Gltf()
    image = gltf.image(None, uri=uri)
    paint = gltf.material(baseColorTexture={"index": gltf.texture(image)})
    gltf.node(mesh=gltf.mesh(gltf.primitive({"POSITION": QUAD, "TEXCOORD_0": UVS}, FACES, material=paint)))
    assert load_mesh(gltf.save(tmp_path / f"a{suffix}")).texture is not None


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("gone.png", "'gone.png' is missing"),
        ("../a.png", "leads out"),
        ("..%2Fa.png", "leads out"),
        ("https://x.test/a.png", "lies on the network"),
        ("file:///home/me/a.png", "lies on another machine"),
        ("FILE:///C:/Users/me/a.png", "lies on another machine"),
        ("C:\\Users\\me\\a.png", "lies on another machine"),
        ("/home/me/a.png", "lies on another machine"),
        ("n" * 5000 + ".png", "is missing"),
        ("data:image/png;base64," + "%" * 9000, "is damaged"),
        ("date:image/png;base64," + "A" * 9000, "is missing"),
    ],
    ids=lambda value: value[:20],
)
def test_a_picture_that_cannot_be_had_is_said_once(tmp_path, uri, said, caplog):
    (tmp_path / "in").mkdir()
    (tmp_path / "a.png").write_bytes(png(CHECK))
    gltf = Gltf()
    paint = gltf.material(baseColorTexture={"index": gltf.texture(gltf.image(None, uri=uri))})
    gltf.node(mesh=gltf.mesh(gltf.primitive({"POSITION": QUAD, "TEXCOORD_0": UVS}, FACES, material=paint)))
    assert load_mesh(gltf.save(tmp_path / "in" / "a.glb")).texture is None
    assert len(caplog.records) == 1 and said in caplog.text and "a.glb" in caplog.text and len(caplog.text) < 500


@pytest.mark.parametrize(
    ("uri", "stored"),
    [
        ("TEX.PNG", "tex.png"),
        ("Sub/tex.png", "sub/TEX.png"),
        ("sub\\tex.png", "sub/tex.png"),
        ("C:\\Users\\me\\tex.png", "tex.png"),
        ("file:///C:/Users/me/my%20tex.png", "my tex.png"),
        ("/home/me/tex.png", "textures/tex.png"),
        ("../textures/tex.png", "Textures/tex.png"),
        ("tex.png", "textures/tex.png"),
        ("100%.png", "100%.png"),
        ("my%20tex.png", "my%20tex.png"),
    ],
)
def test_pictures_are_found_however_they_are_written(tmp_path, uri, stored, caplog):
    (tmp_path / stored).parent.mkdir(exist_ok=True)
    (tmp_path / stored).write_bytes(png(CHECK))
    gltf = Gltf()
    mesh = saved(gltf, tmp_path, textured(gltf, {"index": gltf.texture(gltf.image(None, uri=uri))}))
    assert mesh.texture[0, 0].tolist() == [1, 0, 0] and not caplog.records


@pytest.mark.parametrize("written", ["plain", "capitals", "line breaks", "percent", "no padding", "without base64"])
def test_data_uris_as_they_are_written(tmp_path, written):
    body = base64.b64encode(png(CHECK) + b"12"[: (2 - len(png(CHECK))) % 3]).decode()
    uri = {
        "plain": f"data:image/png;base64,{body}",
        "capitals": f"DATA:image/png;Base64,{body}",
        "line breaks": "data:image/png;base64,\r\n" + "\r\n ".join(body[i : i + 76] for i in range(0, len(body), 76)),
        "percent": f"data:image/png;base64,{quote(body, safe='')}",
        "no padding": f"data:image/png;base64,{body.rstrip('=')}",
        "without base64": "data:image/png," + quote(png(CHECK), safe=""),
    }[written]
    gltf = Gltf()
    mesh = saved(gltf, tmp_path, textured(gltf, {"index": gltf.texture(gltf.image(None, uri=uri))}))
    assert mesh.texture[0, 0].tolist() == [1, 0, 0]


def test_values_of_any_length_are_shown_short(tmp_path, caplog):
    gltf = Gltf()
    primitive = textured(gltf, gltf.texture_info(CHECK), name="m" * 9000, alphaMode="A" * 9000)
    saved(gltf, tmp_path, primitive)
    assert "is unknown and read as OPAQUE" in caplog.text and len(caplog.text) < 500
    gltf.tree["accessors"][0]["type"] = "V" * 9000
    with pytest.raises(ValueError, match="VVV") as error:
        load_mesh(gltf.save(tmp_path / "a.glb"))
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("name", ["EXT_meshopt_compression", "KHR_texture_basisu", "VENDOR_anything"])
def test_a_required_extension_that_is_not_read_is_refused_by_name(tmp_path, name):
    gltf = Gltf()
    gltf.use(name, required=True)
    with pytest.raises(ValueError, match=f"a.glb.*{name}.*save"):
        saved(gltf, tmp_path, quad(gltf))


def test_an_optional_extension_does_not_hinder(tmp_path, caplog):
    gltf = Gltf()
    gltf.use("KHR_materials_clearcoat")
    paint = gltf.material(extensions={"KHR_materials_clearcoat": {"clearcoatFactor": 1}})
    saved(gltf, tmp_path, gltf.primitive({"POSITION": QUAD}, FACES, material=paint))
    assert "clear coat is left out" in caplog.text


@pytest.mark.parametrize("asked", ["required", "with a copy"])
def test_draco(tmp_path, asked):
    draco = pytest.importorskip("DracoPy")
    data = draco.encode(QUAD.astype(np.float32), np.array(FACES).reshape(-1, 3), preserve_order=True, quantization_bits=14)
    gltf = Gltf()
    gltf.use("KHR_draco_mesh_compression", required=asked == "required")
    primitive = gltf.primitive({"POSITION": QUAD}, FACES)
    number = draco.decode(data).attributes[0]["unique_id"]
    primitive["extensions"] = {"KHR_draco_mesh_compression": {"bufferView": gltf.view(data), "attributes": {"POSITION": number}}}
    if asked == "required":
        for entry in gltf.tree["accessors"]:
            entry.pop("bufferView")
    mesh = saved(gltf, tmp_path, primitive)
    torch.testing.assert_close(area(mesh), torch.tensor([0.0, 0.0, 1.0]), atol=1e-3, rtol=0)


BREAKS = {
    "a loop of nodes": lambda t: t["nodes"].append({"children": [0]}) or t["nodes"][0].update(children=[1]),
    "no accessor": lambda t: t["meshes"][0]["primitives"][0]["attributes"].update(POSITION=99),
    "a negative view": lambda t: t["bufferViews"][0].update(byteOffset=-4),
    "a view too long": lambda t: t["bufferViews"][0].update(byteLength=1 << 40),
    "more elements than data": lambda t: t["accessors"][0].update(count=1 << 30),
    "an unknown component": lambda t: t["accessors"][0].update(componentType=5130),
    "an unknown type": lambda t: t["accessors"][0].update(type="VEC9"),
    "text for a number": lambda t: t["accessors"][0].update(count="4"),
    "nodes that are no list": lambda t: t.update(nodes={"a": 1}),
    "a mesh of text": lambda t: t["nodes"][0].update(mesh="0"),
    "infinite scale": lambda t: t["nodes"][0].update(scale=[1e400, 1, 1]),
    "a rotation of nothing": lambda t: t["nodes"][0].update(rotation=[0, 0, 0, 0]),
    "two many faces": lambda t: t["accessors"][2].update(byteOffset=4),
    "data far beyond memory": lambda t: (t["accessors"][0].pop("bufferView"), t["accessors"][0].update(count=1 << 40)),
    "an old version": lambda t: t["asset"].update(version="1.0"),
    "a material of another world": lambda t: t["meshes"][0]["primitives"][0].update(material=7),
    "a mode of another world": lambda t: t["meshes"][0]["primitives"][0].update(mode="strip"),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_broken_files_are_refused_in_words(tmp_path, kind):
    gltf = Gltf()
    gltf.node(mesh=gltf.mesh(quad(gltf)))
    BREAKS[kind](gltf.tree)
    with pytest.raises(ValueError, match=r"^a\.glb cannot be read as GLB: \w.+\.$"):
        load_mesh(gltf.save(tmp_path / "a.glb"))


def test_cut_and_changed_files_give_a_mesh_or_words(tmp_path):
    gltf = Gltf()
    gltf.node(mesh=gltf.mesh(textured(gltf, gltf.texture_info(CHECK, offset=(0.5, 0)))))
    data = gltf.save(tmp_path / "a.glb").read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for number in range(150):
        changed = bytearray(data[: random.integers(len(data))] if number % 3 == 0 else data)
        for _ in range(random.integers(1, 6)):
            if changed:
                changed[random.integers(len(changed))] = random.integers(256)
        (tmp_path / "b.glb").write_bytes(changed)
        try:
            mesh = load_mesh(tmp_path / "b.glb")
            assert bool(torch.isfinite(mesh.vertices).all())
        except ValueError as error:
            refused += 1
            assert str(error).startswith("b.glb ")
    assert 40 < refused < 150


def test_deep_json_is_refused_in_words(tmp_path):
    (tmp_path / "a.gltf").write_text('{"asset": {"version": "2.0"}, "extras": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(ValueError, match="nested too deeply"):
        load_mesh(tmp_path / "a.gltf")


def test_embedded_and_separate_buffers(tmp_path):
    for embed in (True, False):
        gltf = Gltf()
        gltf.node(mesh=gltf.mesh(quad(gltf)))
        path = gltf.save(tmp_path / "a.gltf", embed=embed)
        assert len(load_mesh(path).vertices) == 4
    tree = json.loads(path.read_text())
    tree["buffers"][0]["uri"] = "a%20b.bin"
    path.write_text(json.dumps(tree))
    with pytest.raises(ValueError, match=r"'a b\.bin' is missing"):
        load_mesh(path)
    (tmp_path / "a.bin").rename(tmp_path / "a b.bin")
    assert len(load_mesh(path).vertices) == 4


def test_many_nodes_are_read_quickly_and_can_be_cancelled(tmp_path):
    gltf = Gltf()
    mesh = gltf.mesh(quad(gltf))
    gltf.tree["nodes"] = [{"mesh": mesh} for _ in range(5_000)]
    gltf.tree["scenes"][0]["nodes"] = list(range(5_000))
    path = gltf.save(tmp_path / "a.glb")
    calls = []

    def tick(step, total, preview=None):
        calls.append(step)
        if len(calls) > 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_mesh(path, tick=tick)


@pytest.mark.parametrize(
    "place",
    [
        ("materials", 0, "pbrMetallicRoughness"),
        ("materials", 0, "pbrMetallicRoughness", "baseColorTexture"),
        ("materials", 0, "extensions"),
        ("meshes", 0, "primitives", 0, "targets"),
        ("meshes", 0, "primitives", 0, "material"),
        ("accessors", 0, "type"),
        ("accessors", 0, "sparse"),
        ("textures", 0, "source"),
        ("nodes", 0, "extensions"),
        ("extensionsRequired",),
        ("extensionsUsed",),
    ],
    ids=str,
)
@pytest.mark.parametrize("value", [5, [{}], {"a": 1}, True, 10**400], ids=lambda value: str(value)[:8])
def test_json_of_another_shape_gives_a_mesh_or_words(tmp_path, place, value):
    gltf = Gltf()
    material = gltf.material(baseColorTexture=gltf.texture_info(CHECK))
    gltf.node(mesh=gltf.mesh({**quad(gltf), "material": material}))
    *steps, last = place
    at = gltf.tree
    for step in steps:
        at = at[step]
    at[last] = value
    try:
        load_mesh(gltf.save(tmp_path / "a.glb"))
    except ValueError as error:
        assert str(error).startswith("a.glb ")


def test_textures_that_wrap_differently_are_both_kept_and_that_is_said(tmp_path, caplog):
    gltf = Gltf()
    normal = np.full((4, 4, 3), 128, np.uint8)
    material = gltf.material(
        baseColorTexture=gltf.texture_info(np.full((4, 4, 3), 200, np.uint8), sampler={"wrapS": 33071, "wrapT": 33071}),
        normalTexture=gltf.texture_info(normal),
    )
    mesh = saved(gltf, tmp_path, {**quad(gltf), "material": material})
    assert mesh.material.normal_map is not None and "repeats otherwise" in caplog.text


def test_instances_are_placed_under_the_eyes_of_cancel(tmp_path):
    gltf = Gltf()
    gltf.instances(gltf.node(mesh=gltf.mesh(quad(gltf))), TRANSLATION=np.zeros((50, 3)))
    calls = []
    load_mesh(gltf.save(tmp_path / "a.glb"), tick=lambda done, total, preview=None: calls.append(done))
    assert len(calls) >= 50


@pytest.mark.parametrize("kind", ["indices", "attributes", "strips"])
def test_small_files_that_claim_much_are_refused_before_memory_is_full(tmp_path, kind):
    gltf = Gltf()
    accessor = {"componentType": 5125, "count": 1 << 24, "type": "SCALAR"}
    if kind == "attributes":
        rows = {"componentType": 5126, "count": 1 << 24}
        names = {"POSITION": "VEC3", "NORMAL": "VEC3", "TEXCOORD_0": "VEC2"}
        primitives = [{"attributes": {name: gltf.add("accessors", type=shape, **rows) for name, shape in names.items()}}]
    else:
        place = {"attributes": {"POSITION": gltf.accessor(QUAD)}, "mode": STRIP if kind == "strips" else 4}
        primitives = [{**place, "indices": gltf.add("accessors", **accessor)} for _ in range(8 if kind == "strips" else 1)]
    mesh = gltf.mesh(*primitives)
    for _ in range(40):
        gltf.node(mesh=mesh)
    with pytest.raises(ValueError, match=r"too many|more than [\d,]+ vertices and faces"):
        load_mesh(gltf.save(tmp_path / "a.glb"))
