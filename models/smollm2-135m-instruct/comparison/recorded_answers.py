"""The target's greedy answers to a suite, with its hidden states: drafters are measured on them without running it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RecordedAnswer:
    """A prompt and the target's greedy answer.

    Attributes:
        token_ids: (T,) int64.
        prompt_length: tokens of the prompt.
        hidden_states: (T - 1, E) float32.
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
    """Decode a suite greedily."""
    bundle = Bundle(bundle_path)
    tokenizer, template = bundle.tokenizer(), bundle.chat_template()
    assert template is not None
    target = Target(bundle.path(bundle.manifest.target.graph), bundle.manifest.target, max_context=2048)
    ends = set(bundle.manifest.generation.eos_token_ids)
    answers = []
    for prompt in suite:
        recorder = _Recorder()
        decoder = Decoder(target, recorder)
        token_ids = tokenizer.encode(template.render(prompt.messages), add_special_tokens=False)
        prompt_length = len(token_ids)
        decoder.begin(token_ids, SamplingOptions())
        token_ids.append(decoder.root)
        while len(token_ids) < prompt_length + MAX_NEW_TOKENS and not ends & set(token_ids[prompt_length:]):
            left = prompt_length + MAX_NEW_TOKENS - len(token_ids)
            token_ids += decoder.step(min(MAX_DRAFT_TOKENS, left - 1)).token_ids
        end = next((i + 1 for i, token in enumerate(token_ids) if i >= prompt_length and token in ends), len(token_ids))
        states = np.concatenate(recorder.hidden_states)
        answers.append(
            RecordedAnswer(
                token_ids=np.array(token_ids[:end]), prompt_length=prompt_length, hidden_states=states[: end - 1]
            )
        )
    return answers


@dataclass(slots=True)
class Replay:
    """What drafting over recorded answers came to.

    Attributes:
        rounds: rounds that drafted.
        tokens: new tokens of these rounds, bonus tokens included.
        drafted: draft tokens.
        first_right: rounds whose first draft token was accepted.
        draft_seconds: time of the drafter.
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
    clock: Callable[[], float],
    verified: Callable[[int], None] = lambda _: None,
) -> Replay:
    """Draft as a decoder would, the answer deciding instead of the target; side branches of a tree may be accepted.

    Args:
        drafter: as in a decoder.
        answers: recorded.
        max_draft_tokens: of a round.
        clock: gives seconds.
        verified: is told the number of rows that the target would read in each round.
    """
    result = Replay()
    for answer in answers:
        text = answer.token_ids.tolist()
        drafter.rewind(0)
        drafter.begin(SamplingOptions())
        drafter.observe(answer.token_ids[: answer.prompt_length], answer.hidden_states[: answer.prompt_length])
        place = answer.prompt_length  # of the root
        while place < len(text) - 1:
            started = clock()
            proposal = drafter.propose(text[place], min(max_draft_tokens, len(text) - place - 1))
            result.draft_seconds += clock() - started
            accepted = _accepted(proposal, text[place + 1 :])
            end = min(place + 1 + accepted, len(text) - 1)
            drafter.observe(answer.token_ids[place:end], answer.hidden_states[place:end])
            verified(1 + len(proposal))
            result.rounds += 1
            result.drafted += len(proposal)
            result.tokens += end - place
            result.first_right += accepted > 0
            place = end
    return result


def _accepted(proposal: Proposal, ahead: Sequence[int]) -> int:
    """Length of the path of a proposal that the text takes."""
    node, depth = ROOT, 0
    while depth < len(ahead):
        children = [child for child in proposal.children(node) if proposal.token_ids[child] == ahead[depth]]
        if not children:
            break
        node, depth = children[0], depth + 1
    return depth
