"""A smaller language model as drafter. It knows no hidden states of the target."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.drafting.drafter import ModelDrafter
from dovetail_ort_runtime.drafting.proposal import NOTHING, Proposal
from dovetail_ort_runtime.drafting.shapes import FOUR_TOKENS, ChainShape, TreeShape
from dovetail_ort_runtime.engine.kv_cache import num_reusable
from dovetail_ort_runtime.engine.session import SessionReport
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.options import SamplingOptions
from dovetail_ort_runtime.sampler import Sampler


class LanguageModelDrafter(ModelDrafter):
    """Drafts chains with any causal language model that shares the target's tokenizer, from its tokens alone.

    Where the answer is sampled, the draft tokens are sampled too, with the same settings but no repetition penalty.
    Each draft token then comes with the distribution that it was drawn from. The target accepts it with
    min(1, p / q).

    A target with a larger vocabulary can write, and be given, ids that the model has no embedding for. After such an id
    nothing is drafted.

    Args:
        model: the smaller model, with a cache of its own.
        vocabulary_size: V of the target; ids from V on are padding and never drafted.
        shape: chain that `propose` gives.
    """

    def __init__(self, model: Target, vocabulary_size: int, shape: ChainShape = FOUR_TOKENS) -> None:
        super().__init__(shape)
        self.model = model
        self._vocabulary_size = vocabulary_size
        self._token_ids: list[int] = []
        # What the model's cache holds, drafted tokens included.
        self._read: list[int] = []
        self._sampler = Sampler(SamplingOptions())

    def begin(self, sampling: SamplingOptions) -> None:
        """Take the answer's sampling settings, with random numbers of its own."""
        seed = None if sampling.seed is None else sampling.seed + 1
        self._sampler = Sampler(replace(sampling, repetition_penalty=1.0, seed=seed))

    def reports(self) -> tuple[SessionReport, ...]:
        """The model's sessions, under the drafter's name."""
        return tuple(replace(report, name="drafter") for report in self.model.reports())

    def rewind(self, length: int) -> None:
        """Keep the first `length` observed tokens."""
        del self._token_ids[length:]

    def observe(self, token_ids: TokenArray, hidden_states: FloatArray) -> None:  # noqa: ARG002  text is enough here
        """Note (n,) int64 tokens."""
        self._token_ids += token_ids.tolist()

    def draft(self, next_token_id: int, max_draft_tokens: int, shape: ChainShape | TreeShape) -> Proposal:
        """A chain; arguments as in `ModelDrafter.draft`."""
        assert isinstance(shape, ChainShape), "a language model drafts no trees"
        room = self.model.cache.capacity - len(self._token_ids) - 1
        limit = max(min(max_draft_tokens, room), 0)
        text = [*self._token_ids, next_token_id]
        if not limit or max(text) >= self.model.vocabulary_size:
            return NOTHING
        logits = self._catch_up(text)
        token_ids: list[int] = []
        distributions: list[FloatArray] = []
        confidences: list[float] = []
        probability = 1.0
        # Whether a token is drafted must not depend on which one was drawn, or the answer's distribution would shift.
        for least in shape.least_probabilities[:limit]:
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
        """A token, and the distribution q that it is the likeliest of or was drawn from, (V,) float32."""
        if self._sampler.options.is_greedy:
            weights = np.exp(logits - logits.max())
            return int(logits.argmax()), weights / weights.sum()
        q = self._sampler.distribution(logits)
        return self._sampler.draw(q), q.astype(np.float32)

    def _catch_up(self, text: list[int]) -> FloatArray:
        """Read what the cache lacks of a text, its last token in any case; logits of the last token, (V,) float32."""
        num_read = num_reusable(self._read, text)
        del self._read[num_read:]
        self.model.cache.rewind(num_read)
        return self._read_on(text[num_read:])

    def _read_on(self, token_ids: list[int]) -> FloatArray:
        """Read tokens after those in the cache; logits of the last one, (V,) float32."""
        logits = None
        for chunk, output in self.model.chunks(np.array(token_ids, dtype=np.int64), num_scored=1):
            self._read += chunk.tolist()
            logits = output.logits[0]
        assert logits is not None, "there is a token to read"
        # The model's padding is cut off. Tokens of the target that the model does not know have no chance.
        fitting = np.full(self._vocabulary_size, -np.inf, dtype=np.float32)
        shared = min(len(logits), self._vocabulary_size)
        fitting[:shared] = logits[:shared]
        return fitting
