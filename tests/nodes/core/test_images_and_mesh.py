"""Conversions at the sockets, and what they do on a core with a richer or poorer API."""

from io import BytesIO

import pytest
import torch
from lathe.nodes.core import schema as core_schema
from lathe.nodes.core.images import alpha_in, images_in, images_out, masks_in, masks_out, object_masks_in
from lathe.nodes.core.mesh import Types, from_core_mesh, meshes_in, to_core_mesh
from lathe.nodes.core.schema import io
from lathe.pipelines.data.cameras import Cameras
from lathe.pipelines.data.mesh import Mesh
from lathe.pipelines.data.views import count_assets


def cameras(views: int, assets: int | None = None) -> Cameras:
    shape = (views,) if assets is None else (assets, views)
    return Cameras(torch.eye(4).expand(*shape, 4, 4), torch.ones(*shape, 4), tuple(f"view {i}" for i in range(views)))


def triangle(extra_vertices: int = 0, **parts) -> Mesh:
    vertices = torch.rand(3 + extra_vertices, 3, generator=torch.Generator().manual_seed(extra_vertices))
    faces = torch.tensor([[0, 1, 2]] + [[0, 1, 3 + i] for i in range(extra_vertices)])
    return Mesh(vertices, faces, **parts)


def same(a: Mesh, b: Mesh) -> bool:
    pairs = zip(vars(a).values(), vars(b).values(), strict=True)
    return all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in pairs)


def test_images_round_trip_and_bad_pixels():
    image = torch.rand(2, 5, 7, 3)
    inside = images_in(image)
    assert inside.shape == (2, 3, 5, 7)
    assert torch.equal(images_out(inside), image)
    assert images_in(torch.rand(1, 4, 4, 1)).shape == (1, 3, 4, 4)
    assert torch.equal(alpha_in(torch.cat([image, image[..., :1]], -1))[:, 0], image[..., 0])
    image[1, 2, 3, 0] = float("nan")
    with pytest.raises(ValueError, match="Image 1 holds pixels that are NaN"):
        images_in(image)
    with pytest.raises(ValueError, match=r"\(2, 5, 7, 5\)"):
        images_in(torch.rand(2, 5, 7, 5))


def test_pixels_of_another_range_are_said(caplog):
    picture = torch.rand(1, 8, 8, 3)
    for good in (picture, picture * 1.1 - 0.05, (picture * 255).to(torch.uint8)):
        images_in(good)
    assert not caplog.records
    for bad in (picture * 255, picture * 2 - 1, (picture * 255).long()):
        caplog.clear()
        assert float(images_in(bad).max()) <= 1 and "cut to 0..1" in caplog.text


def test_masks_without_an_object_are_said(caplog):
    mask = torch.zeros(2, 8, 8)
    object_masks_in(mask, "image_mask")
    assert "image_mask: no mask shows an object" in caplog.text
    caplog.clear()
    mask[0, 3:5, 3:5] = 1
    object_masks_in(mask)
    assert not caplog.records


def test_masks_round_trip():
    mask = torch.rand(2, 5, 7)
    assert torch.equal(masks_out(masks_in(mask)), mask)
    assert masks_in(mask[0]).shape == (1, 1, 5, 7)
    with pytest.raises(ValueError, match="MASK"):
        masks_in(torch.rand(2, 2, 5, 7))


def test_assets_of_says_both_numbers():
    assert count_assets(12, cameras(6)) == 2
    with pytest.raises(ValueError, match="13 images .* 6 views"):
        count_assets(13, cameras(6))
    with pytest.raises(ValueError, match="3 assets, but 12 images"):
        count_assets(12, cameras(6, assets=3))


def test_mesh_batch_round_trip_without_padding():
    colors = torch.rand(5, 3)
    meshes = [triangle(2, vertex_colors=colors), triangle(0, vertex_colors=colors[:3])]
    core = to_core_mesh(meshes)
    assert core.vertices.shape == (2, 5, 3) and core.faces.shape == (2, 3, 3)
    assert core.vertex_counts.tolist() == [5, 3] and core.face_counts.tolist() == [3, 1]
    assert all(same(a, b) for a, b in zip(meshes, from_core_mesh(core), strict=True))


def test_textured_and_coloured_meshes_share_a_batch():
    textured = triangle(uvs=torch.rand(3, 2), texture=torch.rand(4, 4, 3))
    coloured = triangle(1, vertex_colors=torch.rand(4, 3))
    back = from_core_mesh(to_core_mesh([textured, coloured]))
    assert torch.equal(back[0].texture, textured.texture) and torch.equal(back[0].uvs, textured.uvs)
    assert torch.equal(back[0].vertex_colors, torch.ones(3, 3)) and torch.equal(back[1].texture, torch.ones(4, 4, 3))
    assert torch.equal(back[1].vertex_colors, coloured.vertex_colors)


def test_a_mesh_of_another_node_without_counts():
    core = Types.MESH(torch.rand(1, 4, 3), torch.tensor([[[0, 1, 2], [0, 0, 0]]]))
    (mesh,) = from_core_mesh(core)
    assert mesh.faces.tolist() == [[0, 1, 2]] and mesh.texture is None


def test_cores_with_and_without_extras_in_the_constructor(monkeypatch):
    class Rich:
        def __init__(self, vertices, faces, normals=None, uvs=None, vertex_colors=None, texture=None, vertex_counts=None, face_counts=None):
            self.__dict__.update({k: v for k, v in locals().items() if k != "self"})

    class Poor:
        def __init__(self, vertices, faces):
            self.vertices, self.faces = vertices, faces

    mesh = triangle(uvs=torch.rand(3, 2), texture=torch.rand(4, 4, 3))
    for kind in (Rich, Poor):
        monkeypatch.setattr(Types, "MESH", kind)
        core = to_core_mesh([mesh])
        assert isinstance(core, kind)
        assert same(from_core_mesh(core)[0], mesh)


def test_schema_leaves_out_what_the_core_does_not_know():
    schema = core_schema.schema(node_id="T", display_name="T", search_aliases=["t"], a_field_of_next_year=1, inputs=[], outputs=[])
    assert io.Hidden.unique_id in schema.hidden
    widget = core_schema.widget(io.Int, "steps", default=3, advanced=True, an_option_of_next_year=1)
    assert widget.default == 3


def test_what_is_no_asset_is_said():
    with pytest.raises(ValueError, match="not a str"):
        meshes_in("mesh.glb")


def test_file_3d_is_read(tmp_path, monkeypatch):
    files = pytest.importorskip("lathe.pipelines.formats.meshes")
    mesh = triangle(1)
    files.save_mesh(mesh, tmp_path / "a.glb")

    class File3D:
        format = "glb"

        def __init__(self, source):
            self.source = source
            self.is_disk_backed = not isinstance(source, BytesIO)

        def get_source(self):
            return self.source

        def save_to(self, path):
            with open(path, "wb") as out:
                out.write(self.source.getvalue())
            return path

    for source in (str(tmp_path / "a.glb"), BytesIO((tmp_path / "a.glb").read_bytes())):
        (back,) = meshes_in(File3D(source))
        assert torch.allclose(back.vertices, mesh.vertices) and torch.equal(back.faces, mesh.faces)


def test_masks_of_other_ranges(caplog):
    whole = masks_in(torch.tensor([[[0, 51, 255]]], dtype=torch.uint8))
    torch.testing.assert_close(whole.flatten(), torch.tensor([0.0, 0.2, 1.0]))
    assert not caplog.records
    masks_in(torch.tensor([[[0.0, 128.0, 255.0]]]))
    assert "pixels of a MASK go from 0 to 255" in caplog.text
