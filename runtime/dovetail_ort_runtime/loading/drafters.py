"""Who drafts for a target: a drafter by its name, and the planner that decides how much it drafts."""

from __future__ import annotations

import warnings

from dovetail_ort_runtime import kernels
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.graph_entries import TapsEntry
from dovetail_ort_runtime.bundle.graph_names import HIDDEN_STATES
from dovetail_ort_runtime.drafting.drafter import Drafter, ModelDrafter, NoDrafter
from dovetail_ort_runtime.drafting.drafting_ahead import DraftingAhead
from dovetail_ort_runtime.drafting.feature_drafter import FeatureDrafter
from dovetail_ort_runtime.drafting.prompt_lookup import PromptLookup
from dovetail_ort_runtime.drafting.shapes import FOUR_TOKENS, ChainShape, TreeShape
from dovetail_ort_runtime.engine.devices import AUTO, CPU, CUDA
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.loading.curves import curves_here
from dovetail_ort_runtime.loading.draft_models import open_head, open_language_model, wants_own_head
from dovetail_ort_runtime.loading.load_options import LOOKUP, NO_DRAFTER, LoadOptions
from dovetail_ort_runtime.planning.planner import Planner


def make_drafter(
    bundle: Bundle, target: Target, options: LoadOptions | None = None, *, vram_limit: int | None = None
) -> Drafter:
    """The drafter that the options ask for.

    Unless its shape is fixed, a `Planner` decides in each round how much is drafted, by times of this machine. Chains
    on CUDA are drafted ahead, while the target verifies.

    Args:
        bundle: the target's bundle.
        target: the loaded target.
        options: who drafts, where, and in which shape; the defaults if None.
        vram_limit: bytes that a model that drafts may take on a GPU, None without a limit.

    Raises:
        UnavailableError: CUDA is asked for and cannot be used, or the library of native operators is missing.
        InputError: the bundle has no head, the tokenizers differ, or the options do not fit the bundle.
        BundleError: the draft bundle is missing or damaged.
    """
    options = options or LoadOptions()
    if isinstance(options.drafter, Drafter):
        return options.drafter
    _check_device(bundle, options)
    _warn_of_a_head_left_out(bundle, options)
    if options.drafter == NO_DRAFTER:
        return NoDrafter()
    draft_bundle = None if options.draft_bundle is None else Bundle(options.draft_bundle, bundle.verify)
    model = _open_model(bundle, draft_bundle, target, options, vram_limit)
    if options.draft_shape is None:
        bundles = [bundle] if draft_bundle is None else [bundle, draft_bundle]
        return _plan(bundles, target, model, options)
    if model is None:
        raise InputError(
            f"only a model drafts in a given shape, and the drafter {options.drafter} has none here; "
            "leave the shape out"
        )
    return _ahead_on_cuda(model, options.draft_shape)


def wanted_taps(bundle: Bundle, options: LoadOptions) -> TapsEntry | None:
    """The taps that the target needs for the drafter that the options ask for; None if it needs none.

    Raises:
        InputError: a drafter of the caller's reads features, and the bundle has none.
    """
    entry = bundle.manifest.drafter
    taps = None if entry is None else entry.taps
    if isinstance(options.drafter, Drafter):
        if options.drafter.reads == HIDDEN_STATES:
            return None
        if taps is None:
            raise InputError(
                f"{type(options.drafter).__name__} reads {options.drafter.reads}, and this bundle has none; "
                "attach a head with taps, or read hidden_states."
            )
        return taps
    return taps if wants_own_head(bundle, options) else None


def _open_model(
    bundle: Bundle, draft_bundle: Bundle | None, target: Target, options: LoadOptions, vram_limit: int | None
) -> ModelDrafter | None:
    if draft_bundle is not None:
        shape = options.draft_shape or FOUR_TOKENS
        assert isinstance(shape, ChainShape), "the options refuse trees of a language model"
        return open_language_model(bundle, draft_bundle, target, shape)
    if wants_own_head(bundle, options):
        return open_head(bundle, target, options, vram_limit)
    return None


def _plan(bundles: list[Bundle], target: Target, model: ModelDrafter | None, options: LoadOptions) -> Planner:
    chains = None if model is None else _ahead_on_cuda(model, options.draft_shape)
    curves = curves_here(bundles, target, chains, tune=options.tune)
    lookup = PromptLookup() if options.drafter in (AUTO, LOOKUP) else None
    return Planner(curves, lookup=lookup, model=chains, keeps_branches=target.keeps_branches)


def _ahead_on_cuda(model: ModelDrafter, shape: ChainShape | TreeShape | None) -> ModelDrafter:
    """The drafter itself, or one that drafts chains ahead: a head on CUDA does not slow down a target on the CPU."""
    if isinstance(model, FeatureDrafter) and model.model.device != CPU and not isinstance(shape, TreeShape):
        return DraftingAhead(model)
    return model


def _check_device(bundle: Bundle, options: LoadOptions) -> None:
    if options.drafter_device == CUDA and not wants_own_head(bundle, options):
        raise InputError(
            f"only a draft head runs on cuda, and the drafter {options.drafter} has none here; "
            "leave --drafter-device out"
        )


def _warn_of_a_head_left_out(bundle: Bundle, options: LoadOptions) -> None:
    if options.drafter != AUTO or options.draft_bundle is not None or bundle.manifest.drafter is None:
        return
    if not wants_own_head(bundle, options):
        warnings.warn(
            f"the bundle's draft head cannot run here, so prompt lookup drafts alone: {kernels.why_missing()}",
            stacklevel=3,
        )
