"""The graphs that an export may come to: one for each number format asked for, written, run and compared."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir

from dovetail_ort_export.agreement import measure_agreement
from dovetail_ort_export.calibration import activation_maxima
from dovetail_ort_export.calibration_text import calibration_texts
from dovetail_ort_export.equalization import EQUALIZED_FAMILIES, EqualizedWeights
from dovetail_ort_export.export_options import ExportOptions
from dovetail_ort_export.families import head_size
from dovetail_ort_export.int8_choice import choose_int8_format
from dovetail_ort_export.source import Source
from dovetail_ort_export.target_graph import float_target, half_front, int8_block_target, int8_row_target, save_graph
from dovetail_ort_export.weights import Weights
from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.manifest import TargetEntry
from dovetail_ort_runtime.measurements import Calibration, Int8FormatMeasurements, Measurements
from dovetail_ort_runtime.pass_times import time_passes
from dovetail_ort_runtime.row_invariance import ROWS_AT_EXPORT, TOKENS_AT_EXPORT, measure_row_invariance
from dovetail_ort_runtime.target import Target

MAX_ROWS: Final = 64
_TIMED_ROUNDS: Final = 15
_TIMING_SECONDS: Final = 20.0
_FRONT_NAME: Final = "model_front_fp16.onnx"
_GRAPH_NAMES: Final = {"int8": "model_quantized.onnx", "fp32": "model.onnx"}

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A target that has been written.

    Attributes:
        folder: where its graph and weights are, and nothing else.
        entry: what the manifest would say of it.
        calibration: of the row format, else None.
    """

    folder: Path
    entry: TargetEntry
    calibration: Calibration | None = None

    @property
    def num_bytes(self) -> int:
        """Size of graph and weights."""
        return sum(path.stat().st_size for path in self.folder.iterdir())

    def open(self, num_tokens: int) -> Target:
        """Its target, with room for a text of `num_tokens` and the row that pads an exact pass."""
        return Target(
            self.folder / self.entry.graph, self.entry, max_context=min(self.entry.max_context, num_tokens + 1)
        )


def write_candidates(
    source: Source, options: ExportOptions, max_context: int, folder: Path, report: Report
) -> list[Candidate]:
    """Write the target in every format that the options ask for, each into a folder of its own below `folder`."""
    weights = Weights(source.model, max_context=max_context)
    entry = _target_entry(source.model.config, weights, options, max_context)
    if options.precision == "fp32":
        report("writing fp32")
        graphs = _graphs(source, weights, entry, float_target)
        return [_write(graphs, folder / "fp32", entry)]
    candidates = []
    if options.int8_format in ("auto", "row"):
        equalized, calibration = _equalize(source, weights, options, report)
        report("writing int8, scales by row")
        row = replace(entry, int8_format="row")
        candidates.append(_write(_graphs(source, equalized, row, int8_row_target), folder / "row", row, calibration))
    if options.int8_format in ("auto", "block"):
        report("writing int8, scales by block")
        block = replace(entry, int8_format="block")
        candidates.append(_write(_graphs(source, weights, block, int8_block_target), folder / "block", block))
    return candidates


def choose_candidate(
    candidates: Sequence[Candidate], tokens: TokenArray, reference: FloatArray, report: Report
) -> tuple[Candidate, Measurements]:
    """Run every candidate on a text, in turns if there are several, and keep one.

    Args:
        candidates: one or more.
        tokens: (T,) int64.
        reference: (T, V) float32, the original model's logits.
        report: is told each step.
    """
    targets = [candidate.open(len(tokens)) for candidate in candidates]
    measured = [_measure(target, tokens, reference) for target in targets]
    if len(candidates) == 1:
        return candidates[0], measured[0]
    report("timing both formats in turns")
    names = [str(candidate.entry.int8_format) for candidate in candidates]
    times = time_passes(dict(zip(names, targets, strict=True)), rounds=_TIMED_ROUNDS, seconds=_TIMING_SECONDS)
    formats = tuple(
        Int8FormatMeasurements(
            int8_format=name,
            num_bytes=candidate.num_bytes,
            row_invariance=found.row_invariance,
            agreement=found.agreement,
            pass_ms={str(rows): round(statistics.median(ms), 3) for rows, ms in times[name].items()},
        )
        for name, candidate, found in zip(names, candidates, measured, strict=True)
    )
    chosen = names.index(choose_int8_format(formats).int8_format)
    return candidates[chosen], replace(measured[chosen], int8_formats=formats)


def _equalize(
    source: Source, weights: Weights, options: ExportOptions, report: Report
) -> tuple[Weights | EqualizedWeights, Calibration | None]:
    config = source.model.config
    if config.model_type not in EQUALIZED_FAMILIES:
        report(f"no rule to equalise {config.model_type}: its activations are quantised as they are")
        return weights, None
    report(f"{'writing' if options.calibration_text is None else 'reading'} a text to measure activations on")
    texts = calibration_texts(source, options.calibration_text, options.calibration_tokens, options.seed)
    num_tokens = sum(map(len, texts))
    report(f"measuring activations over {num_tokens} tokens")
    maxima = activation_maxima(source.model, texts)
    name = None if options.calibration_text is None else options.calibration_text.name
    calibration = Calibration(text=name, num_tokens=num_tokens, seed=options.seed, alpha=options.alpha)
    return EqualizedWeights(weights, config, maxima, options.alpha), calibration


def _graphs(
    source: Source, weights: Any, entry: TargetEntry, make: Callable[[Any, Any, int], ir.Model]
) -> dict[str, ir.Model]:
    """The target's graphs by file name."""
    graphs = {entry.graph: make(source.model, weights, entry.front_layers)}
    if entry.front_graph is not None:
        graphs[entry.front_graph] = half_front(source.model, weights, entry.front_layers)
    return graphs


def _write(
    graphs: Mapping[str, ir.Model], folder: Path, entry: TargetEntry, calibration: Calibration | None = None
) -> Candidate:
    folder.mkdir()
    for name, graph in graphs.items():
        save_graph(graph, folder / name)
    return Candidate(folder=folder, entry=entry, calibration=calibration)


def _measure(target: Target, tokens: TokenArray, reference: FloatArray) -> Measurements:
    return Measurements(
        row_invariance=measure_row_invariance(target, tokens[:TOKENS_AT_EXPORT], ROWS_AT_EXPORT),
        agreement=measure_agreement(target, tokens, reference),
    )


def _target_entry(config: Any, weights: Weights, options: ExportOptions, max_context: int) -> TargetEntry:
    if options.gpu_layers >= config.num_hidden_layers:
        raise InputError(
            f"gpu_layers must be below the model's {config.num_hidden_layers} blocks, got {options.gpu_layers}"
        )
    return TargetEntry(
        graph=_GRAPH_NAMES[options.precision],
        family=config.model_type,
        precision=options.precision,
        front_graph=_FRONT_NAME if options.gpu_layers else None,
        front_layers=options.gpu_layers,
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
        intermediate_size=config.intermediate_size,
        weights_sha256=weights.sha256(),
    )
