"""How many of a head's tokens the target would have written itself, from every position of a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dovetail_ort_export.heads.draft_head import DraftHead
from dovetail_ort_export.heads.eagle3 import Eagle3Head
from dovetail_ort_export.heads.rotary import RotaryTables
from dovetail_ort_export.heads.unrolling import unroll
from dovetail_ort_export.probing.probe_texts import ProbeText
from dovetail_ort_export.training.batches import TextBatch, collate
from dovetail_ort_export.training.chains import measure_acceptance
from dovetail_ort_export.training.conversation import Conversation
from dovetail_ort_runtime.arrays import FloatArray


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ProbedHead:
    """A head with all that it needs to draft in torch.

    Attributes:
        network: the head in float32.
        embedding: (V, E) float32, embeddings of all tokens.
        lm_head: (Vd, E) float32, rows of the output layer for the tokens that can be drafted.
        draft_token_ids: (Vd,) int64, ids of these tokens.
        rotary: rotary positions of the head, as many as the texts have.
    """

    network: DraftHead | Eagle3Head
    embedding: Tensor
    lm_head: Tensor
    draft_token_ids: Tensor
    rotary: RotaryTables


@torch.no_grad()
def acceptance_by_depth(
    head: ProbedHead, texts: Sequence[ProbeText], features: Sequence[FloatArray], num_steps: int
) -> tuple[float, ...]:
    """Draft a chain from every position of every answer, and compare it with the answer.

    Args:
        head: head that drafts.
        texts: prompts with the target's answers, one or more.
        features: what the head reads of each text, (T - 1, F) float32.
        num_steps: length of a chain, 1 or more.

    Returns:
        By depth, the share of tokens that are the target's own of those before which all were, 0 to 1.
    """
    batches = ((batch, _scored_steps(head, batch, num_steps)) for batch in _batches(texts, features))
    by_depth, _ = measure_acceptance(batches, head.lm_head, head.draft_token_ids)
    return tuple(by_depth)


def num_drafts(texts: Sequence[ProbeText]) -> int:
    """Number of positions of the texts from which a chain is drafted."""
    return sum(len(text.answer) - 1 for text in texts)


def _batches(texts: Sequence[ProbeText], features: Sequence[FloatArray]) -> Iterator[TextBatch]:
    for text, states in zip(texts, features, strict=True):
        conversation = Conversation(
            token_ids=text.token_ids.astype(np.int32), prompt_length=text.prompt_length, hidden_states=states
        )
        yield collate([conversation])


def _scored_steps(head: ProbedHead, batch: TextBatch, num_steps: int) -> Iterator[Tensor]:
    embeddings = head.embedding[batch.next_token_ids]
    for predicted in unroll(head.network, batch.features, embeddings, head.rotary, num_steps):
        yield head.network.scored(predicted)
