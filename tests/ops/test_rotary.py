"""The 3D rotary embedding: against the published outputs, and the property it is made for."""

import math

import pytest
import torch
from data.tiny_geolrm import golden
from lathe.pipelines.ops.rotary import rotate


def test_the_published_outputs():
    want = golden()
    got = rotate(want["rope_in"].transpose(1, 2), want["rope_pos"]).transpose(1, 2)
    assert float((got - want["rope_out"]).abs().max()) < 5e-6


def test_each_pair_turns_by_its_axis_and_frequency():
    x = torch.randn(1, 1, 1, 12, generator=torch.Generator().manual_seed(0))
    got = rotate(x, torch.tensor([[[3, 5, 7]]]))[0, 0, 0]
    for axis, place in enumerate((3, 5, 7)):
        for pair in range(2):
            angle = place * 10000.0 ** (-pair / 2)
            u, v = float(x[0, 0, 0, 4 * axis + pair]), float(x[0, 0, 0, 4 * axis + 2 + pair])
            wanted = (u * math.cos(angle) - v * math.sin(angle), v * math.cos(angle) + u * math.sin(angle))
            assert (float(got[4 * axis + pair]), float(got[4 * axis + 2 + pair])) == pytest.approx(wanted, abs=1e-5)


def test_products_depend_on_differences_of_positions_only():
    generator = torch.Generator().manual_seed(1)
    q, k = (torch.randn(1, 2, 5, 24, generator=generator) for _ in range(2))
    first, second = (torch.randint(0, 100, (1, 5, 3), generator=generator) for _ in range(2))
    moved = torch.tensor([11, -4, 27])
    a = (rotate(q, first) * rotate(k, second)).sum(-1)
    b = (rotate(q, first + moved) * rotate(k, second + moved)).sum(-1)
    assert torch.allclose(a, b, atol=1e-4)
    assert not torch.allclose(a, (rotate(q, first + moved) * rotate(k, second)).sum(-1), atol=1e-1)
    assert torch.allclose(rotate(q, first).norm(dim=-1), q.norm(dim=-1), atol=1e-5)


def test_the_dtype_stays_and_other_widths_are_refused():
    assert rotate(torch.ones(1, 1, 1, 6, dtype=torch.bfloat16), torch.ones(1, 1, 3, dtype=torch.long)).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="multiples of 6 a head, not 8"):
        rotate(torch.ones(1, 1, 1, 8), torch.ones(1, 1, 3, dtype=torch.long))
