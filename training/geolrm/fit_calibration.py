"""Makes two of the tests' networks by which `auto` is checked: a tiny reconstruction network that knows the calibration object by heart.

A small network that learns objects in general comes to make little use of self-attention, above all in the heads form, and then its form
matters to nobody. One that repeats a single object precisely does so in its own form alone. The file holds the reconstruction network;
its tokens are the cells that the proposal network finds in the calibration views.

    python training/geolrm/fit_calibration.py --proposal DIR --form tokens|heads --out FILE [--steps 600]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch.nn.functional import interpolate

sys.path.append(str(Path(__file__).resolve().parents[2] / "support"))
import lathe_root  # noqa: E402, F401
from lathe.pipelines.data.cameras import Cameras  # noqa: E402
from lathe.pipelines.nets.geolrm import HALF  # noqa: E402
from lathe.pipelines.reconstruction.geolrm.calibration import calibration_views, hull_shell
from lathe.pipelines.reconstruction.geolrm.detect_attention import own_cells  # noqa: E402
from lathe.pipelines.reconstruction.geolrm.stages import GeoLRM, NetworkForm, anchors  # noqa: E402
from lathe.pipelines.reconstruction.geolrm.views import grid_extents, network_views  # noqa: E402
from lathe.pipelines.weights.geolrm import save_geolrm  # noqa: E402
from lathe.training.geolrm import sizes  # noqa: E402
from lathe.training.geolrm.losses import draw_gaussians  # noqa: E402
from lathe.training.geolrm.train_reconstruction import trained_proposal  # noqa: E402

RENDER_SIZE = 112  # pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proposal", type=Path, required=True, help="run of train_proposal.py, --size tiny, in the same form")
    parser.add_argument("--form", choices=("tokens", "heads"), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=600)
    args = parser.parse_args()
    torch.manual_seed(0)
    size, views = sizes.SIZES["tiny"], calibration_views()
    proposal, net = trained_proposal(args.proposal, size), sizes.new_reconstruction(size.reconstruction)
    net.encoder.load_state_dict(proposal.encoder.state_dict())  # its attention is in use already
    net.transformer.load_state_dict(proposal.transformer.state_dict())
    sizes.keep_statistics(net)
    run_as, grid = NetworkForm(args.form), size.reconstruction.grid
    cells = own_cells(GeoLRM(proposal, None, run_as, view_size=size.view_size))
    xyz = anchors(hull_shell(views, grid, grid_extents(grid, views.cameras, 1)[0]) if cells is None else cells, 0.5)
    given = network_views(views.images, views.masks, views.cameras, 0, size.view_size, (1.0, 1.0, 1.0), "cpu")
    truth = interpolate(torch.cat([views.images + 1 - views.masks, views.masks], 1), (RENDER_SIZE, RENDER_SIZE), mode="area")
    cameras = Cameras(given.c2w, views.cameras.K, views.cameras.names)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.0)
    for step in range(args.steps):
        levels = net.encoder(given.images, given.c2w, given.K)
        latents = net.latents(xyz, levels, given.c2w, given.K, form=args.form, scale=HALF)
        drawn = draw_gaussians(net.renderer(latents, xyz), cameras, RENDER_SIZE)
        error = (torch.cat([drawn.images, drawn.masks], 1) - truth).square().mean()
        optimizer.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step}: {-10 * float(error.detach().log10()):.2f} dB", flush=True)
    save_geolrm(GeoLRM(None, net.eval(), run_as, run_as, name="fitted", view_size=size.view_size), args.out)


if __name__ == "__main__":
    main()
