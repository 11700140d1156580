"""Trace a draft head into a graph skeleton, between the embedded tokens and the reduced head of its target.

It knows a head's sizes and the code of its forward, none of its weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from dovetail_ort_export.heads.config import BlockConfig, Eagle3Config, HeadConfig
from dovetail_ort_export.heads.draft_head import DraftAttention, DraftHead
from dovetail_ort_export.heads.eagle3 import Eagle3Head
from dovetail_ort_export.tracing.axes import (
    BATCH,
    CACHE_SLOTS,
    INPUT_AXES,
    ROW_AXES,
    ROWS,
    SCORED,
    past_axes,
    present_axes,
)
from dovetail_ort_export.tracing.leaves import LayerCache, attend, leaf_forward
from dovetail_ort_export.tracing.skeleton import example_inputs, traced
from dovetail_ort_runtime.bundle.graph_names import (
    HIDDEN_STATES,
    INPUT_IDS,
    LOGITS,
    PAST,
    PREDICTED_STATES,
    SCORED_ROWS,
)


def trace_drafter(config: HeadConfig | Eagle3Config, vocabulary_size: int, draft_vocabulary_size: int) -> ir.Model:
    """The skeleton of a drafter.

    Its weights are called `embed_tokens.weight` (V, E) and `lm_head.weight` (Vd, E). Names of the draft head's own
    weights begin with `head.`.

    Args:
        config: sizes of the head.
        vocabulary_size: V, tokens that it reads.
        draft_vocabulary_size: Vd, tokens that it can draft.

    Returns:
        A graph with the inputs `hidden_states`, those of a target, `scored_rows` and the caches, and the outputs
        `logits`, `predicted_states` and the caches.
    """
    block = config.block
    examples = example_inputs(config.num_blocks, block.num_kv_heads, block.head_size)
    caches = examples.pop(PAST)
    num_rows = examples[INPUT_IDS].shape[1]
    states = torch.zeros(1, num_rows, block.hidden_size)
    scored_rows = torch.tensor([num_rows - 1])
    return traced(
        "drafter",
        _Drafter(config, vocabulary_size, draft_vocabulary_size).eval(),
        (states, *examples.values(), scored_rows, caches),
        inputs={HIDDEN_STATES: ROW_AXES, **INPUT_AXES, SCORED_ROWS: {0: SCORED}, **past_axes(config.num_blocks)},
        outputs={LOGITS: {0: BATCH, 1: SCORED}, PREDICTED_STATES: ROW_AXES, **present_axes(config.num_blocks)},
        widths={LOGITS: [SCORED, draft_vocabulary_size], PREDICTED_STATES: [ROWS, block.hidden_size]},
        cache=[block.num_kv_heads, CACHE_SLOTS, block.head_size],
    )


class _Drafter(nn.Module):
    """A head between its two ends, without weights: all leaves are operators."""

    def __init__(self, config: HeadConfig | Eagle3Config, vocabulary_size: int, draft_vocabulary_size: int) -> None:
        super().__init__()
        size = config.block.hidden_size
        with torch.device("meta"):
            self.embed_tokens = nn.Embedding(vocabulary_size, size)
            self.head = Eagle3Head(config) if isinstance(config, Eagle3Config) else DraftHead(config)
            self.lm_head = nn.Linear(size, draft_vocabulary_size, bias=False)
        for name, module in self.named_modules():
            is_attention = isinstance(module, DraftAttention)
            forward = _attention_forward(module, config.block) if is_attention else leaf_forward(name, module)
            if forward is not None:
                module.forward = forward

    def forward(
        self,
        hidden_states: Tensor,
        input_ids: Tensor,
        position_ids: Tensor,
        attention_bias: Tensor,
        seqlens_k: Tensor,
        total_sequence_length: Tensor,
        scored_rows: Tensor,
        past_key_values: list[tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, ...]:
        lengths = (seqlens_k, total_sequence_length)
        present: list[Tensor] = []
        # The graph's caches replace `BlockCache`.
        caches: Any = [LayerCache(position_ids, past, lengths, attention_bias, present) for past in past_key_values]
        predicted = self.head(hidden_states, self.embed_tokens(input_ids), caches)
        scored = self.head.scored(torch.index_select(predicted, 1, scored_rows))
        logits = self.lm_head(scored)
        return logits, predicted, *present


def _attention_forward(module: DraftAttention, config: BlockConfig) -> Callable[[Tensor, LayerCache], Tensor]:
    heads = (config.num_heads, config.num_kv_heads)
    return lambda x, cache: attend(module, x, cache, heads)
