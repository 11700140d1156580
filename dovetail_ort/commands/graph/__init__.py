"""`dovetail-ort graph`: commands for people who change graphs."""

from __future__ import annotations

from typing import Final

COMMANDS: Final = {
    "passes": "list the passes that an export is made of",
    "apply": "run passes over a bundle's graph and write a new bundle",
    "diff": "compare two graphs by nodes, weights and bytes",
    "profile": "show where the time of a pass goes",
    "ablate": "measure what each pass of an export is worth",
}
EXAMPLES: Final = (
    "example:\n  dovetail-ort graph profile smollm2 --tokens 1,6\n\ndovetail-ort graph COMMAND --help has more."
)
