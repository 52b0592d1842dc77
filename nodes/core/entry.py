"""The one way into every node: its values are checked before anything is computed, and what it warned of is shown on it afterwards."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .memory import in_words
from .notices import collected, with_notices
from .socket_values import check_sockets
from .widget_values import checked


def entered(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The node class behind this entry: a subclass of the same name, for ComfyUI to register."""

    def execute(cls: Any, **given: Any) -> io.NodeOutput:
        schema = cls.SCHEMA or cls.GET_SCHEMA()
        check_sockets(schema, given)
        values = checked(schema, given)
        hidden = cls.hidden
        with collected(None if hidden is None else hidden.unique_id) as texts, in_words(schema.display_name or schema.node_id):
            output = node.execute.__func__(cls, **values)  # type: ignore[attr-defined]
        return with_notices(output, texts)

    return type(node.__name__, (node,), {"execute": classmethod(execute), "__module__": node.__module__, "__doc__": node.__doc__})
