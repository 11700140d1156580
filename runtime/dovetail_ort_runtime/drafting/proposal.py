"""What a drafter hands to the target: a chain or a tree of draft tokens. It knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.errors import InputError

ROOT: Final = -1


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Proposal:
    """Draft tokens of one round below a root, the newest token, which the target has not read yet.

    They stand in topological order with the first root-to-leaf path in front: token `i` has its parent at
    `parents[i] < i`, or `ROOT` (-1) if it follows the root. A chain has parents -1, 0, 1, ...

    Example, root "the", two guesses for the next word, the first one continued:

        token_ids  cat  sat  dog          the -> cat -> sat
        parents     -1    0   -1              -> dog

    Attributes:
        token_ids: (K,) int64, the draft tokens.
        parents: (K,) int64, for each draft token the index of the one that it follows, or `ROOT`.
        probabilities: (K, V) float32, row `i` the distribution that `token_ids[i]` was sampled from; None if the draft
            tokens were chosen, not sampled.
        confidences: K numbers, the drafter's own probability that token `i` and all tokens on the way to it are
            accepted; empty if the drafter has no opinion.
    """

    token_ids: TokenArray
    parents: TokenArray
    probabilities: FloatArray | None = None
    confidences: Sequence[float] = ()

    def __post_init__(self) -> None:
        if len(self.parents) != len(self.token_ids):
            raise InputError(
                f"parents must have one entry per draft token, got {len(self.parents)} for {len(self.token_ids)}"
            )
        if any(not ROOT <= parent < index for index, parent in enumerate(self.parents.tolist())):
            raise InputError("parents must be -1 or the index of an earlier draft token; sort the tree topologically")
        if self.probabilities is not None and len(self.probabilities) != len(self.token_ids):
            raise InputError(
                f"probabilities must have one row per draft token, got {len(self.probabilities)} "
                f"for {len(self.token_ids)}"
            )

    @classmethod
    def chain(
        cls,
        token_ids: Sequence[int] | TokenArray,
        probabilities: FloatArray | None = None,
        confidences: Sequence[float] = (),
    ) -> Proposal:
        """Draft tokens that follow one another.

        Args:
            token_ids: K tokens.
            probabilities: (K, V) float32, as in `Proposal`.
            confidences: K numbers, as in `Proposal`.
        """
        tokens = np.asarray(token_ids, dtype=np.int64)
        parents = np.arange(ROOT, len(tokens) - 1)
        return cls(token_ids=tokens, parents=parents, probabilities=probabilities, confidences=confidences)

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def is_chain(self) -> bool:
        """Whether every draft token follows the one before it."""
        return bool(self.parents.tolist() == list(range(ROOT, len(self) - 1)))

    def first_path(self) -> Proposal:
        """The draft tokens up to the first one that does not follow the one before it."""
        breaks = np.flatnonzero(self.parents != np.arange(ROOT, len(self) - 1))
        if not len(breaks):
            return self
        length = int(breaks[0])
        probabilities = None if self.probabilities is None else self.probabilities[:length]
        return Proposal.chain(self.token_ids[:length], probabilities, self.confidences[:length])

    def likeliest(self, num_tokens: int) -> Proposal:
        """The draft tokens of the highest confidences.

        A parent's confidence is no lower than its child's, so the parent of each draft token is among them.

        Args:
            num_tokens: number of draft tokens at most.
        """
        assert self.probabilities is None, "the sampled tokens that stay would have another distribution"
        order = np.argsort(-np.asarray(self.confidences), kind="stable")[:num_tokens]
        kept = sorted(order.tolist())
        place = {old: new for new, old in enumerate(kept)} | {ROOT: ROOT}
        return Proposal(
            token_ids=self.token_ids[kept],
            parents=np.array([place[int(self.parents[old])] for old in kept], dtype=np.int64),
            confidences=[self.confidences[old] for old in kept],
        )

    def tested(self, accepted_ids: Sequence[int]) -> list[float]:
        """The drafter's promises that a verdict puts to the test, from the root down.

        Args:
            accepted_ids: accepted draft tokens, a path from the root.

        Returns:
            A probability for the root and then for each accepted token, up to the first node without children. It is
            the drafter's probability that one of the node's children comes next.
        """
        found: list[float] = []
        node = ROOT
        confidence = 1.0
        for depth in range(len(accepted_ids) + 1):
            children = self.children(node)
            if not children:
                break
            found.append(sum(self.confidences[child] for child in children) / confidence)
            if depth == len(accepted_ids):
                break
            node = next(child for child in children if self.token_ids[child] == accepted_ids[depth])
            confidence = self.confidences[node]
        return found

    def depths(self) -> TokenArray:
        """(K,) int64, steps of each draft token from the root: 1 for the root's children."""
        depths = np.zeros(len(self), dtype=np.int64)
        for index, parent in enumerate(self.parents):
            depths[index] = 1 if parent == ROOT else depths[parent] + 1
        return depths

    def children(self, parent: int) -> list[int]:
        """Indices of the draft tokens that follow another one directly, in order.

        Args:
            parent: index of a draft token, or `ROOT`.
        """
        return [index for index, other in enumerate(self.parents.tolist()) if other == parent]


NOTHING: Final = Proposal.chain([])
