"""Depth and normals as pictures."""

import torch
from lathe.pipelines.images import depth_and_normal_images


def test_near_is_white_and_each_view_has_its_own_range():
    depths = torch.tensor([[[[0.0, 2.0], [3.0, 4.0]]], [[[0.0, 0.0], [5.0, 5.0]]], [[[0.0, 0.0], [0.0, 0.0]]]])
    shown = depth_and_normal_images.depth_pictures(depths)
    assert shown.shape == (3, 3, 2, 2)
    assert shown[0, 0].tolist() == [[0.0, 1.0], [0.5, 0.0]]
    assert shown[1, 0].tolist() == [[0.0, 0.0], [1.0, 1.0]]
    assert float(shown[2].max()) == 0.0


def test_normals_run_from_minus_one_to_one():
    normals = torch.tensor([0.0, 0.0, 1.0]).reshape(1, 3, 1, 1)
    assert depth_and_normal_images.normal_pictures(normals).flatten().tolist() == [0.5, 0.5, 1.0]
