"""Names of files that every system can write: outputs are copied from one to another, and what Windows keeps for itself fails there."""

from __future__ import annotations

import unicodedata

DEVICES = {
    "CON",
    "PRN",
    "AUX",
    "NUL",
    "CONIN$",
    "CONOUT$",
    *(f"{port}{n}" for port in ("COM", "LPT") for n in "0123456789\u00b9\u00b2\u00b3"),
}
FORBIDDEN = '<>:"|?*'
MOST_BYTES, MOST_BYTES_OF_PART = 1000, 200  # file systems hold 255 bytes a name; numbers and endings are added


def check_text(name: str) -> None:
    """Checks a name that is looked up. Raises ValueError where it holds a character that no file's name has."""
    for letter in name:
        if unicodedata.category(letter) in ("Cc", "Cs"):
            raise ValueError(f"The name {_short(name)} holds {letter!r}, which no file's name can hold; choose one that is offered.")


def check_file_name(name: str) -> None:
    """Checks a name without its ending; "/" and "\\" part its folders.

    Raises:
        ValueError: a character that some system does not allow, a name that Windows keeps for a device, one that ends in a dot or a space,
            or one that is too long.
    """
    for letter in name:
        if letter in FORBIDDEN or unicodedata.category(letter) in ("Cc", "Cs"):
            raise ValueError(
                f"The file name {_short(name)} holds {letter!r}, which not every system allows in a file name; use letters, digits, _ and "
                "-, and / between folders."
            )
    if len(name.encode()) > MOST_BYTES:
        raise ValueError(f"The file name {_short(name)} is {len(name.encode())} bytes long; at most {MOST_BYTES} are possible.")
    for part in name.replace("\\", "/").split("/"):
        if part.split(".")[0].strip().upper() in DEVICES:
            raise ValueError(f"The file name {_short(name)} holds {part!r}, which Windows keeps for a device; choose another name.")
        if part.strip(".") and part != part.rstrip(". "):
            raise ValueError(f"In the file name {_short(name)} a part ends with a dot or a space, which Windows drops; remove it.")
        if len(part.encode()) > MOST_BYTES_OF_PART:
            raise ValueError(
                f"The file name {_short(name)} has a part of {len(part.encode())} bytes; at most {MOST_BYTES_OF_PART} leave room for the "
                "number and the ending."
            )


def _short(name: str) -> str:
    return repr(name if len(name) <= 60 else name[:57] + "...")
