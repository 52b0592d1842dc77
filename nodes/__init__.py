"""The nodes, one module a stage: sockets and widgets to stages and back. The only folder that imports ComfyUI.

A stage module lists its node classes in `NODES`; what serves several stages lies in the package `core`.
"""

from __future__ import annotations

import importlib
import pkgutil

from comfy_api.latest import ComfyExtension, io

from .core import folders
from .core.entry import entered


def stage_modules() -> list[str]:
    """Names of the stage modules of this folder, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.ispkg)


class LatheExtension(ComfyExtension):
    """What ComfyUI asks for the pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes, stage by stage, each behind the pack's entry."""
        folders.register_model_folder()
        nodes: list[type[io.ComfyNode]] = []
        for name in stage_modules():
            nodes += map(entered, importlib.import_module(f".{name}", __name__).NODES)
        return nodes
