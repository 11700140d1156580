"""The export plan: load, write, check, publish."""

from __future__ import annotations

import gc
import importlib.metadata
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from dovetail_ort_export.checking.agreement import measure_target
from dovetail_ort_export.checking.check_text import checked_tokens
from dovetail_ort_export.checking.cross_check import witnessed_rows
from dovetail_ort_export.checking.reference import reference_logits
from dovetail_ort_export.options import ExportOptions, Report
from dovetail_ort_export.quantization.cache_range import measured_cache
from dovetail_ort_export.source import Source, SourceOptions, load_source
from dovetail_ort_export.writing.bundle_output import bundle_directory, check_output, clear_leftovers, write_manifest
from dovetail_ort_export.writing.generation_entry import generation_entry
from dovetail_ort_export.writing.recipe_choice import recipes_for
from dovetail_ort_export.writing.target_writer import TargetWriter, WrittenTarget
from dovetail_ort_export.writing.tokenizer_entry import write_text_files
from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.bundle.manifest import Manifest
from dovetail_ort_runtime.bundle.measurements import Provenance
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


def _source_options(options: ExportOptions) -> SourceOptions:
    return SourceOptions(
        max_context=options.max_context,
        ignore_settings=options.ignore_settings,
        ignore_weights=options.ignore_weights,
    )


def _check_portable(written: WrittenTarget, tokens: TokenArray, reference: FloatArray, report: Report) -> None:
    """Run the graph for machines without the library, and say how far it is from the original."""
    found = measure_target(written.portable().open(len(tokens)), tokens, reference)
    agreement = found.agreement
    exact = "exact" if found.row_invariance.identical else "NOT exact on this machine"
    report(f"{written.entry.portable_graph}: top-1 {agreement.top1:.1%}, mean KL {agreement.mean_kl:.4f} nats, {exact}")


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
