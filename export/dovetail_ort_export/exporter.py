"""The export plan: load, write, check, publish."""

from __future__ import annotations

import gc
import importlib.metadata
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from dovetail_ort_export.checking.agreement import measure_target
from dovetail_ort_export.checking.check_text import checked_tokens
from dovetail_ort_export.checking.cross_check import WitnessedRows, witnessed_rows
from dovetail_ort_export.checking.reference import reference_logits
from dovetail_ort_export.options import ExportOptions, Report
from dovetail_ort_export.quantization.cache_range import measured_cache
from dovetail_ort_export.recipe import Recipe
from dovetail_ort_export.source import Source, SourceOptions, load_source
from dovetail_ort_export.writing.bundle_output import bundle_directory, check_output, clear_leftovers, write_manifest
from dovetail_ort_export.writing.generation_entry import generation_entry
from dovetail_ort_export.writing.recipe_choice import recipes_for
from dovetail_ort_export.writing.target_writer import TargetWriter, WrittenTarget
from dovetail_ort_export.writing.tokenizer_entry import write_text_files
from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.bundle.manifest import GenerationEntry, Manifest, TokenizerEntry
from dovetail_ort_runtime.bundle.measurements import Measurements, Provenance
from dovetail_ort_runtime.machine.onnx_runtime import onnxruntime_distributions
from dovetail_ort_runtime.machine.processor import processor_name

_PACKAGES: Final = ("torch", "transformers", "optimum", "onnx", "onnx-ir", "onnxscript")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportReport:
    """What an export did.

    Attributes:
        directory: directory of the bundle.
        manifest: what the bundle says of itself, measurements included.
        num_bytes: size of all files of the bundle.
        peak_memory_bytes: largest resident memory of the process so far.
    """

    directory: Path
    manifest: Manifest
    num_bytes: int
    peak_memory_bytes: int


def export_bundle(
    source: str, out: str | Path, options: ExportOptions | None = None, report: Report = lambda _: None
) -> ExportReport:
    """Export a causal LM to a bundle, run the bundle, and put it in place.

    Args:
        source: a Hugging Face directory, hub name, or GGUF file.
        out: directory of the bundle; it appears when everything has succeeded.
        options: settings of the export; the defaults if None.
        report: function that is called with one line of text for each step.

    Returns:
        What the export did.

    Raises:
        SourceError: the model cannot be read or is of a kind that is not covered.
        InputError: an option is out of bounds, or `out` holds something that would be lost.
    """
    options = options or ExportOptions()
    out = Path(out)
    clear_leftovers(out)
    check_output(out, force=options.force)
    recipes = recipes_for(options, report)
    with bundle_directory(out) as directory:
        unchecked = _write(source, options, recipes, directory, report)
        gc.collect()  # the sessions take the model's place in memory, and its modules hold each other in cycles
        report("checking what was written")
        measurements = _measure(unchecked)
        if unchecked.target.entry.portable_graph is not None:
            _check_portable(unchecked, report)
        manifest = write_manifest(_manifest(unchecked, measurements), directory)
    return ExportReport(
        directory=out,
        manifest=manifest,
        num_bytes=sum(entry.num_bytes for entry in manifest.files),
        peak_memory_bytes=_peak_memory_bytes(),
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Unchecked:
    """What was written, and what it is compared with. It does not hold the original model.

    Attributes:
        target: the target's graphs.
        tokenizer: files and names of the tokenizer.
        generation: generation settings of the model.
        provenance: where the bundle comes from.
        tokens: (T,) int64, the check text.
        reference: (T, V) float32, logits of the original model.
        witnessed: logits that were recomputed from the files alone.
    """

    target: WrittenTarget
    tokenizer: TokenizerEntry
    generation: GenerationEntry
    provenance: Provenance
    tokens: TokenArray
    reference: FloatArray
    witnessed: WitnessedRows


def _write(
    source: str, options: ExportOptions, recipes: Sequence[Recipe], directory: Path, report: Report
) -> _Unchecked:
    """Load the original model, compute its logits, and write all files but the manifest."""
    report(f"loading {source}")
    loaded = load_source(source, _source_options(options))
    generation = generation_entry(loaded)
    for note in loaded.notes:
        report(f"note: {note}")
    max_context = loaded.settings.max_context
    tokens = checked_tokens(loaded, options.check_text, max_context)
    report(f"computing the original model's logits of {len(tokens)} tokens")
    with measured_cache(loaded.model) as cache_maxima:
        reference = reference_logits(loaded.model, tokens)
    report("recomputing a few of them from the files alone")
    witnessed = witnessed_rows(loaded, tokens)
    written = TargetWriter(loaded, options, max_context, cache_maxima, report).write(recipes, directory)
    return _Unchecked(
        target=written,
        tokenizer=write_text_files(loaded.text, directory),
        generation=generation,
        provenance=_provenance(loaded),
        tokens=tokens,
        reference=reference,
        witnessed=witnessed,
    )


def _measure(unchecked: _Unchecked) -> Measurements:
    """Run the graph, and compare it with the original model and with the witness."""
    target = unchecked.target.open(len(unchecked.tokens))
    measurements = measure_target(target, unchecked.tokens, unchecked.reference)
    witness = unchecked.witnessed.compare(target, quantised=unchecked.target.is_quantised)
    return replace(measurements, witness=witness)


def _manifest(unchecked: _Unchecked, measurements: Measurements) -> Manifest:
    """The manifest without its files."""
    return Manifest(
        target=replace(unchecked.target.entry, exact=measurements.row_invariance.identical),
        tokenizer=unchecked.tokenizer,
        generation=unchecked.generation,
        measurements=measurements,
        provenance=unchecked.provenance,
        files=(),
    )


def _source_options(options: ExportOptions) -> SourceOptions:
    return SourceOptions(
        max_context=options.max_context,
        ignore_settings=options.ignore_settings,
        ignore_weights=options.ignore_weights,
    )


def _check_portable(unchecked: _Unchecked, report: Report) -> None:
    """Run the graph for machines without the library, and say how far it is from the original."""
    portable = unchecked.target.portable().open(len(unchecked.tokens))
    found = measure_target(portable, unchecked.tokens, unchecked.reference)
    agreement = found.agreement
    exact = "exact" if found.row_invariance.identical else "NOT exact on this machine"
    graph = unchecked.target.entry.portable_graph
    report(f"{graph}: top-1 {agreement.top1:.1%}, mean KL {agreement.mean_kl:.4f} nats, {exact}")


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


def _peak_memory_bytes() -> int:
    """The process's largest resident memory so far."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
