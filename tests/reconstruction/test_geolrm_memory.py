"""What a network of GeoLRM really holds, against what is estimated before it starts."""

import weakref
from dataclasses import replace

import pytest
import torch
from lathe.pipelines.cameras.orbits import orbit_cameras
from lathe.pipelines.nets.geolrm import RECONSTRUCTION, ReconstructionNetwork
from lathe.pipelines.reconstruction.geolrm import stages
from lathe.pipelines.weights.geolrm import cast_trunk
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CHUNK = 1 << 22


class Live(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, as long as they live. `given` are not counted."""

    def __init__(self, given):
        super().__init__()
        self.now = self.peak = 0
        self.known = {tensor.untyped_storage()._cdata for tensor in given}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage())._cdata not in self.known:
                self.known.add(storage._cdata)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        return out

    def _gone(self, key, size):
        self.known.discard(key)
        self.now -= size


@pytest.mark.parametrize(("views", "tokens", "dtype"), [(21, 256, torch.float32), (4, 4096, torch.float32), (4, 4096, torch.bfloat16)])
def test_the_estimate_is_an_upper_bound_and_no_wild_one(views, tokens, dtype):
    config = replace(RECONSTRUCTION, dim=192, layers=1, heads=4, vit=(192, 1, 3), feature_dim=96, grid=32)
    net = ReconstructionNetwork(config).eval().requires_grad_(False)
    cast_trunk(net, dtype)
    images, occupancy = torch.rand(views, 3, 224, 224), torch.ones(1, 32, 32, 32)
    model = stages.GeoLRM(None, net, view_size=224)
    with Live([images, occupancy, *net.state_dict().values()]) as live:
        stages.reconstruct(model, occupancy, images, None, orbit_cameras(views), tokens=tokens, free_memory=CHUNK, dtype=dtype)
    estimate = stages.memory_required(config, 224, views, tokens, dtype) + CHUNK
    assert 0.45 * estimate < live.peak < estimate
