"""Transformations of a graph, and the list of those that have names here.

    skeleton graph
      -> bind_weights -> keep_blocks, score_rows, quantize_cache    which part, which rows, which cache
      -> pack_products, fuse_skip_norm                              fewer, larger operators
      -> lower_float | lower_int8_blocks | lower_native             a number format
      -> rank_candidates                                            for a drafter
    finished graph
      -> drop_bias, keep_scored_states                              a second graph, for chains alone
      -> tap_levels -> project_features                             what a drafter reads of its levels

native_attention: what lower_native makes of attention.
base: classes to derive from; context: what an export knows; editing: find, read and replace parts of a graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import onnx_ir as ir

from dovetail_ort_export.passes.bind_weights import BindWeights
from dovetail_ort_export.passes.drop_bias import DropBias
from dovetail_ort_export.passes.fuse_skip_norm import FuseSkipNorm
from dovetail_ort_export.passes.keep_blocks import KeepBlocks
from dovetail_ort_export.passes.keep_scored_states import KeepScoredStates
from dovetail_ort_export.passes.lower_float import LowerFloat, LowerHalf
from dovetail_ort_export.passes.lower_int8_blocks import LowerInt8Blocks
from dovetail_ort_export.passes.lower_native import LowerNative
from dovetail_ort_export.passes.pack_products import PackGateUp, PackQkv
from dovetail_ort_export.passes.quantize_cache import QuantizeCache
from dovetail_ort_export.passes.rank_candidates import RankCandidates
from dovetail_ort_export.passes.score_rows import ScoreRows
from dovetail_ort_export.passes.tap_levels import TapLevels

PassType = type[ir.passes.PassBase]

BUILT_IN_PASSES: Final[Mapping[str, PassType]] = {
    "bind-weights": BindWeights,
    "keep-blocks": KeepBlocks,
    "score-rows": ScoreRows,
    "quantize-cache": QuantizeCache,
    "pack-qkv": PackQkv,
    "pack-gate-up": PackGateUp,
    "fuse-skip-norm": FuseSkipNorm,
    "lower-float": LowerFloat,
    "lower-half": LowerHalf,
    "lower-int8-blocks": LowerInt8Blocks,
    "lower-native": LowerNative,
    "rank-candidates": RankCandidates,
    "drop-bias": DropBias,
    "keep-scored-states": KeepScoredStates,
    "tap-levels": TapLevels,
}
