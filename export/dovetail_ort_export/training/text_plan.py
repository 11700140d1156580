"""The plan of writing text: open the target, and let it write into shards until there is enough."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from tqdm import tqdm

from dovetail_ort_export.options import Report
from dovetail_ort_export.training.batched_target import BatchedTarget, open_batched_target
from dovetail_ort_export.training.chat_turns import ChatTurns, TokenIds
from dovetail_ort_export.training.conversation import Conversation
from dovetail_ort_export.training.options import TrainingOptions, TrainingPrompts
from dovetail_ort_export.training.text_shards import TextRecord, TextShards
from dovetail_ort_export.training.text_writer import MAX_QUESTION_TOKENS, Subjects, TextWriter
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.machine.processor import usable_cores

_SHARD_CONVERSATIONS: Final = 256
# A sequence has room for a prompt of this many tokens and the longest answer. After a longer prompt, answers are
# shorter.
_MAX_PROMPT_TOKENS: Final = 256


class OpenTarget(Protocol):
    """A function that opens the target that writes."""

    def __call__(self, *, num_sequences: int, capacity: int) -> BatchedTarget:
        """Open it with room for `capacity` tokens in each of `num_sequences` sequences."""


def write_text(
    bundle: Bundle,
    directory: Path,
    options: TrainingOptions,
    prompts: TrainingPrompts,
    open_target: OpenTarget | None = None,
    report: Report = lambda _: None,
) -> TextShards:
    """Add conversations to a directory of shards until their answers have enough tokens.

    Text that is there already counts. After Ctrl-C or an error, every finished conversation is in a shard.

    Args:
        bundle: the bundle whose target writes.
        directory: directory of the shards.
        options: settings of the training; `num_answer_tokens` are enough.
        prompts: prompts from the user.
        open_target: function that opens the target that writes; None opens the bundle's graph.
        report: function that is called after each shard with one line about the progress.

    Raises:
        InputError: the directory holds other text, a shard is damaged, the target has too little context or no chat
            template for the prompts, a prompt is not of the template's form, or the target has nothing new to say.
    """
    shards = TextShards(directory, _record(bundle, options))
    seen: set[tuple[int, ...]] = set()
    num_tokens = 0
    for conversation in shards.conversations():
        seen.add(tuple(conversation.prompt.tolist()))
        seen.add(tuple(conversation.answer.tolist()))
        num_tokens += conversation.answer_length
    if num_tokens < options.num_answer_tokens:
        # A seed that no earlier shard was written with.
        options = dataclasses.replace(options, seed=options.seed + len(shards.paths))
        writer = _writer(bundle, options, prompts, seen, open_target)
        _fill(shards, writer, num_tokens, options.num_answer_tokens, report)
    return shards


def _record(bundle: Bundle, options: TrainingOptions) -> TextRecord:
    target = bundle.manifest.target
    assert target.weights_sha256 is not None
    return TextRecord(
        target_sha256=target.weights_sha256,
        hidden_size=target.hidden_size,
        max_answer_tokens=options.max_answer_tokens,
    )


def _fill(shards: TextShards, writer: TextWriter, num_tokens: int, enough: int, report: Report) -> None:
    """Write shards until their answers, which have `num_tokens` tokens so far, have `enough`."""
    finished: list[Conversation] = []
    num_before = num_tokens
    started = time.perf_counter()
    bar = tqdm(
        total=enough,
        initial=num_tokens,
        unit=" answer tokens",
        unit_scale=True,
        leave=False,
        disable=None,  # None shows the bar on a terminal only
    )
    try:
        for conversation in writer.conversations():
            finished.append(conversation)
            num_tokens += conversation.answer_length
            bar.update(conversation.answer_length)
            if len(finished) == _SHARD_CONVERSATIONS:
                shards.append(finished)
                finished = []
                rate = (num_tokens - num_before) / (time.perf_counter() - started)
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
    """A writer of new conversations, none of which is among `seen`."""
    tokenizer = bundle.tokenizer()
    template = bundle.chat_template()
    if template is None and (prompts.conversations or prompts.openings):
        raise InputError("this bundle has no chat template, which prompts must go through; train without prompts")
    turns = ChatTurns(template, partial(tokenizer.encode, add_special_tokens=False))
    capacity = _capacity(bundle, turns, options.max_answer_tokens)
    subjects = Subjects(
        prompts=map(turns.prompt, prompts.conversations),
        openings=_openings(turns, prompts.openings, room=capacity - MAX_QUESTION_TOKENS),
        seen=seen,
    )
    open_target = open_target or _graph_of(bundle, options)
    return TextWriter(
        open_target(num_sequences=options.num_parallel, capacity=capacity),
        turns,
        tokenizer,
        options,
        eos_token_ids=bundle.manifest.generation.eos_token_ids,
        subjects=subjects,
    )


def _capacity(bundle: Bundle, turns: ChatTurns, max_answer_tokens: int) -> int:
    """Number of tokens that each sequence of the target has room for."""
    capacity = min(bundle.manifest.target.max_context, _MAX_PROMPT_TOKENS + max_answer_tokens)
    if capacity <= len(turns.opening) + MAX_QUESTION_TOKENS:
        raise InputError(
            f"max_context must leave room for a question and an answer, got {capacity} tokens; "
            "export with a larger --max-context"
        )
    return capacity


def _openings(turns: ChatTurns, texts: Sequence[str], *, room: int) -> list[TokenIds]:
    """The user's openings in the template, none of which has more than `room` tokens."""
    if texts and not turns.opening:
        raise InputError("the chat template of this bundle has no place for a user's words; train without openings")
    openings = [turns.opened_with(text) for text in texts]
    longest = max(map(len, openings), default=0)
    if longest > room:
        raise InputError(f"an opening must have {room} tokens at most with what the template adds, got {longest}")
    return openings


def _graph_of(bundle: Bundle, options: TrainingOptions) -> OpenTarget:
    """The bundle's own graph as the target that writes."""
    target = bundle.manifest.target

    def open_target(*, num_sequences: int, capacity: int) -> BatchedTarget:
        return open_batched_target(
            bundle.path(target.graph),
            target,
            num_sequences=num_sequences,
            capacity=capacity,
            threads=options.threads or usable_cores(),
        )

    return open_target
