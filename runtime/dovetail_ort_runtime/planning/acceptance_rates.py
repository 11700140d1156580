"""What was accepted so far, and what it says about the next draft tokens. It knows no times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dovetail_ort_runtime.drafting.decaying_ratio import DecayingRatio

# Beliefs before anything is observed, and the number of observations that each belief weighs.
# Probability that a copied token is right, after matches of 1 token, 2 tokens and so on.
_COPIES: Final = (0.35, 0.5, 0.65, 0.75, 0.85, 0.9)
_COPIES_WEIGHT: Final = 6.0
# Tokens that a model's draft gains.
_MODEL_GAIN: Final = 0.8
_MODEL_WEIGHT: Final = 3.0
# A model's promises are believed until something else is observed.
_PROMISE_WEIGHT: Final = 4.0
# The belief in a model never falls below this, or its drafts would never be tried again.
_LEAST_KEPT: Final = 0.05
LONGEST_MATCH: Final = len(_COPIES)


class AcceptanceRates:
    """How drafts fared by the length of the match before them; `LONGEST_MATCH` stands for longer matches too."""

    def __init__(self) -> None:
        self._copies = [DecayingRatio(share, _COPIES_WEIGHT) for share in _COPIES]
        self._gains = [DecayingRatio(_MODEL_GAIN, _MODEL_WEIGHT) for _ in range(LONGEST_MATCH + 1)]
        self._first_promise = DecayingRatio(1.0, _PROMISE_WEIGHT)
        self._further_promises = DecayingRatio(1.0, _PROMISE_WEIGHT)

    def copied_right(self, match: int) -> float:
        """Probability that a copied token is accepted, if all copied tokens before it are.

        Args:
            match: number of tokens that match, 1 to `LONGEST_MATCH`.
        """
        return self._copies[match - 1].value

    def model_gain(self, match: int) -> float:
        """Tokens that a draft of the model gains, the tokens that its milliseconds cost subtracted.

        Args:
            match: number of tokens that match where the model drafts, 0 to `LONGEST_MATCH`.
        """
        return self._gains[match].value

    def kept(self, depth: int) -> float:
        """How often a model's token is accepted, divided by the probability that the model gave to it.

        Args:
            depth: steps from the root, 1 or more.
        """
        kept = self._first_promise.value * self._further_promises.value ** (depth - 1)
        return max(kept, _LEAST_KEPT)

    def copied(self, match: int, drafted: int, accepted: int) -> None:
        """Learn from a copy that was verified.

        Args:
            match: number of tokens that matched, 1 to `LONGEST_MATCH`.
            drafted: number of copied tokens.
            accepted: number of copied tokens that were accepted.
        """
        # What follows the first wrong token was not put to the test.
        tested = min(accepted + 1, drafted)
        self._copies[match - 1].add(accepted, tested)

    def modelled(self, match: int, promises: Sequence[float], accepted: int, gain: float) -> None:
        """Learn from a draft of the model that was verified.

        Args:
            match: number of tokens that matched where it was drafted, 0 to `LONGEST_MATCH`.
            promises: probabilities that the verdict put to the test, by depth, as in `Proposal.tested`.
            accepted: number of draft tokens that were accepted.
            gain: tokens that the draft gained, its cost subtracted.
        """
        self._gains[match].add(gain)
        for depth, promised in enumerate(promises):
            promise = self._further_promises if depth else self._first_promise
            promise.add(float(depth < accepted), promised)
