"""The drafters that can be asked for by name."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from dovetail_ort_runtime import kernels
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.manifest import NATIVE, PORTABLE, DrafterEntry
from dovetail_ort_runtime.drafting.drafter import Drafter, ModelDrafter, NoDrafter, TreeDrafter
from dovetail_ort_runtime.drafting.drafting_ahead import DraftingAhead
from dovetail_ort_runtime.drafting.feature_drafter import FeatureDrafter
from dovetail_ort_runtime.drafting.language_model_drafter import LanguageModelDrafter
from dovetail_ort_runtime.drafting.prompt_lookup import PromptLookup
from dovetail_ort_runtime.drafting.shapes import FOUR_TOKENS, ChainShape, TreeShape
from dovetail_ort_runtime.engine.devices import AUTO, CPU, CUDA, DEVICES, has_cuda
from dovetail_ort_runtime.engine.draft_graph import DraftGraph
from dovetail_ort_runtime.engine.kv_cache import cache_bytes
from dovetail_ort_runtime.engine.session import SessionReport, weight_bytes
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.machine.cuda_runtime import device_name
from dovetail_ort_runtime.machine.environment import import_onnxruntime, processor_name
from dovetail_ort_runtime.planning.curve_cache import CurveKey, load_curves, store_curves
from dovetail_ort_runtime.planning.curve_measurement import BRIEF, METHOD, THOROUGH, measure_curves
from dovetail_ort_runtime.planning.planner import Planner
from dovetail_ort_runtime.planning.time_curves import TimeCurves

DRAFTERS: Final = ("auto", "dgf", "lm", "lookup", "none")


def make_drafter(
    name: str,
    bundle: Bundle,
    target: Target,
    *,
    draft_bundle: str | Path | None = None,
    shape: ChainShape | TreeShape | None = None,
    tune: bool = False,
    device: str = AUTO,
    vram_limit: int | None = None,
) -> Drafter:
    """A drafter for a target.

    Unless its shape is fixed, a `Planner` decides in each round how much is drafted, from times of this machine:
    stored ones, or new ones that are stored. Chains on CUDA are drafted ahead, while the target verifies.

    Args:
        name: `dgf`, the bundle's own drafter; `lm`, the language model in `draft_bundle`; `lookup`; `none`; or `auto`,
            lookup and, where there is one, `lm` or `dgf`; a native `dgf` is left out, with a warning, where the library
            of operators is missing.
        bundle: of the target.
        target: the drafter's cache is as long as its own.
        draft_bundle: of a smaller model with the same tokenizer; verified as far as `bundle` was.
        shape: of all proposals, which a model then drafts alone.
        tune: measure thoroughly, whatever is stored.
        device: of a model that drafts: `cpu`, `cuda`, or `auto`, CUDA for a drafter in fp16 where it can be used.
        vram_limit: bytes that it may take on a GPU.

    Raises:
        UnavailableError: CUDA is asked for and cannot be used.
        InputError: there is no such drafter, the tokenizers differ, or arguments do not go together.
        BundleError: `draft_bundle` is missing or damaged.
    """
    own = _is_own(name, bundle, draft_bundle)
    _check(name, device, own=own, has_draft_bundle=draft_bundle is not None)
    if name == "auto" and draft_bundle is None and not own:
        _warn_of_a_drafter_left_out(bundle)
    if name == "none":
        return NoDrafter()
    opened = None if draft_bundle is None else Bundle(draft_bundle, bundle.verify)
    model: ModelDrafter | None = None
    if opened is not None:
        model = _language_model(bundle, opened, target, shape or FOUR_TOKENS)
    elif own:
        model = _feature_drafter(bundle, target, shape or FOUR_TOKENS, device, vram_limit)
    trees: FeatureDrafter | None = None
    if isinstance(model, FeatureDrafter):
        if model.model.device != CPU and not isinstance(shape, TreeShape):
            model = DraftingAhead(model)
        elif target.keeps_branches:
            trees = model
    if shape is not None:
        if model is None:
            raise InputError(f"a shape must be that of a model's drafts, got one for {name} without a model")
        return model
    curves = _curves([bundle] if opened is None else [bundle, opened], target, model, trees, tune)
    lookup = PromptLookup() if name in ("auto", "lookup") else None
    return Planner(curves, lookup=lookup, model=model, trees=trees)


def drafter_bytes_on_gpu(
    drafter: Drafter | str, bundle: Bundle, draft_bundle: str | Path | None, device: str, capacity: int
) -> int:
    """Weights and cache that a drafter of `make_drafter` will take on a GPU; 0 for the CPU, or one that is made."""
    entry = bundle.manifest.drafter
    if entry is None or not isinstance(drafter, str) or not _is_own(drafter, bundle, draft_bundle):
        return 0
    if _device(entry, device) != CUDA:
        return 0
    cache = cache_bytes(entry.num_layers, entry.num_kv_heads, capacity, entry.head_size, np.float16)
    return weight_bytes(bundle.path(entry.graph)) + cache


def _is_own(name: str, bundle: Bundle, draft_bundle: str | Path | None) -> bool:
    """Whether the bundle's own drafter is asked for, which may not be there; `auto` leaves out what cannot run."""
    entry = bundle.manifest.drafter
    if name != "auto" or draft_bundle is not None or entry is None:
        return name == "dgf"
    return entry.format != NATIVE or kernels.is_available()


