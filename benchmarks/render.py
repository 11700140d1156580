"""Write into the pages what was measured.

    python -m benchmarks.render            # `make render`
    python -m benchmarks.render --check    # status 1 and the names of pages that would change

A page holds `<!-- begin: NAME -->` and `<!-- end: NAME -->`, each in a line of its own. The function of that name in
`benchmarks.tables` writes what is between them from committed result files. Where a file is missing, the page names the
`make` target that writes it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

from benchmarks.result_files import REPOSITORY, make_target
from benchmarks.tables import TABLES

PAGES: Final = ("README.md", "docs/*.md", "models/*/README.md", "benchmarks/README.md", "benchmarks/*/README.md")
_BLOCK: Final = re.compile(
    r"^<!-- begin: (?P<name>[\w-]+) -->\n(?P<content>.*?)^<!-- end: (?P=name) -->$", re.MULTILINE | re.DOTALL
)
_MARKER: Final = re.compile(r"^<!-- (?:begin|end): .*$", re.MULTILINE)


def main(arguments: list[str]) -> int:
    """Render every page, or only name those that would change; return the exit status."""
    only_check = "--check" in arguments
    num_changed = 0
    for path in pages():
        text = rendered(path)
        if text == path.read_text(encoding="utf-8"):
            continue
        num_changed += 1
        print(path.relative_to(REPOSITORY))
        if not only_check:
            path.write_text(text, encoding="utf-8")
    return 1 if only_check and num_changed else 0


def pages() -> list[Path]:
    """The pages that may hold markers."""
    return [path for pattern in PAGES for path in sorted(REPOSITORY.glob(pattern))]


def rendered(path: Path) -> str:
    """The text of a page with the figures of its result files.

    Raises:
        ValueError: a begin marker has no end marker of the same name after it, or the other way round.
        KeyError: no table has the marker's name.
    """
    text = path.read_text(encoding="utf-8")
    if len(_MARKER.findall(text)) != 2 * len(names(text)):
        raise ValueError(
            f"{path} has a begin marker without its end marker, or an end marker without its begin marker."
        )
    return _BLOCK.sub(_write, text)


def names(text: str) -> list[str]:
    """Names of the tables that a page asks for, in order."""
    return [found["name"] for found in _BLOCK.finditer(text)]


def _write(found: re.Match[str]) -> str:
    name = found["name"]
    try:
        content = TABLES[name]()
    except FileNotFoundError as error:
        content = f"Measure it here: `make {make_target(Path(error.filename))}`."
    return f"<!-- begin: {name} -->\n\n{content}\n\n<!-- end: {name} -->"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
