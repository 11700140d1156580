"""Generate from a bundle with numpy and ONNX Runtime alone; it works without the packages beside it."""

from dovetail_ort_runtime.bundle import Bundle
from dovetail_ort_runtime.draft_shape import ChainShape, TreeShape
from dovetail_ort_runtime.drafter import Drafter
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
from dovetail_ort_runtime.generation import Generation, Piece, Statistics, TokenLogprobs
from dovetail_ort_runtime.generation_options import Constraint, ConstraintState, GenerationOptions, SamplingOptions
from dovetail_ort_runtime.model import Model, load_model
from dovetail_ort_runtime.prompt import Message
from dovetail_ort_runtime.prompt_lookup import PromptLookup
from dovetail_ort_runtime.proposal import Proposal
from dovetail_ort_runtime.session import SessionReport
from dovetail_ort_runtime.time_curves import TimeCurves

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