def _warn_of_a_drafter_left_out(bundle: Bundle) -> None:
    if bundle.manifest.drafter is not None:
        warnings.warn(
            f"the bundle's drafter is left out, and text is copied from the context alone: {kernels.why_missing()}",
            stacklevel=3,
        )


def _device(entry: DrafterEntry, device: str) -> str:
    if device != AUTO:
        return device
    return CUDA if entry.precision == "fp16" and has_cuda() else CPU


def _check(name: str, device: str, *, own: bool, has_draft_bundle: bool) -> None:
    if name not in DRAFTERS:
        raise InputError(f"the drafter must be one of {', '.join(DRAFTERS)}, got {name!r}")
    if name == "lm" and not has_draft_bundle:
        raise InputError("the drafter lm must be given a bundle of a smaller model; name one with --draft-bundle")
    if name not in ("auto", "lm") and has_draft_bundle:
        raise InputError(f"a draft bundle must go with the drafter lm, got {name}")
    if device not in DEVICES:
        raise InputError(f"the drafter's device must be one of {', '.join(DEVICES)}, got {device!r}")
    if device == CUDA and has_draft_bundle:
        raise InputError("the drafter lm must run on the CPU, got the device cuda; take dgf or the device auto")
    if device == CUDA and not own:
        raise InputError(f"the device cuda must be for a model that drafts, got the drafter {name} without one")


def _curves(
    bundles: Sequence[Bundle], target: Target, model: ModelDrafter | None, trees: TreeDrafter | None, tune: bool
) -> TimeCurves:
    checksums = "".join(entry.sha256 for bundle in bundles for entry in bundle.manifest.files)
    key = CurveKey(
        bundles=hashlib.sha256(checksums.encode()).hexdigest(),
        drafter=type(model).__name__,
        devices=_devices((*target.reports(), *(() if model is None else model.reports()))),
        processor=processor_name(),
        onnxruntime=import_onnxruntime().__version__,
        operators=_operators(target),
        threads=target.threads,
        max_context=target.cache.capacity,
        method=METHOD,
    )
    curves = None if tune else load_curves(key)
    if curves is None:
        curves = measure_curves(target, model, trees, THOROUGH if tune else BRIEF)
        store_curves(key, curves)
    return curves


def _operators(target: Target) -> str:
    operators = NATIVE if target.is_native else PORTABLE
    if kernels.is_available():
        operators += f", kernels {kernels.level()} {kernels.library_version()}"  # the drafter may be native, too
    return operators


def _devices(reports: Sequence[SessionReport]) -> tuple[str, ...]:
    return tuple(f"cuda, {device_name()}" if report.device == CUDA else report.device for report in reports)


def _feature_drafter(
    bundle: Bundle, target: Target, shape: ChainShape | TreeShape, device: str, vram_limit: int | None
) -> FeatureDrafter:
    entry = bundle.manifest.drafter
    if entry is None:
        raise InputError(
            "the drafter dgf must be in the bundle, got a bundle without one; "
            "make one with dovetail-ort train, and attach it with dovetail-ort attach"
        )
    model = DraftGraph(
        bundle.path(entry.graph),
        entry,
        capacity=target.cache.capacity,
        threads=target.threads,
        device=_device(entry, device),
        vram_limit=vram_limit,
        trees=isinstance(shape, TreeShape),
    )
    return FeatureDrafter(model, shape)


def _language_model(
    bundle: Bundle, draft_bundle: Bundle, target: Target, shape: ChainShape | TreeShape
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
    """Every id that the target may write has one token in both, and so has every id that may be drafted.

    The drafter reads what the target writes, so it must know all of the target's tokens, added ones too. Its own tokens
    beyond the target's V are never drafted. Ids without a token are padding, which may differ.
    """
    target_size = bundle.manifest.target.vocabulary_size
    shared = min(target_size, draft_bundle.manifest.target.vocabulary_size)
    ours = _tokens_below(target_size, bundle)
    theirs = _tokens_below(shared, draft_bundle)
    if ours != theirs:
        token = next(token for token in sorted(ours | theirs) if ours.get(token) != theirs.get(token))
        raise InputError(
            f"the draft bundle must have the target's tokens, got {token!r} {_as_id(theirs.get(token))} instead of "
            f"{_as_id(ours.get(token))}; take a model of the same family"
        )


def _tokens_below(vocabulary_size: int, bundle: Bundle) -> dict[str, int]:
    return {token: id_ for token, id_ in bundle.tokenizer().vocabulary().items() if id_ < vocabulary_size}


def _as_id(token_id: int | None) -> str:
    return "without an id" if token_id is None else f"as {token_id}"
