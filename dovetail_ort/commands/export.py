"""`dovetail-ort export`: a model in, a checked bundle out."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import warnings
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dovetail_ort.cli.arguments import layers_or_auto
from dovetail_ort.cli.bundle_lines import measurement_lines, number_format, page
from dovetail_ort.cli.export_extra import Progress, import_from_export
from dovetail_ort.commands import add_json
from dovetail_ort_export.options import FORMATS, KV_CACHES, PRECISIONS, ExportOptions
from dovetail_ort_runtime.engine.devices import parse_bytes

if TYPE_CHECKING:
    from dovetail_ort_export.exporter import ExportReport

# What torch, transformers and Python take before a model is loaded.
_BASE_MEMORY_BYTES: Final = 1_500_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = ExportOptions()
    parser.epilog = (
        "examples:\n"
        "  dovetail-ort export SmolLM2-135M-Instruct.Q4_1.gguf smollm2\n"
        "  dovetail-ort export HuggingFaceTB/SmolLM2-135M-Instruct smollm2 --max-context 4096 --force"
    )
    parser.add_argument(
        "source", metavar="SOURCE", help="Hugging Face directory, hub name as owner/name[@revision], or a GGUF file"
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="directory of the bundle; it appears when all is well")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default=PRECISIONS[0], help="number format of weights (default: %(default)s)"
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default=defaults.format,
        help="operators of the graph: this package's own, those of a stock ONNX Runtime, or both in one bundle; auto: "
        "native where its library is installed (default: %(default)s)",
    )
    parser.add_argument(
        "--kv-cache",
        choices=KV_CACHES,
        default=defaults.kv_cache,
        help="number format of a native target's keys and values; fp32 also where fp16 would not hold them (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--recipe",
        dest="recipes",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="TOML list of the passes that make the graph, in place of --precision, --format and --kv-cache; twice for "
        "a native and a portable graph in one bundle",
    )
    parser.add_argument(
        "--max-context", type=int, metavar="N", help="tokens of prompt and answer (default: the model's maximum)"
    )
    _add_ignored(parser)
    parser.add_argument(
        "--check-text", type=Path, metavar="FILE", help="UTF-8 text to compare bundle and model on (default: built in)"
    )
    parser.add_argument(
        "--gpu-layers",
        type=layers_or_auto,
        metavar="N",
        default=defaults.gpu_layers,
        help="put the embedding and N blocks into a graph of their own in fp16, for a GPU; auto: as many as "
        "--vram-limit holds (default: %(default)s)",
    )
    parser.add_argument(
        "--vram-limit",
        metavar="SIZE",
        help="what --gpu-layers auto may take on a GPU, such as 6GB; leave room for the drafter",
    )
    parser.add_argument("--force", action="store_true", help="replace the bundle that stands at OUT")
    add_json(parser)


def _add_ignored(parser: argparse.ArgumentParser) -> None:
    ignored = parser.add_argument_group("parts of the source that export does not know, an error unless named here")
    ignored.add_argument(
        "--ignore-setting",
        dest="ignore_settings",
        action="append",
        default=[],
        metavar="KEY",
        help="a key of config.json that does not change what the model computes; may be given several times",
    )
    ignored.add_argument(
        "--ignore-weights",
        action="append",
        default=[],
        metavar="PATTERN",
        help="tensors that the model does not need, such as 'vision_tower.*'; may be given several times",
    )


def run(arguments: argparse.Namespace) -> int:
    given = {field.name: getattr(arguments, field.name) for field in fields(ExportOptions)}
    lists = {name: tuple(given[name]) for name in ("recipes", "ignore_settings", "ignore_weights")}
    limit = None if arguments.vram_limit is None else parse_bytes(arguments.vram_limit)
    options = ExportOptions(**{**given, **lists, "vram_limit": limit})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exporter = import_from_export("exporter", "exporter")
        report: ExportReport = exporter.export_bundle(arguments.source, arguments.out, options, Progress())
    print(json.dumps(_record(report), indent=2) if arguments.json else _summary(report))
    if not report.manifest.target.exact:
        print(
            f"WARNING: {report.directory} is NOT exact on this machine: a token's logits depend on the tokens beside "
            "it, so speculative output can differ from plain output; run: dovetail-ort doctor",
            file=sys.stderr,
        )
    return 0


def _summary(report: ExportReport) -> str:
    target = report.manifest.target
    lines = {
        "bundle": str(report.directory),
        "size": f"{report.num_bytes / 1e6:.1f} MB",
        "parameters": f"{target.num_parameters / 1e6:.1f} million, {number_format(target)}",
        **measurement_lines(report.manifest),
        "peak memory": f"{report.peak_memory_bytes / 1e9:.2f} GB, {_bytes_per_parameter(report):.1f} bytes a parameter "
        f"over {_BASE_MEMORY_BYTES / 1e9} GB",
        "next": f'dovetail-ort generate {shlex.quote(str(report.directory))} "Why is the sky blue?"',
    }
    return page(lines)


def _record(report: ExportReport) -> dict[str, Any]:
    return {
        "directory": str(report.directory),
        "num_bytes": report.num_bytes,
        "peak_memory_bytes": report.peak_memory_bytes,
        "bytes_per_parameter": _bytes_per_parameter(report),
        "target": asdict(report.manifest.target),
        "measurements": asdict(report.manifest.measurements),
    }


def _bytes_per_parameter(report: ExportReport) -> float:
    above = max(report.peak_memory_bytes - _BASE_MEMORY_BYTES, 0)
    return above / report.manifest.target.num_parameters
