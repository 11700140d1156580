"""Written text on disk: a directory of shards, each of which appears whole or not at all. It knows no target."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from dovetail_ort_export.training.conversation import Conversation
from dovetail_ort_export.writing.bundle_output import write_whole
from dovetail_ort_runtime.bundle.json_record import read_record
from dovetail_ort_runtime.errors import InputError

RECORD_NAME: Final = "text.json"
# The arrays of a shard. `token_ids` and `hidden_states` hold those of all its conversations, one after the other.
_DTYPES: Final = {
    "token_ids": np.int32,
    "lengths": np.int32,
    "prompt_lengths": np.int32,
    "hidden_states": np.float16,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TextRecord:
    """Facts that hold for all text in a directory of shards.

    Attributes:
        target_sha256: `TargetEntry.weights_sha256` of the target that wrote it.
        hidden_size: hidden size of the target, E.
        max_answer_tokens: largest number of tokens of an answer.
    """

    target_sha256: str
    hidden_size: int
    max_answer_tokens: int


class TextShards:
    """A directory of shards.

    Args:
        directory: path of the directory; it is made if it is missing.
        record: facts that must hold for the text.

    Raises:
        InputError: the directory holds text of another target or of other settings.
    """

    def __init__(self, directory: Path, record: TextRecord) -> None:
        self.directory = directory
        self.record = record
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / RECORD_NAME
        if not path.exists():
            write_whole(path, (json.dumps(dataclasses.asdict(record), indent=2) + "\n").encode())
            return
        found = _read_text_record(path)
        if found != record:
            raise InputError(
                f"the text in {str(directory)!r} must be of this target and these settings, got {found}; "
                "choose another directory"
            )

    @property
    def paths(self) -> list[Path]:
        """Shards in the order in which they were written."""
        return sorted(self.directory.glob("shard-*.safetensors"))

    def append(self, conversations: Sequence[Conversation]) -> None:
        """Write one more shard.

        Args:
            conversations: conversations of the shard, one or more.

        Raises:
            OSError: the shard cannot be written.
        """
        arrays = {
            "token_ids": np.concatenate([item.token_ids for item in conversations]),
            "lengths": np.array([len(item.token_ids) for item in conversations], dtype=np.int32),
            "prompt_lengths": np.array([item.prompt_length for item in conversations], dtype=np.int32),
            "hidden_states": np.concatenate([item.hidden_states for item in conversations]),
        }
        path = self.directory / f"shard-{self._next_number():05}.safetensors"
        write_whole(path, save(arrays))  # safetensors' own writing has no OSError for a full disk

    def conversations(self) -> Iterator[Conversation]:
        """All conversations, shard by shard.

        Raises:
            InputError: a shard is damaged.
        """
        for path in self.paths:
            yield from _split(_load(path, self.record.hidden_size))

    def _next_number(self) -> int:
        paths = self.paths
        if not paths:
            return 0
        _, _, number = paths[-1].stem.partition("-")
        return int(number) + 1


def _split(arrays: dict[str, NDArray[Any]]) -> Iterator[Conversation]:
    """The conversations in the arrays of a shard."""
    ends = np.cumsum(arrays["lengths"])[:-1]
    token_ids = np.split(arrays["token_ids"], ends)
    # The target did not read the last token of a conversation: each has one hidden state fewer than tokens.
    num_before = np.arange(1, len(token_ids))
    hidden_states = np.split(arrays["hidden_states"], ends - num_before)
    for tokens, prompt_length, states in zip(token_ids, arrays["prompt_lengths"], hidden_states, strict=True):
        yield Conversation(token_ids=tokens, prompt_length=int(prompt_length), hidden_states=states)


def _load(path: Path, hidden_size: int) -> dict[str, NDArray[Any]]:
    """The arrays of a shard, after a check that they fit together."""
    try:
        arrays: dict[str, NDArray[Any]] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    if {name: array.dtype for name, array in arrays.items()} != _DTYPES:
        raise _damaged(path, f"the arrays {sorted(arrays)}")
    if not _fits_together(arrays, hidden_size):
        raise _damaged(path, "lengths that do not add up")
    return arrays


def _fits_together(arrays: dict[str, NDArray[Any]], hidden_size: int) -> bool:
    """Whether the lengths of a shard's conversations and of its arrays are possible."""
    lengths = arrays["lengths"]
    prompt_lengths = arrays["prompt_lengths"]
    if len(lengths) == 0 or len(lengths) != len(prompt_lengths):
        return False
    if not ((prompt_lengths >= 1) & (prompt_lengths < lengths)).all():
        return False
    num_tokens = int(lengths.sum())
    num_states = num_tokens - len(lengths)
    return len(arrays["token_ids"]) == num_tokens and arrays["hidden_states"].shape == (num_states, hidden_size)


def _damaged(path: Path, found: str) -> InputError:
    return InputError(f"{path} must be a whole shard, got {found}; delete it and run again: new text takes its place")


def _read_text_record(path: Path) -> TextRecord:
    try:
        return read_record(TextRecord, json.loads(path.read_text(encoding="utf-8")), RECORD_NAME)
    except ValueError as error:
        raise InputError(f"{path} is not the record of a text: {error}; choose another directory") from error
