"""What an answer may be made of, as a rule that says after each token which tokens may come next. It knows no text."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Constraint(Protocol):
    """A rule for answers, such as a grammar; any number of answers may be made under it."""

    def start(self) -> ConstraintState:
        """The rule before an answer's first token; every answer takes its own."""


class ConstraintState(Protocol):
    """Where one answer stands in its rule.

    `allowed` is asked before each token, `advance` is told each token that is kept, draft tokens that the target
    rejects never. A round may go on behind an end-of-text token, and what it decides there is dropped: then, too,
    `allowed` must give a token or more.
    """

    def allowed(self) -> NDArray[np.bool_]:
        """(n,) bool: the tokens that may come next, by id; end-of-text tokens among them where the text may end.

        Ids from n on are not allowed, and where n exceeds V the rest is not read: vocabularies are padded differently.
        """

    def advance(self, token_id: int) -> None:
        """The next token is this one, which was allowed."""
