"""Views that disagree: which loss suffers less from it, and whether re-noising mends it."""

from __future__ import annotations

import argparse
from typing import Any

from .. import scenes
from . import loss_ablation, renoise_round


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """`--stage inconsistent_views`: both halves, and the claims of both."""
    print("\nViews bent by up to 3 pixels: image-level losses (ours) against a pixel loss", flush=True)
    ablation = loss_ablation.run(arguments)
    print("\nViews of the view model: one round of re-noising (ours)", flush=True)
    round_ = renoise_round.run(arguments)
    claims = ablation.pop("claims") + round_.pop("claims")
    return {"objects": len(scenes.chosen_keys(arguments)), "losses": ablation, "renoise": round_, "claims": claims}
