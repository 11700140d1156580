"""The models that draft: the head in a target's own bundle, or a smaller language model in a bundle of its own."""

from __future__ import annotations

from dovetail_ort_runtime import kernels
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.formats import FP16, NATIVE
from dovetail_ort_runtime.bundle.graph_entries import DrafterEntry
from dovetail_ort_runtime.drafting.feature_drafter import FeatureDrafter
from dovetail_ort_runtime.drafting.language_model_drafter import LanguageModelDrafter
from dovetail_ort_runtime.drafting.shapes import FOUR_TOKENS, ChainShape, TreeShape
from dovetail_ort_runtime.engine.devices import AUTO, CPU, CUDA, has_cuda
from dovetail_ort_runtime.engine.draft_graph import DraftGraph, head_cache_shape
from dovetail_ort_runtime.engine.session import weight_bytes
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.errors import BundleError, InputError
from dovetail_ort_runtime.loading.load_options import OWN_HEAD, LoadOptions


def wants_own_head(bundle: Bundle, options: LoadOptions) -> bool:
    """Whether the head of the target's bundle drafts; `dgf` asks for one even where the bundle has none."""
    entry = bundle.manifest.drafter
    if options.drafter != AUTO or options.draft_bundle is not None or entry is None:
        return options.drafter == OWN_HEAD
    return entry.format != NATIVE or kernels.is_available()


def head_bytes_on_gpu(bundle: Bundle, options: LoadOptions, capacity: int) -> int:
    """Bytes of weights and cache that the bundle's head will take on a GPU; 0 if it will not run there.

    Args:
        bundle: the target's bundle.
        options: who drafts, and where.
        capacity: slots of the head's cache.
    """
    entry = bundle.manifest.drafter
    if entry is None or not wants_own_head(bundle, options) or _head_device(entry, options) != CUDA:
        return 0
    return weight_bytes(bundle.path(entry.graph)) + head_cache_shape(entry, capacity).num_bytes


def open_head(bundle: Bundle, target: Target, options: LoadOptions, vram_limit: int | None) -> FeatureDrafter:
    """The drafter of the bundle's own head.

    Args:
        bundle: the target's bundle.
        target: loaded target; the head's cache is as long as its cache.
        options: the device and the shape of drafts.
        vram_limit: bytes that the head may take on a GPU, None without a limit.

    Raises:
        InputError: the bundle has no head, or the head reads features, and the target was opened without taps.
        BundleError: the target gives other features than the head reads.
        UnavailableError: CUDA is asked for and cannot be used, or the library of native operators is missing.
    """
    entry = bundle.manifest.drafter
    if entry is None:
        raise InputError(
            "the drafter dgf needs a draft head, which this bundle does not have; "
            "make one with dovetail-ort train, and attach it with dovetail-ort attach"
        )
    _check_features(entry, target)
    shape = options.draft_shape or FOUR_TOKENS
    graph = DraftGraph(
        bundle.path(entry.graph),
        entry,
        capacity=target.cache.capacity,
        threads=target.threads,
        device=_head_device(entry, options),
        vram_limit=vram_limit,
        trees=isinstance(shape, TreeShape),
    )
    return FeatureDrafter(graph, shape)


def open_language_model(
    bundle: Bundle, draft_bundle: Bundle, target: Target, shape: ChainShape
) -> LanguageModelDrafter:
    """The drafter of a smaller language model.

    Args:
        bundle: the target's bundle.
        draft_bundle: the smaller model's bundle.
        target: loaded target. The smaller model uses as many threads, and as much context as it has.
        shape: shape of its drafts.

    Raises:
        InputError: the two bundles have different tokens.
    """
    _check_same_tokens(bundle, draft_bundle)
    entry = draft_bundle.manifest.target
    model = Target(
        draft_bundle.path(entry.graph),
        entry,
        max_context=min(target.cache.capacity, entry.max_context),
        threads=target.threads,
    )
    return LanguageModelDrafter(model, target.vocabulary_size, shape)


def _check_features(entry: DrafterEntry, target: Target) -> None:
    if entry.taps is not None and not target.has_taps:
        raise InputError("The head reads drafter_features; open the target with the taps of the head's entry.")
    if entry.hidden_size != target.feature_size:
        raise BundleError(
            f"the drafter reads {entry.hidden_size} features, and the target gives {target.feature_size}; "
            "attach the drafter again"
        )


def _head_device(entry: DrafterEntry, options: LoadOptions) -> str:
    if options.drafter_device != AUTO:
        return options.drafter_device
    return CUDA if entry.precision == FP16 and has_cuda() else CPU


def _check_same_tokens(bundle: Bundle, draft_bundle: Bundle) -> None:
    """Refuse a drafter unless every id that either side reads or drafts has the same token in both vocabularies.

    The drafter reads what the target writes, so it must know all of the target's tokens, added ones too. Its own tokens
    from the target's vocabulary size V on are never drafted. Ids without a token are padding, which may differ.
    """
    target_size = bundle.manifest.target.vocabulary_size
    shared_size = min(target_size, draft_bundle.manifest.target.vocabulary_size)
    ours = _tokens_below(target_size, bundle)
    theirs = _tokens_below(shared_size, draft_bundle)
    if ours == theirs:
        return
    token = next(token for token in sorted(ours | theirs) if ours.get(token) != theirs.get(token))
    raise InputError(
        f"the draft bundle must have the target's tokens, got {token!r} {_as_id(theirs.get(token))} instead of "
        f"{_as_id(ours.get(token))}; take a model of the same family"
    )


def _tokens_below(vocabulary_size: int, bundle: Bundle) -> dict[str, int]:
    return {token: id_ for token, id_ in bundle.tokenizer().vocabulary().items() if id_ < vocabulary_size}


def _as_id(token_id: int | None) -> str:
    return "without an id" if token_id is None else f"as {token_id}"
