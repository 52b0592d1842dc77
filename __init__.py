"""Lathe: one picture to a 3D asset, as ComfyUI nodes."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Called by ComfyUI when it loads the pack; the nodes are imported only then."""
    from .nodes import LatheExtension

    return LatheExtension()
