"""Public names and signatures change on purpose only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
PINNED = FOLDER / "public_names.txt"
COMMAND = "python tests/packaging/public_names.py > tests/packaging/public_names.txt"


def test_public_names_and_signatures_are_the_pinned_ones():
    command = [sys.executable, FOLDER / "public_names.py"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    pinned = PINNED.read_text(encoding="utf-8").splitlines()
    gone, new = (
        [line for line in lines if line not in other] for lines, other in ((pinned, printed), (printed, pinned))
    )
    assert printed == pinned, "\n".join(
        [
            "public names are not those of public_names.txt",
            *(f"- {line}" for line in gone),
            *(f"+ {line}" for line in new),
            f"if this is meant, name it in CHANGELOG.md and run: {COMMAND}",
        ]
    )
