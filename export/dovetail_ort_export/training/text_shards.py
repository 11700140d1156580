"""Written conversations on disk: shards that appear whole or not at all, and the record of where they come from."""

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

from dovetail_ort_export.training.text_writer import Conversation
from dovetail_ort_export.whole_output import write_whole
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.json_record import read_record

RECORD_NAME: Final = "text.json"
_PATTERN: Final = "shard-*.safetensors"
_DTYPES: Final = {
    "token_ids": np.int32,
    "lengths": np.int32,
    "prompt_lengths": np.int32,
    "hidden_states": np.float16,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TextRecord:
    """What a directory of shards holds, and for whom.

    Attributes:
        target_sha256: of the target that wrote the text, `TargetEntry.weights_sha256`.
        hidden_size: E.
        max_answer_tokens: limit of an answer.
    """

    target_sha256: str
    hidden_size: int
    max_answer_tokens: int


class TextShards:
    """A directory of shards, made if it is missing, whose text is what `record` says.

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
        elif (found := _read_text_record(path)) != record:
            raise InputError(
                f"the text in {str(directory)!r} must be of this target and these settings, got {found}; "
                "choose another directory"
            )

    @property
    def paths(self) -> list[Path]:
        """Shards in the order in which they were written."""
        return sorted(self.directory.glob(_PATTERN))

    def append(self, conversations: Sequence[Conversation]) -> None:
        """Write one more shard of one conversation or more."""
        number = int(paths[-1].stem.partition("-")[2]) + 1 if (paths := self.paths) else 0
        path = self.directory / f"shard-{number:05}.safetensors"
        arrays = {
            "token_ids": np.concatenate([item.token_ids for item in conversations]),
            "lengths": np.array([len(item.token_ids) for item in conversations], dtype=np.int32),
            "prompt_lengths": np.array([item.prompt_length for item in conversations], dtype=np.int32),
            "hidden_states": np.concatenate([item.hidden_states for item in conversations]),
        }
        write_whole(path, save(arrays))  # safetensors' own writing has no OSError for a full disk

    def conversations(self, *, with_hidden_states: bool = True) -> Iterator[Conversation]:
        """All conversations, shard by shard; hidden states that are not wanted, the bulk of a shard, are (0, E).

        Raises:
            InputError: a shard is damaged.
        """
        for path in self.paths:
            yield from self._read(path, with_hidden_states)

    def _read(self, path: Path, with_hidden_states: bool) -> Iterator[Conversation]:
        arrays = _load(path, self.record.hidden_size)
        hidden_states = arrays["hidden_states"] if with_hidden_states else arrays["hidden_states"][:0]
        start = state = 0
        for length, prompt_length in zip(arrays["lengths"].tolist(), arrays["prompt_lengths"].tolist(), strict=True):
            yield Conversation(
                token_ids=arrays["token_ids"][start : start + length],
                prompt_length=prompt_length,
                hidden_states=hidden_states[state : state + length - 1],
            )
            start, state = start + length, state + length - 1


def _load(path: Path, hidden_size: int) -> dict[str, NDArray[Any]]:
    try:
        arrays: dict[str, NDArray[Any]] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    if {name: array.dtype for name, array in arrays.items()} != _DTYPES:
        raise _damaged(path, f"the arrays {sorted(arrays)}")
    lengths, prompts = arrays["lengths"], arrays["prompt_lengths"]
    whole = (
        len(lengths) == len(prompts)
        and bool((prompts >= 1).all())
        and bool((prompts < lengths).all())
        and int(lengths.sum()) == len(arrays["token_ids"])
        and arrays["hidden_states"].shape == (int(lengths.sum()) - len(lengths), hidden_size)
    )
    if not whole:
        raise _damaged(path, "lengths that do not add up")
    return arrays


def _damaged(path: Path, found: str) -> InputError:
    return InputError(f"{path} must be a whole shard, got {found}; delete it and run again: it is written anew")


def _read_text_record(path: Path) -> TextRecord:
    try:
        return read_record(TextRecord, json.loads(path.read_text(encoding="utf-8")), RECORD_NAME)
    except ValueError as error:
        raise InputError(f"{path} must be the record of a text, got: {error}; choose another directory") from error
