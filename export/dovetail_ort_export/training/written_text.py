"""Have a bundle's target write text into shards until there is enough of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from tqdm import tqdm

from dovetail_ort_export.training.slotted_target import BatchedTarget, SlottedTarget
from dovetail_ort_export.training.text_shards import TextRecord, TextShards
from dovetail_ort_export.training.text_writer import MAX_QUESTION_TOKENS, Conversation, TextWriter
from dovetail_ort_export.training.training_options import TrainingOptions, TrainingPrompts
from dovetail_ort_export.turns import Turns
from dovetail_ort_runtime.bundle import Bundle
from dovetail_ort_runtime.environment import usable_cores
from dovetail_ort_runtime.errors import InputError

_SHARD_CONVERSATIONS: Final = 256
# A slot has room for so much and the longest answer; behind a longer prompt the answer is shorter.
_MAX_PROMPT_TOKENS: Final = 256

OpenTarget = Callable[[int, int], SlottedTarget]


def write_text(
    bundle: Bundle,
    directory: Path,
    options: TrainingOptions,
    prompts: TrainingPrompts,
    open_target: OpenTarget | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> TextShards:
    """Add conversations to a directory of shards until their answers have `options.num_answer_tokens` tokens.

    What is there already counts. Ctrl-C and errors leave every finished conversation in a shard.

    Args:
        bundle: whose target writes.
        directory: of the shards.
        options: of the training.
        prompts: the user's, if there are any.
        open_target: gives what reads and writes, from a number of slots and their capacity; the bundle's graph if None.
        report: is told of every shard in a line.

    Raises:
        InputError: the directory holds other text, or a prompt is not of the form that the template takes.
    """
    manifest = bundle.manifest
    assert manifest.target.weights_sha256 is not None
    shards = TextShards(
        directory,
        TextRecord(
            target_sha256=manifest.target.weights_sha256,
            hidden_size=manifest.target.hidden_size,
            max_answer_tokens=options.max_answer_tokens,
        ),
    )
    seen: set[tuple[int, ...]] = set()
    num_tokens = 0
    for conversation in shards.conversations(with_hidden_states=False):
        token_ids = conversation.token_ids.tolist()
        seen |= {tuple(token_ids[: conversation.prompt_length]), tuple(token_ids[conversation.prompt_length :])}
        num_tokens += conversation.answer_length
    if num_tokens < options.num_answer_tokens:
        open_target = open_target or partial(_open_graph, bundle, options.threads)
        writer = _writer(bundle, options, prompts, seen, options.seed + len(shards.paths), open_target)
        _fill(shards, writer, num_tokens, options.num_answer_tokens, report)
    return shards


def _fill(shards: TextShards, writer: TextWriter, num_tokens: int, enough: int, report: Callable[[str], None]) -> None:
    finished: list[Conversation] = []
    started, before = time.perf_counter(), num_tokens
    with tqdm(
        total=enough, initial=num_tokens, unit=" answer tokens", unit_scale=True, leave=False, disable=None
    ) as bar:
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
            if finished:
                shards.append(finished)


def _writer(
    bundle: Bundle,
    options: TrainingOptions,
    prompts: TrainingPrompts,
    seen: set[tuple[int, ...]],
    seed: int,
    open_target: OpenTarget,
) -> TextWriter:
    manifest = bundle.manifest
    tokenizer, template = bundle.tokenizer(), bundle.chat_template()
    turns = Turns(template, lambda text: tokenizer.encode(text, add_special_tokens=False))
    if (prompts.conversations or prompts.openings) and template is None:
        raise InputError("prompts must go through a chat template, got a bundle without one; train without prompts")
    capacity = min(manifest.target.max_context, _MAX_PROMPT_TOKENS + options.max_answer_tokens)
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
    return TextWriter(
        open_target(options.num_parallel, capacity),
        turns,
        tokenizer,
        options,
        eos_token_ids=manifest.generation.eos_token_ids,
        prompts=[turns.prompt(messages) for messages in prompts.conversations],
        openings=openings,
        seed=seed,
        seen=seen,
    )


def _open_graph(bundle: Bundle, threads: int | None, num_slots: int, capacity: int) -> SlottedTarget:
    entry = bundle.manifest.target
    return BatchedTarget(
        bundle.path(entry.graph), entry, num_slots=num_slots, capacity=capacity, threads=threads or usable_cores()
    )
