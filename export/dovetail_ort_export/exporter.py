"""The export plan: load, write, check, choose, publish."""

from __future__ import annotations

import gc
import importlib.metadata
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from dovetail_ort_export.bundle_directory import bundle_directory, check_output, file_entries
from dovetail_ort_export.candidates import choose_candidate, write_candidates
from dovetail_ort_export.check_text import checked_tokens
from dovetail_ort_export.export_options import ExportOptions
from dovetail_ort_export.families import check_window
from dovetail_ort_export.peak_memory import peak_memory_bytes
from dovetail_ort_export.reference import reference_logits
from dovetail_ort_export.source import load_source
from dovetail_ort_export.text_files import generation_entry, write_text_files
from dovetail_ort_runtime.environment import processor_name
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.manifest import MANIFEST_NAME, Manifest
from dovetail_ort_runtime.measurements import Provenance

_PACKAGES: Final = ("torch", "transformers", "optimum", "optimum-onnx", "onnx", "onnx-ir", "onnxscript", "onnxruntime")


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
        max_context = _max_context(loaded.model.config, options)
        tokens = checked_tokens(loaded, options.check_text, max_context)
        report(f"asking the original model about {len(tokens)} tokens")
        reference = reference_logits(loaded.model, tokens)
        with tempfile.TemporaryDirectory(dir=directory.parent) as folder:
            candidates = write_candidates(loaded, options, max_context, Path(folder), report)
            tokenizer, generation = write_text_files(loaded, directory), generation_entry(loaded)
            name = loaded.name
            del loaded  # the sessions take its place in memory
            gc.collect()  # transformers' modules hold each other in cycles
            report("checking what was written")
            chosen, measurements = choose_candidate(candidates, tokens, reference, report)
            for path in chosen.folder.iterdir():
                path.rename(directory / path.name)
        manifest = Manifest(
            target=replace(chosen.entry, exact=measurements.row_invariance.identical),
            tokenizer=tokenizer,
            generation=generation,
            measurements=measurements,
            provenance=replace(_provenance(name), calibration=chosen.calibration),
            files=file_entries(directory),
        )
        (directory / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    num_bytes = sum(entry.num_bytes for entry in manifest.files)
    return ExportReport(directory=out, manifest=manifest, num_bytes=num_bytes, peak_memory_bytes=peak_memory_bytes())


def _max_context(config: Any, options: ExportOptions) -> int:
    largest = int(config.max_position_embeddings)
    if options.max_context is not None and options.max_context > largest:
        raise InputError(f"max_context must be at most the model's {largest}, got {options.max_context}")
    max_context = options.max_context or largest
    check_window(config, max_context)
    return max_context


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
