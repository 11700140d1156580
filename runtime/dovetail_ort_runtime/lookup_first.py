"""Two drafters, one in front of the other."""

from __future__ import annotations

from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.drafter import Drafter
from dovetail_ort_runtime.prompt_lookup import PromptLookup
from dovetail_ort_runtime.proposal import Proposal
from dovetail_ort_runtime.sampling_options import SamplingOptions


class LookupFirst(Drafter):
    """Prompt lookup where its match is long, a model drafter elsewhere.

    Args:
        lookup: its table decides what a long match is: a match that earns no draft tokens leaves the round to `model`.
        model: drafts the other rounds.
    """

    def __init__(self, lookup: PromptLookup, model: Drafter) -> None:
        self.lookup = lookup
        self.model = model

    def begin(self, sampling: SamplingOptions) -> None:
        """Tell both."""
        self.lookup.begin(sampling)
        self.model.begin(sampling)

    def rewind(self, length: int) -> None:
        """Rewind both."""
        self.lookup.rewind(length)
        self.model.rewind(length)

    def observe(self, token_ids: TokenArray, hidden_states: FloatArray) -> None:
        """Show both what was kept."""
        self.lookup.observe(token_ids, hidden_states)
        self.model.observe(token_ids, hidden_states)

    def propose(self, next_token_id: int, max_draft_tokens: int) -> Proposal:
        """The lookup's proposal, or the model's if the lookup has none."""
        found = self.lookup.propose(next_token_id, max_draft_tokens)
        return found if len(found) else self.model.propose(next_token_id, max_draft_tokens)
