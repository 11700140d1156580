"""The export plan: load, trace, lower, write, check, publish."""

from __future__ import annotations

import gc
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from tqdm import tqdm

from dovetail_ort_export.agreement import measure_agreement
from dovetail_ort_export.bundle_directory import bundle_directory, check_output, file_entries
from dovetail_ort_export.export_options import ExportOptions
from dovetail_ort_export.families import check_window, head_size
from dovetail_ort_export.passes.bind_weights import BindWeights
from dovetail_ort_export.passes.fuse_skip_norm import FuseSkipNorm
from dovetail_ort_export.passes.lower_float import LowerFloat
from dovetail_ort_export.passes.lower_int8_blocks import LowerInt8Blocks
from dovetail_ort_export.passes.pack_gate_up import PackGateUp
from dovetail_ort_export.passes.pack_qkv import PackQkv
from dovetail_ort_export.peak_memory import peak_memory_bytes
from dovetail_ort_export.reference import reference_logits
from dovetail_ort_export.source import Source, load_source
from dovetail_ort_export.text_files import generation_entry, write_text_files
from dovetail_ort_export.tracing import trace_target
from dovetail_ort_export.weights import Weights
from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.environment import processor_name
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.manifest import (
    MANIFEST_NAME,
    Manifest,
    Measurements,
    Provenance,
    TargetEntry,
)
from dovetail_ort_runtime.row_invariance import ROWS_AT_EXPORT, TOKENS_AT_EXPORT, measure_row_invariance
from dovetail_ort_runtime.target import Target

MAX_ROWS: Final = 64
_CHECKED_TOKENS: Final = 512
_GRAPH_NAMES: Final = {"int8": "model_quantized.onnx", "fp32": "model.onnx"}
_PACKAGES: Final = ("torch", "transformers", "optimum", "optimum-onnx", "onnx", "onnx-ir", "onnxscript", "onnxruntime")
# Offsets at whole pages let the runtime map the weights instead of reading them.
_PAGE_BYTES: Final = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportReport:
    """What an export did.

    Attributes:
        directory: the bundle.
        manifest: what the bundle says of itself, measurements included.
        num_bytes: size of all its files.
        peak_memory_bytes: the process's largest resident memory so far.
    """

    directory: Path
    manifest: Manifest
    num_bytes: int
    peak_memory_bytes: int


def export_bundle(
    source: str, out: str | Path, options: ExportOptions | None = None, report: Callable[[str], None] = lambda _: None
) -> ExportReport:
    """Export a causal LM to a bundle, run the bundle, and put it in place.

    Args:
        source: a Hugging Face directory, hub name, or GGUF file.
        out: directory of the bundle; it appears when everything has succeeded.
        options: the defaults if None.
        report: is told each step in a line.

    Raises:
        SourceError: the model cannot be read or is of a kind that is not covered.
        InputError: an option is out of bounds, or `out` holds something that would be lost.
    """
    options, out = options or ExportOptions(), Path(out)
    check_output(out, force=options.force)
    with bundle_directory(out) as directory:
        report(f"loading {source}")
        loaded = load_source(source)
        tokens = _checked_tokens(loaded, options)
        max_context = _max_context(loaded.model.config, options)
        report(f"asking the original model about {len(tokens)} tokens")
        reference = reference_logits(loaded.model, tokens)

        weights = Weights(loaded.model, max_context=max_context)
        report("tracing the graph")
        graph = build_target(loaded.model, weights, options.precision)
        entry = _target_entry(loaded.model.config, weights, options.precision, max_context)
        report(f"writing {entry.graph}")
        _save(graph, directory / entry.graph)
        tokenizer, generation = write_text_files(loaded, directory), generation_entry(loaded)
        name = loaded.name
        del loaded, weights, graph  # the session takes their place in memory
        gc.collect()  # transformers' modules hold each other in cycles

        report("checking the bundle")
        measurements = _measure(directory, entry, tokens, reference)
        manifest = Manifest(
            target=replace(entry, exact=measurements.row_invariance.identical),
            tokenizer=tokenizer,
            generation=generation,
            measurements=measurements,
            provenance=_provenance(name),
            files=file_entries(directory),
        )
        (directory / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    num_bytes = sum(entry.num_bytes for entry in manifest.files)
    return ExportReport(directory=out, manifest=manifest, num_bytes=num_bytes, peak_memory_bytes=peak_memory_bytes())


def build_target(model: Any, weights: Weights, precision: str) -> ir.Model:
    """The target's graph of a transformers model, its weights still unread."""
    lower = {"int8": LowerInt8Blocks, "fp32": LowerFloat}[precision]
    graph = trace_target(model)
    for graph_pass in (BindWeights(weights), PackQkv(), PackGateUp(), FuseSkipNorm(), lower()):
        graph = graph_pass(graph).model  # ir.passes.Sequential would hide a SourceError in its own
    del graph.opset_imports["dovetail"]  # all its operators are lowered
    return graph


def _save(graph: ir.Model, path: Path) -> None:
    """Write graph and weights, computing each weight as it is written; a bar shows the progress on a terminal."""
    with tqdm(total=len(graph.graph.initializers), unit=" tensors", leave=False, disable=None) as bar:
        ir.save(
            graph,
            path,
            external_data=f"{path.name}_data",
            alignment=_PAGE_BYTES,
            callback=lambda tensor, info: bar.update() and None,  # noqa: ARG005  onnx-ir's signature
        )


def _checked_tokens(source: Source, options: ExportOptions) -> TokenArray:
    resource = options.check_text or files("dovetail_ort_export") / "check_text.txt"
    try:
        text = resource.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the check text must be a readable UTF-8 file, got: {error}") from error
    # A single row at the end is padded to two: one slot stays free for it.
    limit = min(_CHECKED_TOKENS, max(_max_context(source.model.config, options) - 1, 2))
    tokens = source.tokenizer.encode(text, add_special_tokens=False).ids[:limit]
    if len(tokens) < 2:
        raise InputError(f"the check text must have 2 tokens or more, got {len(tokens)}; give a longer file")
    return np.asarray(tokens, dtype=np.int64)


def _max_context(config: Any, options: ExportOptions) -> int:
    largest = int(config.max_position_embeddings)
    if options.max_context is not None and options.max_context > largest:
        raise InputError(f"max_context must be at most the model's {largest}, got {options.max_context}")
    max_context = options.max_context or largest
    check_window(config, max_context)
    return max_context


def _target_entry(config: Any, weights: Weights, precision: str, max_context: int) -> TargetEntry:
    return TargetEntry(
        graph=_GRAPH_NAMES[precision],
        family=config.model_type,
        precision=precision,
        exact=False,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_size=head_size(config),
        hidden_size=config.hidden_size,
        vocabulary_size=config.vocab_size,
        num_parameters=weights.num_parameters,
        max_context=max_context,
        max_rows=MAX_ROWS,
    )


def _measure(directory: Path, entry: TargetEntry, tokens: TokenArray, reference: FloatArray) -> Measurements:
    target = Target(directory / entry.graph, entry, max_context=min(entry.max_context, len(tokens) + 1))
    return Measurements(
        row_invariance=measure_row_invariance(target, tokens[:TOKENS_AT_EXPORT], ROWS_AT_EXPORT),
        agreement=measure_agreement(target, tokens, reference),
    )


def _provenance(source: str) -> Provenance:
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES if _installed(name)}
    return Provenance(
        source=source,
        exporter=importlib.metadata.version("dovetail-ort"),
        packages=packages,
        machine=processor_name(),
    )


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
