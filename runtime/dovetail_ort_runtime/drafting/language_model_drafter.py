"""A smaller language model as drafter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.drafting.drafter import ModelDrafter
from dovetail_ort_runtime.drafting.proposal import NOTHING, Proposal
from dovetail_ort_runtime.drafting.shapes import FOUR_TOKENS, ChainShape
from dovetail_ort_runtime.engine.forward_rows import ForwardRows
from dovetail_ort_runtime.engine.session import SessionReport
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.options import SamplingOptions
from dovetail_ort_runtime.sampler import Sampler


class LanguageModelDrafter(ModelDrafter):
    """Drafts chains with any causal language model that shares the target's tokenizer, from its tokens alone.

    Where the answer is sampled, so are the draft tokens, under the same settings but for the repetition penalty; each
    then comes with the distribution it was drawn from, and the target accepts it with min(1, p / q).

    A target whose vocabulary is padded further can write, and be given, ids that the model has no embedding for. Behind
    such an id nothing is drafted.

    Args:
        model: the smaller one.
        vocabulary_size: V of the target; ids beyond it are padding and never drafted.
        shape: of what `propose` gives.
    """

    def __init__(self, model: Target, vocabulary_size: int, shape: ChainShape = FOUR_TOKENS) -> None:
        self.model = model
        self.shape = shape
        self._vocabulary_size = vocabulary_size
        self._token_ids: list[int] = []
        self._read: list[int] = []  # what the model's cache holds, drafted tokens included
        self._sampler = Sampler(SamplingOptions())

    def begin(self, sampling: SamplingOptions) -> None:
        """Draw as the answer's tokens are drawn, from a random sequence of its own."""
        seed = None if sampling.seed is None else sampling.seed + 1
        self._sampler = Sampler(replace(sampling, repetition_penalty=1.0, seed=seed))

    def reports(self) -> tuple[SessionReport, ...]:
        """The model's session."""
        return tuple(replace(report, name="drafter") for report in self.model.reports())

    def rewind(self, length: int) -> None:
        """Keep the first `length` observed tokens."""
        del self._token_ids[length:]

    def observe(self, token_ids: TokenArray, hidden_states: FloatArray) -> None:  # noqa: ARG002  text is enough here
        """Note (n,) int64 tokens."""
        self._token_ids += token_ids.tolist()

    def propose(self, next_token_id: int, max_draft_tokens: int) -> Proposal:
        """A chain."""
        return self.draft(next_token_id, max_draft_tokens, self.shape)

    def draft(self, next_token_id: int, max_draft_tokens: int, shape: ChainShape) -> Proposal:
        """As `propose`, in any shape."""
        room = self.model.cache.capacity - len(self._token_ids) - 1
        least_probabilities = shape.least_probabilities[: max(min(max_draft_tokens, room), 0)]
        if not least_probabilities:
            return NOTHING
        text = [*self._token_ids, next_token_id]
        if max(text) >= self.model.vocabulary_size:
            return NOTHING
        logits = self._catch_up(text)
        token_ids: list[int] = []
        distributions: list[FloatArray] = []
        confidences: list[float] = []
        probability = 1.0
        # Whether a token is drafted must not depend on which one was drawn, or the answer's distribution would shift.
        for least in least_probabilities:
            if probability < least:
                break
            if token_ids:
                logits = self._read_on(token_ids[-1:])
            token_id, q = self._choose(logits)
            probability *= float(q[token_id])
            token_ids.append(token_id)
            distributions.append(q)
            confidences.append(probability)
        probabilities = None if self._sampler.options.is_greedy else np.array(distributions)
        return Proposal.chain(token_ids, probabilities, confidences)

    def _choose(self, logits: FloatArray) -> tuple[int, FloatArray]:
        """A token, and the distribution that it is the likeliest of or was drawn from, (V,) float32."""
        if self._sampler.options.is_greedy:
            weights = np.exp(logits - logits.max())
            return int(logits.argmax()), weights / weights.sum()
        q = self._sampler.distribution(logits)
        return self._sampler.draw(q), q.astype(np.float32)

    def _catch_up(self, text: list[int]) -> FloatArray:
        """Read what the cache lacks of `text`, its last token at least; that one's logits, (V,) float32."""
        limit = min(len(self._read), len(text) - 1)
        same = next((index for index in range(limit) if self._read[index] != text[index]), limit)
        del self._read[same:]
        self.model.cache.rewind(same)
        logits = None
        for start in range(same, len(text), self.model.max_rows):
            logits = self._read_on(text[start : start + self.model.max_rows])
        assert logits is not None
        return logits

    def _read_on(self, token_ids: list[int]) -> FloatArray:
        rows = ForwardRows.chain(np.array(token_ids, dtype=np.int64), self.model.cache.length)
        logits = self.model.forward(rows, num_scored=1).logits[0]
        self.model.cache.keep(range(len(token_ids)))
        self._read += token_ids
        # A smaller vocabulary leaves the target's last tokens undrafted, a larger one is padding.
        fitting = np.full(self._vocabulary_size, -np.inf, dtype=np.float32)
        shared = min(len(logits), self._vocabulary_size)
        fitting[:shared] = logits[:shared]
        return fitting
