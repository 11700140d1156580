"""Exact speculative decoding for ONNX Runtime: `load` a bundle, `generate` from it.

The front door of the project, from three sides:

    Python: load -> Model (dovetail_ort_runtime); grammar: what an answer must follow
    terminal: cli -> commands -> dovetail_ort_export, dovetail_ort_runtime, bench, health
    HTTP: commands.serve -> server -> Model

Example:
    import dovetail_ort

    with dovetail_ort.load("smollm2") as model:  # a bundle that `dovetail-ort export` wrote
        answer = model.generate([{"role": "user", "content": "Why is the sky blue?"}])
        print(answer.text, answer.statistics.decode_tokens_per_second)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        """The version, when it is asked for: `importlib.metadata` is slow to import."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib.metadata

        return importlib.metadata.version("dovetail-ort")
