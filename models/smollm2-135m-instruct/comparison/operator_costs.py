"""What the operators of a target cost in a pass: their nodes run twice, in turns with the graph as it is.

    python operator_costs.py BUNDLE... > result.json

Under ONNX Runtime's profiler kernels of microseconds take about as long again, so that their sum exceeds the pass that
`dovetail-ort graph profile` measures without it. Here nothing observes: a copy of the graph, as ONNX Runtime optimised
it, has every node of a type twice, and what its passes take longer is what these nodes cost, with all that the runtime
does around a kernel. What is left of a pass when attention and the others are taken away is the products' time.
A repeated product finds its weights in the processor's caches, the head's 28 MB perhaps not: if it costs as much again
as the first time, its kernel's arithmetic bounds it, and if it costs little, memory does.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir
import onnxruntime

from benchmarks.machine import measured_here
from dovetail_ort_export.laboratory.node_costs import NodeBytes
from dovetail_ort_export.laboratory.profile import measured_read_bandwidth
from dovetail_ort_runtime.bundle import Bundle
from dovetail_ort_runtime.environment import usable_cores
from dovetail_ort_runtime.manifest import TargetEntry
from dovetail_ort_runtime.pass_times import RunPass, time_in_turns
from dovetail_ort_runtime.process_memory import huge_pages

ROWS: Final = (1, 2, 6)
NUM_PAST: Final = 256
ROUNDS: Final = 100
PRODUCTS: Final = frozenset({"MatMulNBits", "MatMulIntegerToFloat"})
ATTENTION: Final = frozenset({"GroupQueryAttention"})
OTHERS: Final = "neither product nor attention"
AGAIN: Final = ".again"


def main(*bundles: str) -> None:
    """Measure every bundle's target and print JSON."""
    bandwidth = measured_read_bandwidth(usable_cores())
    result = {
        **measured_here(),
        "threads": usable_cores(),
        "num_past": NUM_PAST,
        "rounds": ROUNDS,
        "read_bandwidth": bandwidth,
        "graphs": {Path(bundle).name: measure(Bundle(bundle), bandwidth) for bundle in bundles},
    }
    print(json.dumps(result, indent=2))


def measure(bundle: Bundle, bandwidth: float) -> dict[str, Any]:
    """By number of rows: a pass, and what each type of operator costs; types of fewer nodes than blocks only in sum."""
    entry = bundle.manifest.target
    with tempfile.TemporaryDirectory() as folder:
        graph = optimised(bundle.path(entry.graph), Path(folder))
        nodes = {str(node.name): node.op_type for node in ir.load(graph).graph}
        counts = Counter(nodes.values())
        groups = {OTHERS: frozenset(counts) - PRODUCTS - ATTENTION}
        groups |= {name: frozenset({name}) for name, count in counts.most_common() if count >= entry.num_layers - 1}
        once = open_passes(graph, entry)
        read = NodeBytes(graph, 2 * entry.num_kv_heads * entry.head_size * np.dtype(np.float32).itemsize)
        parts: dict[int, dict[str, Any]] = {rows: {} for rows in ROWS}
        passes: dict[int, list[float]] = {rows: [] for rows in ROWS}
        for name, types in groups.items():
            print(f"{bundle.directory.name}: {name}", file=sys.stderr, flush=True)
            twice = open_passes(repeat(graph, types, Path(folder) / "twice.onnx"), entry)
            times = time_in_turns({"once": once, "twice": twice}, ROUNDS, rows=ROWS)
            for rows in ROWS:
                passes[rows] += times["once"][rows]
                parts[rows][name] = {
                    "nodes": sum(counts[kind] for kind in types),
                    "bytes_read": sum(
                        read.read_by(node, rows, NUM_PAST) for node, kind in nodes.items() if kind in types
                    ),
                    "share": _shares(times["once"][rows], times["twice"][rows]),
                }
    return {str(rows): _summary(statistics.median(passes[rows]), parts[rows], bandwidth) for rows in ROWS}


