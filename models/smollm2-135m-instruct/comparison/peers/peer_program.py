"""What every peer program does: load in modes, then answer prompts line by line, greedily.

A program gets `PeerOptions` as JSON in its one argument. Its first line says its packages' versions and its modes; then
each line that it reads, `{"mode": ..., "prompt": [ids]}`, is answered with one line, a `PeerAnswer`. It knows no other
peer, and imports nothing that is not in every environment.
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
    """The same for all peers, but for the model.

    Attributes:
        model: directory or file.
        threads: for one forward.
        max_new_tokens: the answer ends there at the latest.
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
        prefill_seconds: prompt and first token.
        decode_seconds: all other tokens.
    """

    token_ids: tuple[int, ...]
    prefill_seconds: float
    decode_seconds: float


Mode = Callable[[list[int]], PeerAnswer]


def serve(load: Callable[[PeerOptions], Mapping[str, Mode]], packages: Sequence[str]) -> None:
    """Load and answer until standard input ends.

    Args:
        load: gives modes by name; `plain` is one of them.
        packages: whose versions are told.
    """
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no reply
    given = json.loads(sys.argv[1])
    modes = load(PeerOptions(**given | {"model": Path(given["model"]), "eos_token_ids": tuple(given["eos_token_ids"])}))
    hello = {"versions": {name: importlib.metadata.version(name) for name in packages}, "modes": list(modes)}
    print(json.dumps(hello), file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(asdict(modes[request["mode"]](request["prompt"]))), file=replies, flush=True)
