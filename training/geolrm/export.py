"""Writes the averaged weights of two finished runs as one file that Load GeoLRM opens: half precision, settings in its header.

Usage:

    python training/geolrm/export.py --proposal DIR --reconstruction DIR [--size mini|tiny] [--form tokens|heads] [--out FILE]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parents[2] / "support"))
import lathe_root  # noqa: E402, F401
from lathe.pipelines.reconstruction.geolrm.stages import GeoLRM, NetworkForm  # noqa: E402
from lathe.pipelines.weights.geolrm import MINI_FILE, save_geolrm  # noqa: E402
from lathe.training.export_mini import averaged  # noqa: E402
from lathe.training.geolrm import sizes  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proposal", type=Path, required=True, help="folder of the run of train_proposal.py")
    parser.add_argument("--reconstruction", type=Path, required=True, help="folder of the run of train_reconstruction.py")
    parser.add_argument("--size", choices=tuple(sizes.SIZES), default="mini")
    parser.add_argument("--form", choices=("tokens", "heads"), default="tokens", help="in which the runs trained")
    parser.add_argument("--out", type=Path, default=MINI_FILE)
    args = parser.parse_args()
    size, run_as = sizes.SIZES[args.size], NetworkForm(args.form)
    proposal, reconstruction = sizes.new_proposal(size.proposal), sizes.new_reconstruction(size.reconstruction)
    proposal.load_state_dict(averaged(args.proposal))
    reconstruction.load_state_dict(averaged(args.reconstruction))
    model = GeoLRM(proposal.eval(), reconstruction.eval(), run_as, run_as, name=args.size, view_size=size.view_size)
    save_geolrm(model, args.out, dtype=torch.float16)
    print(f"{args.out.name}: {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
