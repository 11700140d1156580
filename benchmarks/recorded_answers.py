"""The target's greedy answers to a suite, with its hidden states: drafters are measured on them without the target."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.prompt_sets import prompt_token_ids
from dovetail_ort.suites import SuitePrompt
from dovetail_ort_runtime import SamplingOptions
from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.decoding.decoder import Decoder
from dovetail_ort_runtime.drafting.drafter import Drafter
from dovetail_ort_runtime.drafting.prompt_lookup import PromptLookup
from dovetail_ort_runtime.drafting.proposal import ROOT, Proposal
from dovetail_ort_runtime.engine.target import Target

MAX_NEW_TOKENS: Final = 128
MAX_DRAFT_TOKENS: Final = 12
MAX_CONTEXT: Final = 2048


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RecordedAnswer:
    """A prompt and the target's greedy answer.

    Attributes:
        token_ids: (T,) int64, prompt and answer.
        prompt_length: number of tokens of the prompt.
        hidden_states: (T - 1, E) float32, hidden states of every token but the last.
    """

    token_ids: TokenArray
    prompt_length: int
    hidden_states: FloatArray


class _Recorder(PromptLookup):
    """Prompt lookup that keeps what it sees: recording takes no longer than decoding."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden_states: list[FloatArray] = []

    def observe(self, token_ids: TokenArray, hidden_states: FloatArray) -> None:
        super().observe(token_ids, hidden_states)
        self.hidden_states.append(hidden_states.copy())


def record_answers(bundle_path: str | Path, suite: Sequence[SuitePrompt]) -> list[RecordedAnswer]:
    """Decode a suite greedily, each answer up to `MAX_NEW_TOKENS` tokens."""
    bundle = Bundle(bundle_path)
    target = Target(bundle.path(bundle.manifest.target.graph), bundle.manifest.target, max_context=MAX_CONTEXT)
    ends = set(bundle.manifest.generation.eos_token_ids)
    return [_recorded(target, prompt, ends) for prompt in prompt_token_ids(bundle, suite)]


def _recorded(target: Target, prompt: list[int], ends: set[int]) -> RecordedAnswer:
    recorder = _Recorder()
    decoder = Decoder(target, recorder)
    decoder.begin(prompt, SamplingOptions())
    answer = [decoder.root]
    while len(answer) < MAX_NEW_TOKENS and ends.isdisjoint(answer):
        left = MAX_NEW_TOKENS - len(answer)
        answer += decoder.next_round(min(MAX_DRAFT_TOKENS, left - 1)).token_ids
    length = next((number for number, token_id in enumerate(answer, 1) if token_id in ends), len(answer))
    token_ids = np.array([*prompt, *answer[:length]])
    states = np.concatenate(recorder.hidden_states)
    return RecordedAnswer(token_ids=token_ids, prompt_length=len(prompt), hidden_states=states[: len(token_ids) - 1])


@dataclass(slots=True)
class Replay:
    """Counts of drafting over recorded answers.

    Attributes:
        rounds: number of rounds that drafted.
        tokens: number of new tokens of these rounds, bonus tokens included.
        drafted: number of draft tokens.
        first_right: number of rounds whose first draft token was accepted.
        draft_seconds: seconds that the drafter took.
    """

    rounds: int = 0
    tokens: int = 0
    drafted: int = 0
    first_right: int = 0
    draft_seconds: float = 0.0


def replay(
    drafter: Drafter,
    answers: Sequence[RecordedAnswer],
    max_draft_tokens: int,
    verified: Callable[[int], None] = lambda _: None,
) -> Replay:
    """Draft as in a decoder; the recorded answer decides what is accepted, side branches of a tree too.

    Args:
        drafter: drafter that is measured.
        answers: recorded answers of the target.
        max_draft_tokens: number of tokens that a round drafts at most.
        verified: function that is called in each round with the number of rows that the target would read.
    """
    result = Replay()
    for answer in answers:
        drafter.rewind(0)
        drafter.begin(SamplingOptions())
        drafter.observe(answer.token_ids[: answer.prompt_length], answer.hidden_states[: answer.prompt_length])
        _replay_answer(drafter, answer, max_draft_tokens, verified, result)
    return result


def _replay_answer(
    drafter: Drafter,
    answer: RecordedAnswer,
    max_draft_tokens: int,
    verified: Callable[[int], None],
    result: Replay,
) -> None:
    """Draft round after round until the answer ends, and count in `result`."""
    text = answer.token_ids.tolist()
    root = answer.prompt_length
    while root < len(text) - 1:
        started = time.perf_counter()
        proposal = drafter.propose(text[root], min(max_draft_tokens, len(text) - root - 1))
        result.draft_seconds += time.perf_counter() - started
        accepted = _accepted(proposal, text[root + 1 :])
        end = min(root + 1 + accepted, len(text) - 1)
        drafter.observe(answer.token_ids[root:end], answer.hidden_states[root:end])
        verified(1 + len(proposal))
        result.rounds += 1
        result.drafted += len(proposal)
        result.tokens += end - root
        result.first_right += accepted > 0
        root = end


def _accepted(proposal: Proposal, ahead: Sequence[int]) -> int:
    """Number of draft tokens on the path that the text takes through a proposal."""
    node = ROOT
    depth = 0
    while depth < len(ahead):
        children = [child for child in proposal.children(node) if proposal.token_ids[child] == ahead[depth]]
        if not children:
            break
        node = children[0]
        depth += 1
    return depth
