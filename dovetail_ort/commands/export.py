"""`dovetail-ort export`: a model in, a checked bundle out."""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dovetail_ort.cli.arguments import add_json, layers_or_auto
from dovetail_ort.cli.bundle_lines import measurement_lines, number_format, page
from dovetail_ort.cli.export_extra import Progress, export_packages
from dovetail_ort.cli.terminal import quoted, tell
from dovetail_ort_export.options import FORMATS, PRECISIONS, ExportOptions
from dovetail_ort_runtime.bundle.formats import KV_CACHES
from dovetail_ort_runtime.checks import parse_bytes

if TYPE_CHECKING:
    from dovetail_ort_export.exporter import ExportReport

_DEFAULTS: Final = ExportOptions()
# What torch, transformers and Python take before a model is loaded.
_BASE_MEMORY_BYTES: Final = 1_500_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  dovetail-ort export SmolLM2-135M-Instruct.Q4_1.gguf smollm2\n"
        "  dovetail-ort export HuggingFaceTB/SmolLM2-135M-Instruct smollm2 --max-context 4096 --force"
    )
    parser.add_argument(
        "source", metavar="SOURCE", help="a Hugging Face directory, a hub name as owner/name[@revision], or a GGUF file"
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="directory of the bundle; it appears only after success")
    _add_recipe(parser)
    parser.add_argument(
        "--max-context",
        type=int,
        metavar="N",
        help="largest number of tokens of prompt and answer together (default: the model's maximum)",
    )
    _add_ignored(parser)
    parser.add_argument(
        "--check-text",
        type=Path,
        metavar="FILE",
        help="UTF-8 text on which bundle and model are compared (default: a built-in page)",
    )
    _add_gpu(parser)
    parser.add_argument("--force", action="store_true", help="replace a bundle that is already at OUT")
    add_json(parser)


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    """Add what decides which graph passes make the graph."""
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=PRECISIONS[0],
        help="number format of the weights (default: %(default)s)",
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default=_DEFAULTS.format,
        help="operators of the graph: native are this package's own, portable those of a stock ONNX Runtime, both "
        "writes both graphs into one bundle. auto is native where its library is installed (default: %(default)s)",
    )
    parser.add_argument(
        "--kv-cache",
        choices=KV_CACHES,
        default=_DEFAULTS.kv_cache,
        help="number format of a native target's keys and values. fp32 is also used where fp16 is too small for them "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--recipe",
        dest="recipes",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="TOML file with the list of graph passes, instead of --precision, --format and --kv-cache. Give it twice "
        "for a native and a portable graph in one bundle",
    )


def _add_gpu(parser: argparse.ArgumentParser) -> None:
    """Add which blocks get a graph of their own for a GPU."""
    parser.add_argument(
        "--gpu-layers",
        type=layers_or_auto,
        metavar="N",
        default=_DEFAULTS.gpu_layers,
        help="put the embedding and the first N blocks into a graph of their own in fp16, for a GPU. auto takes as "
        "many as fit into --vram-limit (default: %(default)s)",
    )
    parser.add_argument(
        "--vram-limit",
        metavar="SIZE",
        help="GPU memory that --gpu-layers auto may use, such as 6GB; leave some for the drafter",
    )


def _add_ignored(parser: argparse.ArgumentParser) -> None:
    ignored = parser.add_argument_group(
        "unknown parts of the source", "Export refuses what it does not know, unless it is named here."
    )
    ignored.add_argument(
        "--ignore-setting",
        dest="ignore_settings",
        action="append",
        default=[],
        metavar="KEY",
        help="ignore a key of config.json that does not change what the model computes. May be given several times",
    )
    ignored.add_argument(
        "--ignore-weights",
        action="append",
        default=[],
        metavar="PATTERN",
        help="ignore tensors that the model does not need, such as 'vision_tower.*'. May be given several times",
    )


def run(arguments: argparse.Namespace) -> int:
    given = {field.name: getattr(arguments, field.name) for field in fields(ExportOptions)}
    lists = {name: tuple(given[name]) for name in ("recipes", "ignore_settings", "ignore_weights")}
    limit = None if arguments.vram_limit is None else parse_bytes(arguments.vram_limit)
    options = ExportOptions(**{**given, **lists, "vram_limit": limit})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with export_packages("exporter"):
            from dovetail_ort_export.exporter import export_bundle

        report = export_bundle(arguments.source, arguments.out, options, Progress())
    print(json.dumps(_as_json(report), indent=2) if arguments.json else _summary(report))
    if not report.manifest.target.exact:
        tell(
            f"WARNING: {report.directory} is NOT exact on this machine: a token's logits depend on the other rows of "
            "its forward, so answers with speculation can differ from those without; run: dovetail-ort doctor"
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
        "next": f'dovetail-ort generate {quoted(report.directory)} "Why is the sky blue?"',
    }
    return page(lines)


def _as_json(report: ExportReport) -> dict[str, Any]:
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
