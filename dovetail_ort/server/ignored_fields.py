"""The response header that names fields of the request that nobody read. It knows no field's meaning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

HEADER: Final = "x-dovetail-ignored-fields"
MOST_CHARACTERS: Final = 400
_LONGEST_NAME: Final = 80
_LAST_WORDS: Final = 20  # characters of ", 123456789 more"


def ignored_fields_headers(paths: Sequence[str]) -> dict[str, str]:
    """The header that names some fields; no header without fields.

    Its value has at most `MOST_CHARACTERS` characters of printable ASCII. It ends with the number of further fields if
    there are any. Names are quoted as in a URL, so none has a comma, a space or a line break.

    Example: `foo`, `messages[0].bar`, `Größe` -> "foo, messages[0].bar, Gr%C3%B6%C3%9Fe".

    Args:
        paths: paths of the fields in the body, as `Fields.path` gives them.
    """
    if not paths:
        return {}
    shown: list[str] = []
    room = MOST_CHARACTERS - _LAST_WORDS
    for path in paths:
        name = _written(path)
        room -= len(name) + 2
        if room < 0:
            break
        shown.append(name)
    num_left = len(paths) - len(shown)
    rest = [f"{num_left} more"] if num_left else []
    return {HEADER: ", ".join([*shown, *rest])}


def _written(path: str) -> str:
    """A path in a few ASCII characters; quotation marks for an empty one."""
    written = quote(path[:_LONGEST_NAME], safe="[]", errors="replace") or '""'
    is_whole = len(path) <= _LONGEST_NAME and len(written) <= _LONGEST_NAME
    return written if is_whole else written[: _LONGEST_NAME - 3] + "..."
