"""What the pack warns of while a node runs, as text on that node.

Everything in the pack warns through Python's logging. Here the warnings of one run are collected; they reach the log as ever.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from comfy_api.latest import io

PACK = logging.getLogger(__name__.removesuffix(".nodes.core.notices"))


class _Collector(logging.Handler):
    """Keeps the texts of warnings, each once, of the thread that made it and of threads that began later."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []
        self._others = {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.thread not in self._others and text not in self.texts:
            self.texts.append(text)


@contextmanager
def collected(node_id: str | None) -> Iterator[list[str]]:
    """The pack's warnings within the block, in order; at its end, also after an error, they are shown on the node in the page."""
    collector = _Collector()
    PACK.addHandler(collector)
    try:
        yield collector.texts
    finally:
        PACK.removeHandler(collector)
        if collector.texts and node_id is not None:
            _show("\n".join(collector.texts), node_id)


def _show(text: str, node_id: str) -> None:
    """Text on a node of the page, where a server runs (it is then imported already) and can."""
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if hasattr(server, "send_progress_text"):
        server.send_progress_text(text, node_id)


def with_notices(output: Any, texts: list[str]) -> Any:
    """A node's output with the warnings as `text` in its ui, as core's own nodes that show text have it: it is in the history, and an
    output node tells it to the page again when its output comes from the cache.

    A node with a ui of its own always gets the entry: where core runs a node for each of a list, it joins their ui by the first one's keys.
    """
    if not isinstance(output, io.NodeOutput) or (output.ui is None and not texts):
        return output
    told = {} if output.ui is None else output.ui if isinstance(output.ui, dict) else output.ui.as_dict()
    output.ui = {**told, "text": [*told.get("text", []), *texts]}
    return output
