"""`dovetail-ort graph`: commands for people who change graphs.

passes -> names of graph passes -> apply -> a new bundle
two graphs -> diff;  a bundle -> profile -> the time of operators and blocks
a source -> ablate -> exports without one graph pass each
"""

from __future__ import annotations

from typing import Final

COMMANDS: Final = {
    "passes": "list the graph passes that an export can use",
    "apply": "run graph passes over a bundle's graph and write a new bundle",
    "diff": "compare two graphs by nodes, weights and bytes",
    "profile": "show which operators and blocks take the time of a forward",
    "ablate": "measure what each graph pass of an export is worth",
}
USAGE: Final = "dovetail-ort graph [-h] COMMAND ..."
EXAMPLES: Final = (
    "example:\n  dovetail-ort graph profile smollm2 --tokens 1,6\n\n"
    "Run dovetail-ort graph COMMAND --help to see the options of a command."
)
