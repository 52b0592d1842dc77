"""A pack for tests only: small stand-ins for loaders of weights nobody ships, and probes. Modules list their nodes in NODES."""

import importlib
import pkgutil

from comfy_api.latest import ComfyExtension


class TestPack(ComfyExtension):
    async def get_node_list(self):
        return [node for m in pkgutil.iter_modules(__path__) for node in importlib.import_module(f".{m.name}", __name__).NODES]


async def comfy_entrypoint():
    return TestPack()
