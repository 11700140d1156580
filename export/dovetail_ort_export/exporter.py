"""The export plan: load, write, check, publish."""

from __future__ import annotations

import gc
import importlib.metadata
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from dovetail_ort_export.checking.agreement import measure_target
from dovetail_ort_export.checking.check_text import checked_tokens
from dovetail_ort_export.checking.cross_check import witnessed_rows
from dovetail_ort_export.checking.reference import reference_logits
from dovetail_ort_export.options import ExportOptions, Report
from dovetail_ort_export.quantization.cache_range import measured_cache
from dovetail_ort_export.source import Source, SourceOptions, TextParts, load_source
from dovetail_ort_export.writing.bundle_output import bundle_directory, check_output, clear_leftovers, write_manifest
from dovetail_ort_export.writing.formats import recipes_for
from dovetail_ort_export.writing.target_writer import TargetWriter, WrittenTarget
from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.bundle.manifest import GenerationEntry, Manifest, TokenizerEntry
from dovetail_ort_runtime.bundle.measurements import Provenance
from dovetail_ort_runtime.errors import InputError, SourceError
from dovetail_ort_runtime.machine.onnx_runtime import onnxruntime_distributions
from dovetail_ort_runtime.machine.processor import processor_name

_TOKENIZER_NAME: Final = "tokenizer.json"
_CHAT_TEMPLATE_NAME: Final = "chat_template.jinja"
_PACKAGES: Final = ("torch", "transformers", "optimum", "onnx", "onnx-ir", "onnxscript")


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
    clear_leftovers(out)
    check_output(out, force=options.force)
    recipes = recipes_for(options, report)
    with bundle_directory(out) as directory:
        report(f"loading {source}")
        loaded = load_source(source, _source_options(options))
        generation = _generation_entry(loaded)
        for note in loaded.notes:
            report(f"note: {note}")
        max_context = loaded.settings.max_context
        tokens = checked_tokens(loaded, options.check_text, max_context)
        report(f"asking the original model about {len(tokens)} tokens")
        with measured_cache(loaded.model) as cache_maxima:
            reference = reference_logits(loaded.model, tokens)
        report("recomputing a few of them from the files alone")
        witnessed = witnessed_rows(loaded, tokens)
        written = TargetWriter(loaded, options, max_context, cache_maxima, report).write(recipes, directory)
        tokenizer = write_text_files(loaded.text, directory)
        provenance = _provenance(loaded)
        del loaded  # the sessions take its place in memory
        gc.collect()  # transformers' modules hold each other in cycles
        report("checking what was written")
        target = written.open(len(tokens))
        measurements = measure_target(target, tokens, reference)
        witness = witnessed.compare(target, quantised=written.is_quantised)
        del target
        if written.entry.portable_graph is not None:
            _check_portable(written, tokens, reference, report)
        manifest = Manifest(
            target=replace(written.entry, exact=measurements.row_invariance.identical),
            tokenizer=tokenizer,
            generation=generation,
            measurements=replace(measurements, witness=witness),
            provenance=provenance,
            files=(),
        )
        manifest = write_manifest(manifest, directory)
    return ExportReport(
        directory=out,
        manifest=manifest,
        num_bytes=sum(entry.num_bytes for entry in manifest.files),
        peak_memory_bytes=_peak_memory_bytes(),
    )


def _peak_memory_bytes() -> int:
    """The process's largest resident memory so far."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _check_portable(written: WrittenTarget, tokens: TokenArray, reference: FloatArray, report: Report) -> None:
    """Run the graph for machines without the library, and say how far it is from the original."""
    found = measure_target(written.portable().open(len(tokens)), tokens, reference)
    agreement, exact = found.agreement, found.row_invariance.identical
    report(
        f"{written.entry.portable_graph}: top-1 {agreement.top1:.1%}, mean KL {agreement.mean_kl:.4f} nats, "
        f"{'exact' if exact else 'NOT exact on this machine'}"
    )


def _source_options(options: ExportOptions) -> SourceOptions:
    return SourceOptions(
        max_context=options.max_context,
        ignore_settings=options.ignore_settings,
        ignore_weights=options.ignore_weights,
    )


def _provenance(source: Source) -> Provenance:
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    settings = source.settings
    return Provenance(
        source=source.name,
        exporter=importlib.metadata.version("dovetail-ort"),
        packages=packages | onnxruntime_distributions(),
        machine=processor_name(),
        revision=source.checkpoint.revision,
        licence=source.checkpoint.licence,
        ignored_settings=settings.ignored,
        ignored_weights=source.ignored_weights,
        rotary_table=settings.rotary.table(settings.max_context),
    )


def write_text_files(text: TextParts, directory: Path) -> TokenizerEntry:
    """Write the tokenizer and the chat template into `directory`."""
    # Its own writing has no OSError for a full disk.
    (directory / _TOKENIZER_NAME).write_text(text.tokenizer.to_str(pretty=True), encoding="utf-8")
    if text.chat_template is not None:
        (directory / _CHAT_TEMPLATE_NAME).write_text(text.chat_template, encoding="utf-8")
    return TokenizerEntry(
        file=_TOKENIZER_NAME,
        chat_template=None if text.chat_template is None else _CHAT_TEMPLATE_NAME,
        special_tokens=text.special_tokens,
    )


def _generation_entry(source: Source) -> GenerationEntry:
    """The model's own generation settings; greedy unless they ask for sampling.

    Raises:
        SourceError: a setting is no number, or out of bounds.
    """
    given = source.checkpoint.generation
    try:
        return GenerationEntry(
            eos_token_ids=source.text.eos_token_ids,
            repetition_penalty=_number(given, "repetition_penalty", default=1.0, off=1.0),
            **(_sampling(given) if given.get("do_sample") else {}),
        )
    except InputError as error:
        raise SourceError(f"generation_config.json must hold settings within bounds: {error}; correct it") from None


def _sampling(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a sampling model does not set has the values that transformers gives it."""
    return {
        "temperature": _number(given, "temperature", default=1.0, off=1.0),
        "top_k": max(int(_number(given, "top_k", default=50, off=0)), 0),  # -1 stands for "off", too
        "top_p": _number(given, "top_p", default=1.0, off=1.0),
        "min_p": _number(given, "min_p", default=0.0, off=0.0),
    }


def _number(settings: Mapping[str, Any], name: str, *, default: float, off: float) -> float:
    """A generation setting: `default` where it is not named, `off` where it is null."""
    value = settings.get(name, default)
    if value is None:
        return off
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise SourceError(f"{name} of generation_config.json must be a number, got {value!r:.60}; correct it")
    return float(value)
