"""Hostile words: names of files, colours, lists of views. Each has its row, as the table has."""

from __future__ import annotations

from .table import EITHER, REFUSE, VALUE, WARN, Row

# What Windows keeps or cannot write is refused everywhere: outputs are copied, and a workflow is shared.
FILE_NAMES: dict[str, tuple[str, Row]] = {
    "up": ("../outside", REFUSE),
    "up and in": ("lathe/../../outside", REFUSE),
    "up by backslash": ("..\\outside", REFUSE),
    "up at the end": ("lathe/..", REFUSE),
    "absolute": ("/tmp/lathe_hostile_outside", REFUSE),
    "drive": ("C:\\outside", REFUSE),
    "drive without a slash": ("C:outside", REFUSE),
    "share": ("\\\\server\\share\\outside", REFUSE),
    "stream": ("lathe/a:b", REFUSE),
    "NUL": ("lathe/a\0b", REFUSE),
    "newline": ("lathe/a\nb", REFUSE),
    "escape": ("lathe/a\x1b[31mb", REFUSE),
    "lone surrogate": ("lathe/a\ud800b", REFUSE),
    "right to left": ("lathe/a\u202eglb.exe", EITHER),
    "CON": ("CON", REFUSE),
    "a device with an ending": ("lathe/nul.mesh", REFUSE),
    "a device as folder": ("aux/mesh", REFUSE),
    "COM1": ("lathe/com1", REFUSE),
    "stars and pipes": ('lathe/a*b?"<|>', REFUSE),
    "a dot at the end of a folder": ("lathe./mesh", REFUSE),
    "a very long name": ("lathe/" + "n" * 300, REFUSE),
    "a very long name in three bytes": ("lathe/" + "\u6f22" * 100, REFUSE),
    "very many folders": ("a/" * 3000 + "mesh", REFUSE),
    "empty": ("", REFUSE),
    "blank": ("   ", REFUSE),
    "a dot": (".", REFUSE),
    "a folder": ("lathe/", EITHER),
    "hidden": (".hidden", EITHER),
    "home": ("~/mesh", EITHER),
    "spaces around": ("  lathe/mesh ", EITHER),
    "not Latin": ("lathe/\u690c\u5b50-\u0441\u0442\u0443\u043b", VALUE),
    "emoji": ("lathe/\U0001fa91", VALUE),
    "a date": ("lathe/%date:yyyy%_%year%", EITHER),
    "a number at its end": ("lathe/mesh_99999999999999999999_", VALUE),
    "glob": ("lathe/[a-z]mesh", EITHER),
}
COLOURS: dict[str, tuple[str, Row]] = {
    "no colour": ("whitish", REFUSE),
    "empty": ("", REFUSE),
    "two digits": ("#ff", REFUSE),
    "seven digits": ("#1234567", REFUSE),
    "spaces between": ("#f f f f f f", REFUSE),
    "no digits": ("#gggggg", REFUSE),
    "NUL": ("#ff\0ff0", REFUSE),
    "lone surrogate": ("\ud800", REFUSE),
    "very long": ("f" * 100_000, REFUSE),
    "short": ("#abc", VALUE),
    "name": (" White ", VALUE),
}
VIEW_LISTS: dict[str, tuple[str, Row]] = {
    "out of range": ("0, 99", REFUSE),
    "negative": ("-7", REFUSE),
    "beyond 2^65": ("36893488147419103232", REFUSE),
    "words": ("left, right", REFUSE),
    "fractions": ("0.5, 1", REFUSE),
    "NaN": ("nan", REFUSE),
    "infinity": ("inf, 1", REFUSE),
    "a range of 2^40": ("0-1099511627776", REFUSE),
    "ten thousand digits": ("1" * 10_000, REFUSE),
    "commas": (",,,", REFUSE),
    "NUL": ("0\0, 1", REFUSE),
    "blank": ("  ", EITHER),
    "backwards": ("5-0", REFUSE),
    "twice the same": ("1, 1", EITHER | WARN),
}
WEIGHTS = {name: row for name, row in VIEW_LISTS.items() if name in ("words", "NaN", "infinity", "NUL", "ten thousand digits")} | {
    "negative": ("-1, 1, 1, 1, 1, 1", REFUSE),
    "too few": ("1, 1", REFUSE),
    "all zero": ("0, 0, 0, 0, 0, 0", REFUSE),
    "blank": ("  ", VALUE),
}
WORDS: dict[str, tuple[str, Row]] = {
    "empty": ("", EITHER),
    "NUL": ("a\0b", EITHER),
    "lone surrogate": ("a\ud800b", REFUSE),
    "very long": ("word " * 20_000, EITHER),
    "brackets": ("((((((" * 200, EITHER),
}
PLAIN_NAMES = {name: (text.removeprefix("lathe/"), EITHER if row == VALUE else row) for name, (text, row) in FILE_NAMES.items()}
KINDS = {
    "filename_prefix": FILE_NAMES, "name": PLAIN_NAMES, "background": COLOURS, "views": VIEW_LISTS, "view_weights": WEIGHTS,
    "starts_as": WORDS,
}  # fmt: skip
"""By the name of the widget."""
