"""The sub-commands of `dovetail-ort`: each module has `add_arguments(parser)` and `run(arguments)`, its exit status.

A module with a table `COMMANDS` is a group instead, whose commands are modules of its own.
"""

from __future__ import annotations

import argparse
from typing import Final

USAGE: Final = "dovetail-ort [-h] [--version] COMMAND ..."
EXAMPLES: Final = (
    "example:\n  dovetail-ort export HuggingFaceTB/SmolLM2-135M-Instruct smollm2\n"
    '  dovetail-ort generate smollm2 "Why is the sky blue?"\n\ndovetail-ort COMMAND --help has more.'
)
# Each module is imported when it is chosen: only those that export need torch.
COMMANDS: Final = {
    "export": "write a bundle from a Hugging Face model or a GGUF file",
    "train": "teach a drafter on text that the target writes itself",
    "attach": "put a trained drafter into a bundle",
    "pull": "fetch a bundle from the hub",
    "push": "put a bundle on the hub",
    "tune": "time target and drafter, so that drafting pays here",
    "generate": "answer one prompt",
    "chat": "hold a conversation",
    "serve": "answer over HTTP, as OpenAI does",
    "bench": "measure decoding with speculation against decoding without",
    "inspect": "show what is in a bundle",
    "graph": "see, change and measure what a graph is made of",
    "doctor": "check this machine and name the command that mends it",
}


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add what machines ask for."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")
