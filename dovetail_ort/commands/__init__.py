"""The sub-commands of `dovetail-ort`: each module has `add_arguments(parser)` and `run(arguments)`, its exit status.

    cli.main -> COMMANDS -> the module of a command -> add_arguments, run
    make a bundle:   export, train, attach, pull, push, graph -> dovetail_ort_export
    use a bundle:    tune, generate, chat, serve, bench, inspect, doctor -> dovetail_ort_runtime

A package with a table `COMMANDS` is a group of commands. Each command of a group is a module of the package.
"""

from __future__ import annotations

from typing import Final

USAGE: Final = "dovetail-ort [-h] [--version] COMMAND ..."
EXAMPLES: Final = (
    "example:\n  dovetail-ort export HuggingFaceTB/SmolLM2-135M-Instruct smollm2\n"
    '  dovetail-ort generate smollm2 "Why is the sky blue?"\n\n'
    "Run dovetail-ort COMMAND --help to see the options of a command."
)
# Each module is imported when it is chosen: only those that export need torch.
COMMANDS: Final = {
    "export": "write a bundle from a Hugging Face model or a GGUF file",
    "train": "train a draft head on text that the target writes",
    "attach": "put a trained draft head into a bundle",
    "pull": "download a bundle from the hub",
    "push": "upload a bundle to the hub",
    "tune": "measure times on this machine, so that the planner drafts what pays",
    "generate": "answer one prompt",
    "chat": "hold a conversation in the terminal",
    "serve": "answer over HTTP with OpenAI's API",
    "bench": "compare decoding with speculation to decoding without it",
    "inspect": "show what is in a bundle",
    "graph": "list, apply and measure graph passes",
    "doctor": "check this machine, and name the command that repairs what is wrong",
}
