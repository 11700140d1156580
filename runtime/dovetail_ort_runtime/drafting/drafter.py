"""What every drafter is: one that proposes tokens. It knows no target."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.bundle.graph_names import HIDDEN_STATES
from dovetail_ort_runtime.drafting.proposal import NOTHING, Proposal
from dovetail_ort_runtime.drafting.shapes import FOUR_TOKENS, ChainShape, TreeShape
from dovetail_ort_runtime.engine.session import SessionReport
from dovetail_ort_runtime.options import SamplingOptions

# What `observe` is given of each token, by the name of the target's output.
FeatureName = Literal["hidden_states", "drafter_features"]


class Drafter(ABC):
    """Watches what the target reads, one sequence at a time, and proposes what may come next.

    Order of calls: `rewind(0)` and `begin`, then `observe` for the prompt, chunk by chunk, then in each round `propose`
    and `observe` of what was kept. A new turn of a conversation starts with `rewind(n)`: the first `n` observed tokens
    are kept.

    Attributes:
        reads: what `observe` is given of each token. `hidden_states`, (n, E), are the target's after the final norm.
            `drafter_features`, (n, F), are what the bundle's attached head reads: levels of the target's residual
            stream, which the target's graph has made F numbers of. Only bundles with such a head have them.
    """

    reads: FeatureName = HIDDEN_STATES

    def begin(self, sampling: SamplingOptions) -> None:  # noqa: B027  most drafters need no notice
        """Take note that a new answer begins.

        Args:
            sampling: how the answer's tokens are chosen.
        """

    def reports(self) -> tuple[SessionReport, ...]:
        """Devices, threads and memory of the drafter's sessions; most drafters have none."""
        return ()

    @abstractmethod
    def rewind(self, length: int) -> None:
        """Forget every observed token from position `length` on; 0 forgets all."""

    @abstractmethod
    def observe(self, token_ids: TokenArray, hidden_states: FloatArray) -> None:
        """Take note of tokens that the target has read and that stay.

        Args:
            token_ids: (n,) int64, following those observed before.
            hidden_states: (n, E) float32, the target's hidden state of each token, after the final norm, or
                (n, F) float32, the features that the drafter `reads`. It is a view that the next forward overwrites;
                copy what must outlive the call.
        """

    @abstractmethod
    def propose(self, next_token_id: int, max_draft_tokens: int) -> Proposal:
        """Draft tokens to follow `next_token_id`, the newest token, which the target has not read yet.

        A target that keeps side branches, as native ones do, verifies a whole tree. All others verify only its first
        path.

        Args:
            next_token_id: the root of the proposal.
            max_draft_tokens: 0 or more; fewer or none may be proposed.
        """


class ModelDrafter(Drafter):
    """A drafter that runs a model and drafts in the shape that it is asked for.

    A planner asks `draft` for another shape in each round. Without a planner, `propose` drafts in one fixed shape.

    Args:
        shape: chain or tree that `propose` gives.

    Attributes:
        shape: chain or tree that `propose` gives.
    """

    def __init__(self, shape: ChainShape | TreeShape = FOUR_TOKENS) -> None:
        self.shape = shape

    @property
    def drafts_trees(self) -> bool:
        """Whether `draft` may be asked for a tree."""
        return False

    def propose(self, next_token_id: int, max_draft_tokens: int) -> Proposal:
        """A chain or a tree of the fixed shape."""
        return self.draft(next_token_id, max_draft_tokens, self.shape)

    @abstractmethod
    def draft(self, next_token_id: int, max_draft_tokens: int, shape: ChainShape | TreeShape) -> Proposal:
        """Draft tokens to follow `next_token_id`, in a shape of the caller's choice.

        Args:
            next_token_id: the root of the proposal.
            max_draft_tokens: 0 or more; fewer or none may be proposed, also where the shape has more.
            shape: a chain; a tree only if `drafts_trees`.
        """

    def is_ready(self, next_token_id: int) -> bool:  # noqa: ARG002  most drafters never are
        """Whether a chain after this token is drafted already and costs no time."""
        return False


class NoDrafter(Drafter):
    """Proposes nothing: decoding without speculation."""

    def rewind(self, length: int) -> None:
        """There is nothing to forget."""

    def observe(self, token_ids: TokenArray, hidden_states: FloatArray) -> None:
        """There is nothing to learn."""

    def propose(self, next_token_id: int, max_draft_tokens: int) -> Proposal:  # noqa: ARG002  the answer is always no
        """No draft tokens."""
        return NOTHING
