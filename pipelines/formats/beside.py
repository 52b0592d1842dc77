"""Files that a mesh file names, found in its folder however the name was written: on another machine, another system, in another case."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

TEXTURE_FOLDERS = ("textures", "texture", "tex", "maps", "images", "materials")


def find_beside(folder: Path, name: str) -> Path | None:
    """The file that `name` means, or None.

    Looked for where the name says, then by its last part in the folder itself and in its folder of textures; letters of another
    case and percent-encoding are forgiven. Nothing outside `folder` is ever named: of an absolute path, and of one with `..`, only
    the last part counts. Links that lie in the folder are followed, wherever they lead.
    """
    plain = name.strip().strip("\"'").strip()
    for written in dict.fromkeys((plain, unquote(plain))):
        steps = [step.strip() for step in re.split(r"[\\/]+", written)]
        steps = [step for step in steps if step not in ("", ".")]
        if not steps or "\0" in written:
            continue
        leads_out = written[0] in "\\/" or ".." in steps or ":" in written
        tries = [[steps[-1]], *([sub, steps[-1]] for sub in TEXTURE_FOLDERS)]
        for path in tries if leads_out else [steps, *tries]:
            found = _walk(folder, path)
            if found is not None:
                return found
    return None


def _walk(folder: Path, steps: list[str]) -> Path | None:
    """The file at `steps` below the folder, each step in any case of letters."""
    try:
        for step in steps:
            if step == ".." or ":" in step:
                return None
            exact = folder / step
            if not exact.exists():
                alike = sorted(entry.name for entry in folder.iterdir() if entry.name.casefold() == step.casefold())
                if not alike:
                    return None
                exact = folder / alike[0]
            folder = exact
        return folder if folder.is_file() else None
    except (OSError, ValueError):  # a step that is a file, a name too long for the system, a folder that may not be read
        return None
