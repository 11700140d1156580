"""From a bundle and its options to what answers: the target, its drafter, and the reader of prompts."""

from __future__ import annotations

import warnings
from typing import NamedTuple

from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.graph_entries import TargetEntry
from dovetail_ort_runtime.decoding.decoder import Decoder
from dovetail_ort_runtime.engine.devices import AUTO, CPU, CUDA, has_cuda
from dovetail_ort_runtime.engine.first_blocks import first_blocks_cache_shape
from dovetail_ort_runtime.engine.gpu_memory import VramShare
from dovetail_ort_runtime.engine.row_invariance import holds_here
from dovetail_ort_runtime.engine.session import weight_bytes
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.loading.draft_models import head_bytes_on_gpu
from dovetail_ort_runtime.loading.drafters import make_drafter, wanted_taps
from dovetail_ort_runtime.loading.load_options import LoadOptions
from dovetail_ort_runtime.text.prompt_reader import PromptReader


class LoadedBundle(NamedTuple):
    """What a bundle is in memory.

    Attributes:
        decoder: target and drafter with their sessions, caches and threads.
        reader: the tokenizer and the chat template.
        exact: whether greedy answers with speculation are those without it, on this machine.
    """

    decoder: Decoder
    reader: PromptReader
    exact: bool


def load_bundle(bundle: Bundle, options: LoadOptions) -> LoadedBundle:
    """Load the target, measure whether it is exact here, and make its drafter.

    Raises:
        UnavailableError: a device or a library that the options or the bundle need is missing.
        InputError: an option does not fit the bundle.
        BundleError: a graph does not fit the manifest, or the draft bundle is missing or damaged.
    """
    entry = bundle.manifest.target
    reader = PromptReader(bundle.tokenizer(), bundle.chat_template(), entry.vocabulary_size)
    first_blocks_device = _first_blocks_device(entry, options.target_layers_on_gpu)
    share = _vram_share(bundle, options, first_blocks_device)
    target = Target(
        bundle.path(entry.graph),
        entry,
        max_context=options.max_context,
        threads=options.threads,
        first_blocks_device=first_blocks_device,
        vram_limit=share.first_blocks,
        taps=wanted_taps(bundle, options),
    )
    exact = entry.exact and _is_exact_here(target)
    drafter = make_drafter(bundle, target, options, vram_limit=share.drafter)
    return LoadedBundle(Decoder(target, drafter), reader, exact)


def _first_blocks_device(entry: TargetEntry, layers_on_gpu: int | str) -> str:
    """Device of the blocks that the export put into a graph of their own."""
    number = entry.front_layers
    if layers_on_gpu == AUTO:
        return CUDA if number and has_cuda() else CPU
    if layers_on_gpu not in (0, number):
        raise InputError(
            f"target_layers_on_gpu must be auto, 0 or the {number} that this bundle was cut for, got {layers_on_gpu}; "
            "export it with another --gpu-layers"
        )
    return CUDA if layers_on_gpu else CPU


def _vram_share(bundle: Bundle, options: LoadOptions, first_blocks_device: str) -> VramShare:
    entry = bundle.manifest.target
    capacity = entry.max_context if options.max_context is None else options.max_context
    return VramShare.of(
        options.vram_bytes,
        first_blocks_bytes=_first_blocks_bytes(bundle, capacity) if first_blocks_device == CUDA else 0,
        drafter_bytes=head_bytes_on_gpu(bundle, options, capacity),
    )


def _first_blocks_bytes(bundle: Bundle, capacity: int) -> int:
    """Bytes of weights and cache of the first blocks."""
    entry = bundle.manifest.target
    assert entry.front_graph is not None, "blocks are on a GPU in a graph of their own"
    graph = bundle.path(entry.graph).with_name(entry.front_graph)
    return weight_bytes(graph) + first_blocks_cache_shape(entry, capacity).num_bytes


def _is_exact_here(target: Target) -> bool:
    if holds_here(target):
        return True
    warnings.warn(
        "this bundle is not exact on this machine, though it was where it was exported: answers may differ from those "
        "without speculation; see dovetail-ort doctor BUNDLE",
        stacklevel=2,
    )
    return False
