"""Text that a bundle's target writes: in shards that appear whole or not at all, until there is enough of it."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from tqdm import tqdm

from dovetail_ort_export.training.chat_turns import Turns
from dovetail_ort_export.training.options import TrainingOptions, TrainingPrompts
from dovetail_ort_export.training.slotted_target import SlottedTarget, open_slotted_target
from dovetail_ort_export.training.text_writer import MAX_QUESTION_TOKENS, Conversation, TextWriter
from dovetail_ort_export.writing.bundle_output import write_whole
from dovetail_ort_export.writing.target_writer import Report
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.json_record import read_record
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.machine.environment import usable_cores

OpenTarget = Callable[..., SlottedTarget]

RECORD_NAME: Final = "text.json"
_SHARD_CONVERSATIONS: Final = 256
# A slot has room for so much and the longest answer; behind a longer prompt the answer is shorter.
_MAX_PROMPT_TOKENS: Final = 256
_DTYPES: Final = {
    **dict.fromkeys(("token_ids", "lengths", "prompt_lengths"), np.int32),
    "hidden_states": np.float16,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TextRecord:
    """What a directory of shards holds, and for whom: `target_sha256` is `TargetEntry.weights_sha256`."""

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
        return sorted(self.directory.glob("shard-*.safetensors"))

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

    def conversations(self) -> Iterator[Conversation]:
        """All conversations, shard by shard.

        Raises:
            InputError: a shard is damaged.
        """
        for path in self.paths:
            arrays = _load(path, self.record.hidden_size)
            ends = np.cumsum(arrays["lengths"])[:-1]
            token_ids = np.split(arrays["token_ids"], ends)
            # The last token of a conversation was not read.
            hidden_states = np.split(arrays["hidden_states"], ends - np.arange(1, len(token_ids)))
            for tokens, prompt_length, states in zip(token_ids, arrays["prompt_lengths"], hidden_states, strict=True):
                yield Conversation(token_ids=tokens, prompt_length=int(prompt_length), hidden_states=states)


def _load(path: Path, hidden_size: int) -> dict[str, NDArray[Any]]:
    try:
        arrays: dict[str, NDArray[Any]] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    if {name: array.dtype for name, array in arrays.items()} != _DTYPES:
        raise _damaged(path, f"the arrays {sorted(arrays)}")
    lengths, prompts, total = arrays["lengths"], arrays["prompt_lengths"], int(arrays["lengths"].sum())
    is_whole = (
        len(lengths) == len(prompts) > 0
        and bool(((prompts >= 1) & (prompts < lengths)).all())
        and len(arrays["token_ids"]) == total
        and arrays["hidden_states"].shape == (total - len(lengths), hidden_size)
    )
    if not is_whole:
        raise _damaged(path, "lengths that do not add up")
    return arrays


def _damaged(path: Path, found: str) -> InputError:
    return InputError(f"{path} must be a whole shard, got {found}; delete it and run again: it is written anew")


def _read_text_record(path: Path) -> TextRecord:
    try:
        return read_record(TextRecord, json.loads(path.read_text(encoding="utf-8")), RECORD_NAME)
    except ValueError as error:
        raise InputError(f"{path} must be the record of a text, got: {error}; choose another directory") from error


def write_text(
    bundle: Bundle,
    directory: Path,
    options: TrainingOptions,
    prompts: TrainingPrompts,
    open_target: OpenTarget | None = None,
    report: Report = lambda _: None,
) -> TextShards:
    """Add conversations to a directory of shards until their answers have `options.num_answer_tokens` tokens.

    What is there already counts. Ctrl-C and errors leave every finished conversation in a shard. `open_target` gives
    what reads and writes, from `num_slots` and `capacity`; if it is None, the bundle's graph does.

    Raises:
        InputError: the directory holds other text, or a prompt is not of the form that the template takes.
    """
    entry = bundle.manifest.target
    assert entry.weights_sha256 is not None
    record = TextRecord(
        target_sha256=entry.weights_sha256,
        hidden_size=entry.hidden_size,
        max_answer_tokens=options.max_answer_tokens,
    )
    shards = TextShards(directory, record)
    seen: set[tuple[int, ...]] = set()
    num_tokens = 0
    for conversation in shards.conversations():
        seen |= {tuple(part.tolist()) for part in np.split(conversation.token_ids, [conversation.prompt_length])}
        num_tokens += conversation.answer_length
    if num_tokens < options.num_answer_tokens:
        fresh = dataclasses.replace(options, seed=options.seed + len(shards.paths))
        writer = _writer(bundle, fresh, prompts, seen, open_target)
        _fill(shards, writer, num_tokens, options.num_answer_tokens, report)
    return shards


def _fill(shards: TextShards, writer: TextWriter, num_tokens: int, enough: int, report: Report) -> None:
    finished: list[Conversation] = []
    started, before = time.perf_counter(), num_tokens
    bar = tqdm(total=enough, initial=num_tokens, unit=" answer tokens", unit_scale=True, leave=False, disable=None)
    try:
        for conversation in writer.conversations():
            finished.append(conversation)
            num_tokens += conversation.answer_length
            bar.update(conversation.answer_length)
            if len(finished) == _SHARD_CONVERSATIONS:
                shards.append(finished)
                finished = []
                rate = (num_tokens - before) / (time.perf_counter() - started)
                report(f"{num_tokens} of {enough} answer tokens, {rate:.0f} a second")
            if num_tokens >= enough:
                break
    finally:
        bar.close()
        if finished:
            shards.append(finished)


def _writer(
    bundle: Bundle,
    options: TrainingOptions,
    prompts: TrainingPrompts,
    seen: set[tuple[int, ...]],
    open_target: OpenTarget | None,
) -> TextWriter:
    entry, tokenizer, template = bundle.manifest.target, bundle.tokenizer(), bundle.chat_template()
    turns = Turns(template, partial(tokenizer.encode, add_special_tokens=False))
    if (prompts.conversations or prompts.openings) and template is None:
        raise InputError("prompts must go through a chat template, got a bundle without one; train without prompts")
    capacity = min(entry.max_context, _MAX_PROMPT_TOKENS + options.max_answer_tokens)
    if capacity <= len(turns.opening) + MAX_QUESTION_TOKENS:
        raise InputError(
            f"max_context must leave room for a question and an answer, got {capacity} tokens; "
            "export with a larger --max-context"
        )
    openings = [turns.opened_with(text) for text in prompts.openings]
    if openings and not turns.opening:
        raise InputError(
            "openings must stand in a user's turn, got a chat template without one; train without openings"
        )
    room = capacity - MAX_QUESTION_TOKENS
    if (longest := max(map(len, openings), default=0)) > room:
        raise InputError(f"an opening must have {room} tokens at most with what the template adds, got {longest}")
    if open_target is None:
        threads = options.threads or usable_cores()
        open_target = partial(open_slotted_target, bundle.path(entry.graph), entry, threads=threads)
    return TextWriter(
        open_target(num_slots=options.num_parallel, capacity=capacity),
        turns,
        tokenizer,
        options,
        eos_token_ids=bundle.manifest.generation.eos_token_ids,
        prompts=map(turns.prompt, prompts.conversations),
        openings=openings,
        seen=seen,
    )
