"""Finds the ComfyUI that `dev.py` prepared, and makes it importable for tests of the nodes' own helpers."""

import os
import sys
from pathlib import Path

from lathe_root import ROOT


def comfyui_dir() -> Path | None:
    """COMFYUI_DIR, else the tree under .comfyui; None where there is neither."""
    for folder in (os.environ.get("COMFYUI_DIR"), ROOT / ".comfyui" / "ComfyUI"):
        if folder and (Path(folder) / "comfy_api").is_dir():
            return Path(folder)
    return None


def add_to_path() -> bool:
    """Puts ComfyUI last on sys.path and keeps it on the CPU where there is no GPU. False where there is no ComfyUI."""
    folder = comfyui_dir()
    if folder is None:
        return False
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    import torch
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    return True
