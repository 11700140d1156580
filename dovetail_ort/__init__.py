"""Exact speculative decoding for ONNX Runtime: `load` a bundle, `generate` from it.

Example:
    import dovetail_ort

    with dovetail_ort.load("smollm2") as model:  # a bundle that `dovetail-ort export` wrote
        answer = model.generate([{"role": "user", "content": "Why is the sky blue?"}])
        print(answer.text, answer.statistics.decode_tokens_per_second)
"""

from __future__ import annotations

from dovetail_ort.grammar import Grammar, GrammarCompiler
from dovetail_ort_runtime import (
    ChainShape,
    Constraint,
    ConstraintState,
    DovetailError,
    Drafter,
    Generation,
    GenerationOptions,
    LoadOptions,
    Message,
    Model,
    Piece,
    PromptLookup,
    Proposal,
    SamplingOptions,
    SessionReport,
    Statistics,
    TimeCurves,
    TokenLogprobs,
    TreeShape,
)
from dovetail_ort_runtime import load_model as load

__all__ = [
    "ChainShape",
    "Constraint",
    "ConstraintState",
    "DovetailError",
    "Drafter",
    "Generation",
    "GenerationOptions",
    "Grammar",
    "GrammarCompiler",
    "LoadOptions",
    "Message",
    "Model",
    "Piece",
    "PromptLookup",
    "Proposal",
    "SamplingOptions",
    "SessionReport",
    "Statistics",
    "TimeCurves",
    "TokenLogprobs",
    "TreeShape",
    "load",
]
