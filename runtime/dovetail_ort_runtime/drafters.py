"""The drafters that can be asked for by name."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from dovetail_ort_runtime.bundle import Bundle
from dovetail_ort_runtime.draft_model import DraftModel
from dovetail_ort_runtime.draft_shape import ChainShape, TreeShape
from dovetail_ort_runtime.drafter import Drafter, NoDrafter
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.feature_drafter import FeatureDrafter
from dovetail_ort_runtime.language_model_drafter import LanguageModelDrafter
from dovetail_ort_runtime.lookup_first import LookupFirst
from dovetail_ort_runtime.prompt_lookup import PromptLookup
from dovetail_ort_runtime.target import Target

DRAFTERS: Final = ("auto", "dgf", "lm", "lookup", "none")
# The best table in front of the SmolLM2 head on the tuning prompts (models/smollm2-135m-instruct, choose_shape.py).
LOOKUP_IN_FRONT: Final = (0, 2, 3, 5, 8, 12)


def make_drafter(
    name: str,
    bundle: Bundle,
    target: Target,
    *,
    draft_bundle: str | Path | None = None,
    shape: ChainShape | TreeShape | None = None,
) -> Drafter:
    """A drafter for a target.

    Args:
        name: `dgf`, the bundle's own drafter; `lm`, the language model in `draft_bundle`; `lookup`; `none`; or `auto`,
            lookup in front of `lm` or `dgf` where there is one.
        bundle: of the target.
        target: the drafter's cache is made as long as its own.
        draft_bundle: a bundle of a smaller model with the same tokenizer.
        shape: of a model's proposals.

    Raises:
        InputError: there is no such drafter, the bundle has none, or the tokenizers differ.
        BundleError: `draft_bundle` is missing or damaged.
    """
    if name not in DRAFTERS:
        raise InputError(f"the drafter must be one of {', '.join(DRAFTERS)}, got {name!r}")
    if name == "lm" and draft_bundle is None:
        raise InputError("the drafter lm must be given a bundle of a smaller model; name one with --draft-bundle")
    if name not in ("auto", "lm") and draft_bundle is not None:
        raise InputError(f"a draft bundle must go with the drafter lm, got {name}")
    if name == "none":
        return NoDrafter()
    if name == "lookup" or (name == "auto" and draft_bundle is None and bundle.manifest.drafter is None):
        return PromptLookup()
    model: Drafter
    if draft_bundle is not None:
        model = _language_model(bundle, Bundle(draft_bundle), target, shape)
    else:
        model = _feature_drafter(bundle, target, shape)
    return model if name != "auto" else LookupFirst(PromptLookup(LOOKUP_IN_FRONT), model)


def _feature_drafter(bundle: Bundle, target: Target, shape: ChainShape | TreeShape | None) -> FeatureDrafter:
    entry = bundle.manifest.drafter
    if entry is None:
        raise InputError(
            "the drafter dgf must be in the bundle, got a bundle without one; "
            "make one with dovetail-ort train, and attach it with dovetail-ort attach"
        )
    model = DraftModel(bundle.path(entry.graph), entry, capacity=target.cache.capacity, threads=target.threads)
    return FeatureDrafter(model, shape)


def _language_model(
    bundle: Bundle, draft_bundle: Bundle, target: Target, shape: ChainShape | TreeShape | None
) -> LanguageModelDrafter:
    if isinstance(shape, TreeShape):
        raise InputError("the drafter lm must draft chains, got the shape of a tree")
    _check_same_tokens(bundle, draft_bundle)
    entry = draft_bundle.manifest.target
    model = Target(
        draft_bundle.path(entry.graph),
        entry,
        max_context=min(target.cache.capacity, entry.max_context),
        threads=target.threads,
    )
    return LanguageModelDrafter(model, target.vocabulary_size, shape)


def _check_same_tokens(bundle: Bundle, draft_bundle: Bundle) -> None:
    """Vocabularies may be padded to different sizes; every token that both name must have one id in both."""
    vocabularies = [one.tokenizer().vocabulary() for one in (bundle, draft_bundle)]
    shared = min(one.manifest.target.vocabulary_size for one in (bundle, draft_bundle))
    ours, theirs = ({token: id_ for token, id_ in tokens.items() if id_ < shared} for tokens in vocabularies)
    if ours != theirs:
        token = next(token for token in sorted(ours | theirs) if ours.get(token) != theirs.get(token))
        raise InputError(
            f"the draft bundle must have the target's tokens, got {token!r} as {theirs.get(token)} instead of "
            f"{ours.get(token)}; take a model of the same family"
        )
