"""Who drafts in a round: the model, prompt lookup or nobody. It knows no times and no tokens."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

Source: TypeAlias = Literal["model", "lookup", "none"]

# The source that seems worse is tried in one of so many rounds in which both could draft.
_OTHER_SOURCE_EVERY: Final = 24
# Rounds without a model that loses, before it drafts again to show whether it still does.
_FIRST_PAUSE: Final = 8
_LONGEST_PAUSE: Final = 128


class SourceChoice:
    """Takes the source that gains more, and tries the other one now and then.

    A model that loses time pauses. After a pause it drafts in one round, and if nothing of that is accepted, the next
    pause is twice as long. Where copy and model both gain, the worse one drafts in one round of 24, so that its gain
    does not stay what it was long ago.
    """

    def __init__(self) -> None:
        self._pause = _FIRST_PAUSE
        self._idle_rounds = 0
        self._contested_rounds = 0

    def choose(self, model_gain: float | None, copy_gain: float) -> Source:
        """Who drafts in the next round.

        Args:
            model_gain: tokens that a draft of the model gains, its cost subtracted; None if no model can draft.
            copy_gain: tokens that the best copy gains, its cost subtracted; 0 if no copy pays.
        """
        without_model: Source = "lookup" if copy_gain > 0 else "none"
        if model_gain is None:
            return without_model
        # A model that loses pauses, and drafts once at the end of each pause.
        if model_gain <= 0:
            self._idle_rounds = (self._idle_rounds + 1) % self._pause
            return without_model if self._idle_rounds else "model"
        if copy_gain <= 0:
            return "model"
        # Both gain.
        self._contested_rounds += 1
        is_trial = self._contested_rounds % _OTHER_SOURCE_EVERY == 0
        model_is_better = model_gain > copy_gain
        return "model" if model_is_better != is_trial else "lookup"

    def observe_model(self, num_accepted: int) -> None:
        """Learn how many tokens of a model's draft were accepted."""
        if num_accepted:
            self._pause = _FIRST_PAUSE
        else:
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
