"""What every peer program does: it loads a model in some modes, then answers prompts greedily, line by line.

A program gets `PeerOptions` as JSON in its first argument. The first line that it prints holds the versions of its
packages and its modes. Each line that it reads, `{"mode": ..., "prompt": [ids]}`, is answered with one line, a
`PeerAnswer`. This module imports the standard library only, as every peer has an environment of its own.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerOptions:
    """What a peer is asked for; all but the model is the same for all peers.

    Attributes:
        model: directory or file of the model.
        threads: number of threads that one forward uses.
        max_new_tokens: number of tokens of an answer at most.
        eos_token_ids: tokens that end an answer.
    """

    model: Path
    threads: int
    max_new_tokens: int
    eos_token_ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerAnswer:
    """One answer.

    Attributes:
        token_ids: new tokens, an end-of-text token included.
        prefill_seconds: seconds for the prompt and the first new token.
        decode_seconds: seconds for all other tokens.
    """

    token_ids: tuple[int, ...]
    prefill_seconds: float
    decode_seconds: float


Mode = Callable[[list[int]], PeerAnswer]


def serve(load: Callable[[PeerOptions], Mapping[str, Mode]], packages: Sequence[str]) -> None:
    """Load and answer until standard input ends.

    Args:
        load: loads the model and returns the modes by name; `baseline` is one of them.
        packages: names of the packages whose versions are printed.
    """
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print goes to standard error
    given = json.loads(sys.argv[1])
    modes = load(PeerOptions(**given | {"model": Path(given["model"]), "eos_token_ids": tuple(given["eos_token_ids"])}))
    hello = {"versions": {name: importlib.metadata.version(name) for name in packages}, "modes": list(modes)}
    print(json.dumps(hello), file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(asdict(modes[request["mode"]](request["prompt"]))), file=replies, flush=True)
