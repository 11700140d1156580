"""Generate from a bundle with numpy, tokenizers, jinja2 and ONNX Runtime.

    load_model: bundle + LoadOptions -> loading -> Model
    Model: prompt -> text -> ids -> decoding (planning, drafting, engine) -> tokens -> text -> results
    everything may use errors, checks, arrays, kernels and machine; options and sampler say how tokens are chosen

It knows no other package of this project.
"""

from __future__ import annotations

from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.drafting.drafter import Drafter
from dovetail_ort_runtime.drafting.prompt_lookup import PromptLookup
from dovetail_ort_runtime.drafting.proposal import Proposal
from dovetail_ort_runtime.drafting.shapes import ChainShape, TreeShape
from dovetail_ort_runtime.engine.session import SessionReport
from dovetail_ort_runtime.errors import (
    BundleError,
    BundleVersionError,
    ChatTemplateError,
    ContextLengthError,
    DovetailError,
    InputError,
    ModelUseError,
    SourceError,
    UnavailableError,
)
from dovetail_ort_runtime.loading.load_options import LoadOptions
from dovetail_ort_runtime.model import Model, load_model
from dovetail_ort_runtime.options import Constraint, ConstraintState, GenerationOptions, SamplingOptions
from dovetail_ort_runtime.planning.time_curves import TimeCurves
from dovetail_ort_runtime.results import Generation, Piece, Statistics, TokenLogprobs
from dovetail_ort_runtime.text.messages import Message

__all__ = [
    "Bundle",
    "BundleError",
    "BundleVersionError",
    "ChainShape",
    "ChatTemplateError",
    "Constraint",
    "ConstraintState",
    "ContextLengthError",
    "DovetailError",
    "Drafter",
    "Generation",
    "GenerationOptions",
    "InputError",
    "LoadOptions",
    "Message",
    "Model",
    "ModelUseError",
    "Piece",
    "PromptLookup",
    "Proposal",
    "SamplingOptions",
    "SessionReport",
    "SourceError",
    "Statistics",
    "TimeCurves",
    "TokenLogprobs",
    "TreeShape",
    "UnavailableError",
    "load_model",
]
