"""A mesh with everything glTF's materials know, through each mesh stage: what survives, held to the table of docs/meshes.md."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from lathe.pipelines.cameras.orbits import orbit_cameras
from lathe.pipelines.data.material import Material
from lathe.pipelines.data.mesh import Mesh
from lathe.pipelines.formats.meshes import load_mesh, save_mesh
from lathe.pipelines.meshes.bake_texture import bake_from_views
from lathe.pipelines.meshes.clean import clean
from lathe.pipelines.meshes.simplify import simplify
from lathe.pipelines.meshes.unwrap import unwrap
from lathe.pipelines.ops.mesh_tools import vertex_normals

DOC = Path(__file__).parents[2] / "docs" / "meshes.md"


def flat(*values, size=16):
    return torch.tensor(values).expand(size, size, len(values)).clone()


def rich_mesh():
    """A sphere with uvs (one seam, doubled vertices), and every map flat, so that resampling keeps its value exactly."""
    ball = trimesh.creation.uv_sphere(count=[12, 24])
    vertices = torch.tensor(ball.vertices).float()
    angle = torch.atan2(vertices[:, 1], vertices[:, 0]) / (2 * np.pi) + 0.5
    uvs = torch.stack([angle * 0.9 + 0.05, 0.5 - vertices[:, 2] * 0.45], dim=1)
    faces = torch.tensor(ball.faces)
    normals = vertex_normals(vertices, faces)
    tangents = torch.nn.functional.normalize(torch.stack([-normals[:, 1], normals[:, 0], torch.zeros(len(normals))], dim=1), dim=1)
    tangents[tangents.norm(dim=1) < 0.5] = torch.tensor([1.0, 0, 0])
    material = Material(
        metallic_roughness=flat(0.8, 0.6, 0.4), metallic=0.5, roughness=0.75, occlusion_in_red=True, occlusion_strength=0.5,
        normal_map=flat(0.5, 0.5, 1.0), normal_scale=0.5, emissive=flat(0.2, 0.4, 0.6), emissive_factor=(1.0, 0.5, 0.25),
        emissive_strength=2.0, alpha_mode="MASK", alpha_cutoff=0.25, double_sided=True,
    )  # fmt: skip
    colors = torch.cat([torch.full((len(vertices), 3), 0.5), torch.full((len(vertices), 1), 0.75)], dim=1)
    return Mesh(
        vertices, faces, uvs, flat(0.9, 0.5, 0.1, 1.0), colors, normals, torch.cat([tangents, torch.ones(len(tangents), 1)], 1), material
    )


def saved(suffix):
    def through(mesh, folder):
        save_mesh(mesh, folder / f"a{suffix}")
        return load_mesh(folder / f"a{suffix}")

    return through


def baked(mesh, folder):
    return bake_from_views(mesh, torch.full((4, 3, 64, 64), 0.3), None, orbit_cameras(4), size=32)[0]


STAGES = {
    "Load and Save (GLB)": saved(".glb"),
    "Save and Load (OBJ)": saved(".obj"),
    "Clean": lambda mesh, folder: clean(mesh),
    "Clean, smoothing": lambda mesh, folder: clean(mesh, smoothing=2),
    "Simplify": lambda mesh, folder: simplify(mesh, 200),
    "Unwrap": lambda mesh, folder: unwrap(mesh, texture_size=64),
    "Bake": baked,
}


def same(one, other):
    """Whether two maps, flat here, or per-vertex values hold the same numbers."""
    return one is not None and torch.allclose(one.reshape(-1, one.shape[-1]).mean(0), other.reshape(-1, other.shape[-1]).mean(0), atol=6e-3)


def outcome(before, after):
    """Word for each part of the look, in the table's order."""
    old, new = before.material, after.material
    base = "kept"
    if after.texture is None:
        base = "to vertices" if after.vertex_colors is not None else "lost"
    elif not same(after.texture[..., :3], before.texture[..., :3]):
        base = (
            "new"
            if after.vertex_colors is None and float(after.texture[..., 0].median()) == pytest.approx(0.3, abs=0.01)
            else "with colours"
        )
    alpha = [part[:, 3:] for part in (after.vertex_colors,) if part is not None and part.shape[1] == 4]
    alpha += [after.texture[..., 3:].reshape(-1, 1)] if after.texture is not None and after.texture.shape[2] == 4 else []
    total = float(np.prod([float(a.mean()) for a in alpha])) if alpha else 1.0
    normals = "kept" if after.normals is not None and after.normals.shape == before.normals.shape else "anew"
    if after.normals is not None and after.normals.shape != before.normals.shape:
        normals = "kept" if bool((after.normals.norm(dim=1) - 1).abs().max() < 1e-3) else "lost"

    def of(map_name, *factors):
        told = all(getattr(new, f) == pytest.approx(getattr(old, f)) for f in factors)
        image = getattr(new, map_name)
        if image is None:
            return "mean" if map_name == "metallic_roughness" and new.metallic == pytest.approx(0.2, abs=1e-2) else "lost"
        return "kept" if same(image, getattr(old, map_name)) and told else "changed"

    return {
        "base colour": base,
        "alpha": "kept" if total == pytest.approx(0.75, abs=0.01) else "lost",
        "normals": normals,
        "tangents": "kept" if after.tangents is not None else "lost",
        "metallic-roughness": of("metallic_roughness", "metallic", "roughness"),
        "occlusion": "kept" if new.occlusion_in_red and new.occlusion_strength == 0.5 else "lost",
        "normal map": of("normal_map", "normal_scale"),
        "emissive": of("emissive", "emissive_factor", "emissive_strength"),
        "alpha mode": "kept" if (new.alpha_mode, new.alpha_cutoff) == ("MASK", 0.25) else f"{new.alpha_mode}",
        "double sided": "kept" if new.double_sided else "lost",
    }


