"""A conversation that a target wrote, with the hidden states that a head learns from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dovetail_ort_runtime.arrays import FloatArray


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Conversation:
    """A prompt and the target's greedy answer.

    Attributes:
        token_ids: (T,) int32, prompt and answer; the target did not read the last token.
        prompt_length: number of tokens before the answer.
        hidden_states: (T - 1, E) float16 or float32, what a head reads of each token that the target read: usually the
            target's hidden state after the final norm.
    """

    token_ids: NDArray[np.int32]
    prompt_length: int
    hidden_states: NDArray[np.float16] | FloatArray

    @property
    def prompt(self) -> NDArray[np.int32]:
        """Token ids before the answer, (prompt_length,)."""
        return self.token_ids[: self.prompt_length]

    @property
    def answer(self) -> NDArray[np.int32]:
        """Token ids of the answer, (answer_length,)."""
        return self.token_ids[self.prompt_length :]

    @property
    def answer_length(self) -> int:
        """Number of tokens in the answer."""
        return len(self.token_ids) - self.prompt_length
