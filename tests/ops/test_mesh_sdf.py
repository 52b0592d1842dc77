"""A mesh as signed distances on a grid: right near the surface, right in sign elsewhere."""

import pytest
import torch
from lathe.pipelines.meshes.extract import marching_cubes
from lathe.pipelines.ops.flexicubes import regular_grid
from lathe.pipelines.ops.mesh_sdf import mesh_sdf

RESOLUTION, HALF = 40, 1.1
CORNERS = regular_grid(RESOLUTION, 2 * HALF)
CELL = 2 * HALF / RESOLUTION


def ball(radius=0.7, sign=1):
    return marching_cubes(sign * (regular_grid(60, 2.0).norm(dim=1) - radius).reshape(61, 61, 61), 1.0)


def test_distances_to_a_ball_in_cells():
    band = mesh_sdf(*ball(), CORNERS, RESOLUTION, 3.0)
    truth = ((CORNERS.norm(dim=1) - 0.7) / CELL).clamp(-3, 3)
    assert torch.equal(band.sdf[truth.abs() > 0.1] < 0, truth[truth.abs() > 0.1] < 0)
    assert (band.sdf - truth).abs()[truth.abs() < 2.9].max() < 0.05
    assert len(band.corners) < 0.6 * len(CORNERS), "only corners near the surface"
    assert ((CORNERS[band.corners].norm(dim=1) - 0.7).abs() < 6 * CELL).all()


def test_faces_turned_inside_out_give_the_same():
    vertices, faces = ball()
    right, turned = (mesh_sdf(vertices, f, CORNERS, RESOLUTION, 3.0).sdf for f in (faces, faces.flip(1)))
    assert torch.equal(right, turned)


def test_a_hollow_ball_stays_hollow():
    outer, inner = ball(0.8), ball(0.4)
    vertices, faces = torch.cat([outer[0], inner[0]]), torch.cat([outer[1], inner[1].flip(1) + len(outer[0])])
    sdf = mesh_sdf(vertices, faces, CORNERS, RESOLUTION, 3.0).sdf
    radius = CORNERS.norm(dim=1)
    for low, high, inside in ((0.0, 0.35, False), (0.45, 0.75, True), (0.85, 2.0, False)):
        assert ((sdf < 0)[(radius > low) & (radius < high)] == inside).all()


def test_a_box_of_twelve_faces_and_a_thin_plate():
    corners = torch.tensor([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = torch.tensor([triangle for a, b, c, d in quads for triangle in ((a, b, c), (a, c, d))])
    for half in (torch.tensor([0.5, 0.7, 0.3]), torch.tensor([0.8, 0.8, 0.06])):
        sdf = mesh_sdf(corners * half, faces, CORNERS, RESOLUTION, 3.0).sdf
        inside, off = (CORNERS.abs() - half < 0).all(1), (CORNERS.abs() - half).abs().amin(1) > 1e-4
        assert torch.equal((sdf < 0)[off], inside[off])


def test_where_the_nearest_place_lies():
    vertices, faces = ball()
    band = mesh_sdf(vertices, faces, CORNERS, RESOLUTION, 3.0)
    place = (vertices[faces[band.face]] * band.bary[..., None]).sum(1)
    off = (place - CORNERS[band.corners]).norm(dim=1) / CELL
    near = band.sdf[band.corners].abs() < 2.9
    assert (off[near] - band.sdf[band.corners][near].abs()).abs().max() < 0.2, "the sample nearest to it"


def test_no_face_matters_that_has_no_area():
    vertices, faces = ball()
    spoilt = torch.cat([faces, faces[:, [0, 0, 1]]])
    clean, broken = (mesh_sdf(vertices, f, CORNERS, RESOLUTION, 3.0).sdf for f in (faces, spoilt))
    assert torch.equal(clean < 0, broken < 0)


def test_a_mesh_with_fewer_samples_than_candidates():
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) * CELL * 0.4
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    band = mesh_sdf(vertices, faces, CORNERS, RESOLUTION, 3.0)
    assert band.sdf.min() >= -1 and band.sdf.max() == 3.0
    one = mesh_sdf(vertices[:3], faces[:1], CORNERS, RESOLUTION, 3.0)
    assert set(one.face.tolist()) == {0} and one.bary.shape == (len(one.corners), 3)


def test_a_mesh_without_area_is_refused():
    vertices, faces = ball()
    with pytest.raises(ValueError, match="no area"):
        mesh_sdf(vertices * 0, faces, CORNERS, RESOLUTION, 3.0)


def test_a_mesh_outside_the_grid_is_refused():
    vertices, faces = ball()
    with pytest.raises(ValueError, match="outside the grid"):
        mesh_sdf(vertices + 10, faces, CORNERS, RESOLUTION, 3.0)