@pytest.mark.parametrize("stage", STAGES)
def test_the_table_of_the_docs_holds(stage, tmp_path):
    before = rich_mesh()
    found = outcome(before, STAGES[stage](before, tmp_path))
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in DOC.read_text().splitlines() if line.startswith("|")]
    assert rows[0][1:] == list(found)
    written = {row[0]: dict(zip(rows[0][1:], row[1:], strict=True)) for row in rows[2:]}
    assert written[stage] == found


def test_losses_are_said(tmp_path, caplog):
    simplify(rich_mesh(), 200)
    assert "loses its texture (its colours go to the vertices), metallic-roughness map, normal map" in caplog.text
    caplog.clear()
    save_mesh(rich_mesh(), tmp_path / "a.obj")
    for word in ("tangents", "ambient occlusion", "double sides"):
        assert word in caplog.text


def test_other_readers_find_what_was_written(tmp_path):
    mesh = rich_mesh()
    save_mesh(mesh, tmp_path / "a.glb")
    read = trimesh.load(tmp_path / "a.glb", process=False, force="mesh")
    material = read.visual.material
    pixel = {name: np.asarray(getattr(material, name).convert("RGB"))[0, 0].tolist() for name in (
        "baseColorTexture", "metallicRoughnessTexture", "normalTexture", "emissiveTexture", "occlusionTexture")}  # fmt: skip
    assert pixel["baseColorTexture"] == [230, 128, 26] and pixel["metallicRoughnessTexture"] == [204, 153, 102]
    assert pixel["normalTexture"] == [128, 128, 255] and pixel["emissiveTexture"] == [51, 102, 153]
    assert pixel["occlusionTexture"] == pixel["metallicRoughnessTexture"]
    assert material.alphaMode == "MASK" and material.alphaCutoff == 0.25 and material.doubleSided
    assert (material.metallicFactor, material.roughnessFactor) == (0.5, 0.75)
    np.testing.assert_allclose(material.emissiveFactor, [1, 0.5, 0.25])


def test_a_normal_map_is_turned_with_its_uvs():
    """A map that leans along +u, seen in new uvs that run otherwise, leans the same way in space."""
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    uvs = torch.stack([corners[:, 0], 1 - corners[:, 1]], dim=1)
    lean = torch.nn.functional.normalize(torch.tensor([0.6, 0.2, 0.77]), dim=0) / 2 + 0.5
    old = Mesh(corners, faces, uvs, material=Material(normal_map=lean.expand(8, 8, 3).clone()))
    from lathe.pipelines.meshes.resample import resample

    for turned in (torch.stack([uvs[:, 1], 1 - uvs[:, 0]], dim=1), torch.stack([1 - uvs[:, 0], uvs[:, 1]], dim=1)):
        new = replace(old, uvs=turned, material=old.material.without_maps())
        made = resample(old, new, torch.arange(4), 16)["normal_map"].mean((0, 1)) * 2 - 1

        # The directions of u and -v of both maps in space, from the corners.
        def axes(uv):
            along = [(uv[b] - uv[a]) for a, b in ((0, 1), (0, 3))]  # of +x and +y
            basis = torch.stack(along, dim=1)  # uv = basis @ xy
            inverse = torch.linalg.inv(basis)
            return torch.nn.functional.normalize(inverse[:, 0], dim=0), torch.nn.functional.normalize(-inverse[:, 1], dim=0)

        tilt = lean * 2 - 1
        before = tilt[0] * axes(uvs)[0] + tilt[1] * axes(uvs)[1]
        after = made[0] * axes(turned)[0] + made[1] * axes(turned)[1]
        torch.testing.assert_close(after, before, atol=0.02, rtol=0)


def card():
    """A leaf: a grid of 8 x 8 cells, each face doubled by one that looks the other way."""
    step = torch.linspace(0, 1, 9)
    x, y = torch.meshgrid(step, step, indexing="ij")
    vertices = torch.stack([x.flatten(), y.flatten(), 0.1 * torch.sin(3 * x.flatten())], dim=1)
    cell = torch.arange(64) // 8 * 9 + torch.arange(64) % 8
    front = torch.cat([torch.stack([cell, cell + 9, cell + 10], 1), torch.stack([cell, cell + 10, cell + 1], 1)])
    return Mesh(vertices, torch.cat([front, front.flip(1)]))


@pytest.mark.parametrize("stage", [clean, lambda mesh: simplify(mesh, 100)])
def test_thin_parts_of_two_sides_keep_both(stage):
    after = stage(card())
    a, b, c = after.vertices[after.faces].unbind(1)
    z = torch.linalg.cross(b - a, c - a)[:, 2] / 2
    assert float(z[z > 0].sum()) == pytest.approx(1, abs=0.1) and float(z[z < 0].sum()) == pytest.approx(-1, abs=0.1)


def test_faces_doubled_on_one_side_go():
    leaf = card()
    twice = replace(leaf, faces=torch.cat([leaf.faces, leaf.faces.roll(1, 1)]))
    assert len(clean(twice).faces) == len(leaf.faces)
