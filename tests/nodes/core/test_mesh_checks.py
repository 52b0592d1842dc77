"""A MESH of another node that cannot be what it says is refused in words, whatever is wrong with it."""

from dataclasses import replace

import pytest
import torch
from comfy_api.latest import Types
from lathe.nodes.core.mesh import from_core_mesh
from lathe.nodes.splats import starts_in
from lathe.pipelines.splats.fit_settings import load_fit_preset


def mesh(meshes=1, **parts):
    corners = torch.tensor([[1.0, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]])
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    core = Types.MESH(corners.repeat(meshes, 1, 1), faces.repeat(meshes, 1, 1))
    for name, part in parts.items():
        setattr(core, name, part)
    return core


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"vertex_counts": torch.tensor([4]), "face_counts": torch.tensor([10**7])}, "face_counts say 10000000, but there are 4"),
        ({"vertex_counts": torch.tensor([-2]), "face_counts": torch.tensor([4])}, "vertex_counts say -2"),
        ({"vertex_counts": torch.tensor([3.5]), "face_counts": torch.tensor([1.5])}, "1 whole numbers"),
        ({"vertex_counts": torch.zeros(0, dtype=torch.int64)}, "1 whole numbers"),
        ({"vertex_counts": ["three"]}, "1 whole numbers"),
        ({"faces": torch.rand(1, 4, 3)}, "whole numbers, the indices"),
        ({"vertices": torch.zeros(1, 4, 3, dtype=torch.complex64)}, "complex"),
        ({"vertices": torch.zeros(0, 4, 3), "faces": torch.zeros(0, 1, 3, dtype=torch.int64)}, "no mesh"),
        ({"vertex_colors": torch.rand(1, 5, 3)}, r"vertex_colors need a row for each vertex, 4; they are \(5, 3\)"),
        ({"normals": torch.rand(1, 3, 3)}, "normals need a row"),
        ({"uvs": [torch.rand(4, 2), torch.rand(4, 2)]}, "uvs need a row"),
        ({"vertex_colors": torch.rand(1, 4, 3) + 200}, "divide numbers up to 255"),
        ({"uvs": torch.rand(1, 4, 2), "texture": torch.full((1, 8, 8, 3), 200.0)}, "divide numbers up to 255"),
        ({"uvs": torch.rand(1, 4, 2), "texture": torch.rand(2, 8, 8, 3)}, "2 pictures as texture for 1 meshes"),
        ({"uvs": torch.rand(1, 4, 2), "texture": torch.rand(1, 8, 8, 7)}, "texture must have 1, 3 or 4 channels, not 7"),
        ({"uvs": torch.rand(1, 4, 2), "emissive": torch.rand(1, 8, 8, 2)}, "emissive must have 1, 3 or 4 channels, not 2"),
        ({"uvs": torch.full((1, 4, 2), 1e30)}, "uvs go beyond"),
        ({"material": "metal"}, "dictionary"),
        ({"material": {"metallic_factor": 2.0}}, "metallic; a number from 0 to 1"),
        ({"material": {"base_color_factor": [255, 128, 64, 255]}}, "base_color_factor; numbers from 0 to 1"),
        ({"material": {"double_sided": torch.ones(2)}}, "double_sided is a tensor of 2 values"),
        ({"uvs": torch.rand(1, 4, 2), "metallic_roughness": torch.full((1, 8, 8, 3), 200.0)}, "divide numbers up to 255"),
        ({"uvs": torch.rand(1, 4, 2), "normal_map": torch.full((1, 8, 8, 3), -1.0)}, "normal_map go from -1"),
        ({"uvs": torch.rand(1, 4, 2), "texture": torch.rand(1, 8, 8, 3), "texture_alpha": torch.rand(1, 8, 8, 1)}, "2 dimensions"),
        ({"uvs": torch.rand(1, 4, 2), "texture": torch.rand(1, 8, 8, 3), "texture_alpha": 0.5}, "2 dimensions, not float"),
        ({"normals": 5}, "they are a int"),
        ({"uvs": []}, "they are empty"),
        ({"faces": torch.zeros(1, 0, 3, dtype=torch.int64)}, "no faces"),
        ({"uvs": torch.rand(1, 4, 2), "normal_map": torch.rand(3, 8, 8, 3)}, "3 pictures as normal_map"),
    ],
)
def test_what_does_not_fit_is_named(parts, says):
    with pytest.raises(ValueError, match=says):
        from_core_mesh(mesh(**parts))


def test_what_fits_is_read():
    parts = {"uvs": torch.rand(2, 4, 2), "vertex_colors": torch.rand(2, 4, 4), "texture": torch.rand(2, 8, 8, 3)}
    counts = {"vertex_counts": torch.tensor([4, 3]), "face_counts": torch.tensor([4, 1])}
    whole, part = from_core_mesh(mesh(2, **parts, **counts))
    assert (len(whole.vertices), len(whole.faces)) == (4, 4) and (len(part.vertices), len(part.faces)) == (3, 1)
    alone = mesh()
    alone.vertices, alone.faces, alone.vertex_colors = alone.vertices[0], alone.faces[0].float(), torch.rand(4, 3)
    assert from_core_mesh(alone)[0].vertex_colors is not None


def test_a_cloud_of_points_is_a_start_for_splats():
    cloud = mesh(faces=torch.zeros(1, 0, 3, dtype=torch.int64))
    (splats,) = starts_in(cloud, 1, replace(load_fit_preset("fast"), points=4), seed=0, voxel_threshold=0.5)
    assert len(splats) == 4


def test_counts_and_alpha_of_other_packages_are_read():
    import numpy as np

    parts = {"uvs": torch.rand(1, 4, 2), "texture": torch.rand(1, 8, 8, 3), "texture_alpha": torch.full((8, 8), 0.25)}
    counts = {"vertex_counts": np.array([4]), "face_counts": np.array([4])}
    assert float(from_core_mesh(mesh(**parts, **counts))[0].texture[..., 3].mean()) == 0.25
