"""A drafter of your own: it proposes again what followed a token the last time.

A drafter may propose anything. The target verifies each draft token, so a bad drafter makes decoding slower and never
changes the answer.

    python examples/custom_drafter.py BUNDLE
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

import dovetail_ort
from dovetail_ort import Drafter, GenerationOptions, Proposal, SamplingOptions

PROMPT = "Count from one to twenty in words, then count again."


class LastSuccessor(Drafter):
    """Proposes for each token the one that followed it the last time."""

    def __init__(self) -> None:
        self._text: list[int] = []
        self._successors: dict[int, int] = {}

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens; they become the beginning of another text."""
        del self._text[length:]
        self._successors = dict(zip(self._text, self._text[1:], strict=False))

    def observe(self, token_ids: NDArray[np.int64], hidden_states: NDArray[np.float32]) -> None:  # noqa: ARG002  it reads no states
        """Add the tokens that the target has read and kept."""
        for token_id in token_ids.tolist():
            if self._text:
                self._successors[self._text[-1]] = token_id
            self._text.append(token_id)

    def propose(self, next_token_id: int, max_draft_tokens: int) -> Proposal:
        """Draft tokens after the next token, which the target has chosen and not read yet."""
        if self._text:
            self._successors[self._text[-1]] = next_token_id
        draft: list[int] = []
        token_id = next_token_id
        while len(draft) < max_draft_tokens and token_id in self._successors:
            token_id = self._successors[token_id]
            draft.append(token_id)
        return Proposal.chain(draft)


def main(bundle: str) -> None:
    """Answer with this drafter and without any, and compare the tokens."""
    question = [{"role": "user", "content": PROMPT}]
    options = GenerationOptions(max_new_tokens=160, max_draft_tokens=4, sampling=SamplingOptions())
    with dovetail_ort.load(bundle, drafter=LastSuccessor()) as model:
        answer = model.generate(question, options)
    with dovetail_ort.load(bundle, drafter="none") as model:
        baseline = model.generate(question, options)
    print(answer.text)
    print(f"\n{answer.statistics.accepted_length:.2f} tokens a round")
    print("the same tokens as without speculation:", answer.token_ids == baseline.token_ids)


if __name__ == "__main__":
    main(sys.argv[1])
