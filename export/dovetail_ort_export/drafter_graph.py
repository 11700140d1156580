"""A draft head as a drafter graph."""

from __future__ import annotations

from typing import Final

import onnx_ir as ir
import torch

from dovetail_ort_export.draft_tracing import trace_draft_head
from dovetail_ort_export.operators import COS_CACHE, SIN_CACHE
from dovetail_ort_export.pass_context import PassContext
from dovetail_ort_export.pass_pipeline import apply_recipe
from dovetail_ort_export.recipe import Recipe, built_in_recipe
from dovetail_ort_export.target_ends import TargetEnds
from dovetail_ort_export.training.draft_head import DraftHead
from dovetail_ort_export.weights import NamedWeights
from dovetail_ort_runtime.arrays import FloatArray, TokenArray

_LOWERINGS: Final = {"int8": "lower-int8-blocks", "fp16": "lower-half", "fp32": "lower-float"}


def drafter_recipe(precision: str) -> Recipe:
    """The recipe of a drafter in one of `DRAFTER_PRECISIONS`."""
    return built_in_recipe("drafter").lowered_by(_LOWERINGS[precision], precision)


def drafter_graph(head: DraftHead, ends: TargetEnds, draft_token_ids: TokenArray, recipe: Recipe) -> ir.Model:
    """The graph that drafts with `head`.

    Args:
        head: float32, on the CPU.
        ends: of its target.
        draft_token_ids: (Vd,) int64, the tokens it can draft.
        recipe: of a drafter.

    Raises:
        InputError: a pass is unknown or does not fit its place.
    """
    skeleton = trace_draft_head(
        head.config, vocabulary_size=len(ends.embedding), draft_vocabulary_size=len(draft_token_ids)
    )
    weights = _DraftWeights(head, ends, draft_token_ids)
    return apply_recipe(skeleton, recipe, PassContext(weights=weights, draft_token_ids=draft_token_ids))


class _DraftWeights(NamedWeights):
    """The head's own weights, and the two ends that it shares with its target."""

    def __init__(self, head: DraftHead, ends: TargetEnds, draft_token_ids: TokenArray) -> None:
        with torch.no_grad():
            self._arrays: dict[str, FloatArray] = {
                f"head.{name}": parameter.numpy() for name, parameter in head.named_parameters()
            }
            # What the fusion makes of a token depends on nothing else: it is looked up instead of the embedding.
            self._arrays["embed_tokens.weight"] = head.fusion.embed(torch.from_numpy(ends.embedding)).numpy()
        self._arrays["lm_head.weight"] = ends.head[draft_token_ids]
        self._arrays[COS_CACHE], self._arrays[SIN_CACHE] = ends.cos, ends.sin

    def shape(self, name: str) -> tuple[int, ...]:
        return self._arrays[name].shape

    def __getitem__(self, name: str) -> FloatArray:
        return self._arrays[name]