def _shares(once: list[float], twice: list[float]) -> list[float]:
    """Quartiles of what the repeated nodes take, as a share of a pass."""
    return [
        round(value, 4) for value in statistics.quantiles((b / a - 1 for a, b in zip(once, twice, strict=True)), n=4)
    ]


def _summary(pass_ms: float, parts: dict[str, Any], bandwidth: float) -> dict[str, Any]:
    products = PRODUCTS & parts.keys()
    share = 1 - sum(parts[name]["share"][1] for name in (OTHERS, *ATTENTION))
    rate = sum(parts[name]["bytes_read"] for name in products) / (share * pass_ms) * 1e3
    return {
        "pass_ms": round(pass_ms, 3),
        "products": {
            "share": round(share, 4),
            "share_again": round(sum(parts[name]["share"][1] for name in products), 4),
            "bytes_per_second": round(rate),
            "share_of_read_bandwidth": round(rate / bandwidth, 3),
        },
        "parts": parts,
    }


def optimised(graph: Path, folder: Path) -> Path:
    """The graph that ONNX Runtime makes of a bundle's graph before it runs it, its weights beside it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimised.data")
    onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    return folder / "optimised.onnx"


def repeat(graph: Path, types: Collection[str], out: Path) -> Path:
    """Write the graph with each node of these types twice; attention writes the same keys and values again."""
    model = ir.load(graph)
    for node in tuple(model.graph):
        if node.op_type not in types:
            continue
        again = ir.Node(
            node.domain,
            node.op_type,
            node.inputs,
            node.attributes.values(),
            num_outputs=len(node.outputs),
            name=f"{node.name}{AGAIN}",
        )
        for value, copy in zip(node.outputs, again.outputs, strict=True):
            copy.name = value.name and f"{value.name}{AGAIN}"
            if value.name and value.name.startswith("present."):
                copy.type, copy.shape = value.type, value.shape
                model.graph.outputs.append(copy)
        model.graph.insert_after(node, again)
    ir.save(model, out)
    return out


def open_passes(graph: Path, entry: TargetEntry) -> RunPass:
    """What runs passes of so many rows over an optimised graph, with the runtime's settings and a bound cache."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = usable_cores()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.force_spinning_stop", "1")
    with huge_pages():
        session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    shape = (1, entry.num_kv_heads, NUM_PAST + max(ROWS), entry.head_size)
    cache = {
        value.name.removeprefix("past_key_values."): onnxruntime.OrtValue.ortvalue_from_numpy(
            random.normal(size=shape).astype(np.float32)
        )
        for value in session.get_inputs()
        if value.name.startswith("past_key_values.")
    }
    bindings = {rows: _binding(session, cache, rows) for rows in ROWS}
    return lambda rows: session.run_with_iobinding(bindings[rows])


def _binding(session: Any, cache: dict[str, Any], rows: int) -> Any:
    total = NUM_PAST + rows
    inputs = {
        "input_ids": np.arange(rows)[None],
        "position_ids": np.arange(NUM_PAST, total)[None],
        "attention_bias": np.zeros((1, 1, rows, total), np.float32),
        "seqlens_k": np.array([total - 1], np.int32),
        "total_sequence_length": np.array(total, np.int32),
        "scored_rows": np.arange(rows),
    }
    binding = session.io_binding()
    for value in session.get_inputs():
        part = value.name.removeprefix("past_key_values.")
        binding.bind_ortvalue_input(
            value.name, cache.get(part) or onnxruntime.OrtValue.ortvalue_from_numpy(inputs[value.name])
        )
    for value in session.get_outputs():
        part = value.name.removesuffix(AGAIN).removeprefix("present.")
        if part in cache:
            binding.bind_ortvalue_output(value.name, cache[part])
        else:
            binding.bind_output(value.name)
    return binding


if __name__ == "__main__":
    main(*sys.argv[1:])
