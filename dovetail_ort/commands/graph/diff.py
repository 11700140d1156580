"""`dovetail-ort graph diff`: how two graphs differ."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dovetail_ort.cli.arguments import add_graph_choice, add_json
from dovetail_ort.cli.export_extra import export_packages

if TYPE_CHECKING:
    from dovetail_ort_export.laboratory.diff import GraphDifference

_SHOWN: Final = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example:\n  dovetail-ort graph diff smollm2 smollm2-capped"
    for name in ("A", "B"):
        parser.add_argument(name.lower(), metavar=name, type=Path, help="a bundle, or an ONNX file")
    add_graph_choice(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    with export_packages("comparison", with_torch=False):
        from dovetail_ort_export.laboratory.diff import compare_graphs
        from dovetail_ort_export.laboratory.graphs import graph_path

    difference = compare_graphs(graph_path(arguments.a, arguments.graph), graph_path(arguments.b, arguments.graph))
    print(json.dumps(dataclasses.asdict(difference), indent=2) if arguments.json else "\n".join(_lines(difference)))
    return 0


def _lines(difference: GraphDifference) -> Iterator[str]:
    first = difference.first
    second = difference.second
    names = sorted({*first.num_nodes, *second.num_nodes})
    rows = [(name, first.num_nodes.get(name, 0), second.num_nodes.get(name, 0)) for name in names]
    rows += [
        ("nodes", sum(first.num_nodes.values()), sum(second.num_nodes.values())),
        ("initializers", first.num_initializers, second.num_initializers),
        ("bytes of initializers", first.initializer_bytes, second.initializer_bytes),
    ]
    width = max(len(name) for name, _, _ in rows)
    yield f"{'':<{width}} {'A':>13} {'B':>13}"
    for name, one, other in rows:
        change = f"{other - one:+,}" if other != one else ""
        yield f"{name:<{width}} {one:>13,} {other:>13,} {change:>13}".rstrip()
    for sign, weights in (("-", difference.removed), ("+", difference.added), ("changed", difference.changed)):
        yield from (f"{sign} {name}, {size:,} bytes" for name, size in list(weights.items())[:_SHOWN])
        if len(weights) > _SHOWN:
            yield f"{sign} {len(weights) - _SHOWN} more; --json names them"
    for kind, values in (("input", difference.inputs), ("output", difference.outputs)):
        yield from (f"{value[0]} graph {kind} {value[1:]}" for value in values)
