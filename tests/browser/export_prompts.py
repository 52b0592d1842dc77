"""Writes tests/server/prompts/NAME.json from example_workflows/NAME.json, as the page would post it.

With --open PROMPT.json SAVED.json it goes the other way once: lays an API prompt out on the canvas and saves the workflow, a start
for a new example to be arranged by hand.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))

from comfy_page import ComfyPage, as_text, new_tab, open_browser  # noqa: E402
from shared_server import load_workflow, prompt_path, shared_server, workflow_names  # noqa: E402


def main(arguments: list[str]) -> None:
    with open_browser() as browser:
        page = ComfyPage(new_tab(browser), shared_server())
        if arguments[:1] == ["--open"]:
            page.load_prompt(json.loads(Path(arguments[1]).read_text(encoding="utf-8")))
            Path(arguments[2]).write_text(json.dumps(page.saved(), indent=1), encoding="utf-8")
            return
        prompt_path("any").parent.mkdir(exist_ok=True)
        for name in workflow_names():
            page.load(load_workflow(name))
            prompt_path(name).write_text(as_text(page.prompt()), encoding="utf-8")
            print(prompt_path(name))


if __name__ == "__main__":
    main(sys.argv[1:])
