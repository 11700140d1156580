"""What one product costs in either INT8 format at the layer sizes of a 7B model, in turns.

    python layer_costs.py > result.json

Random weights; the row format of this processor with its own quantisation of the input, a constant scale as behind a
norm and the row's own maximum as elsewhere; the block format quantises inside its kernel.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any, Final

import numpy as np
import onnx_ir as ir
import onnxruntime

from benchmarks.machine import measured_here
from dovetail_ort_export.candidates import row_format
from dovetail_ort_export.passes import nodes
from dovetail_ort_export.passes.lower_int8_blocks import LowerInt8Blocks
from dovetail_ort_export.passes.lower_int8_rows import LowerInt8Rows
from dovetail_ort_runtime.environment import usable_cores

SHAPES: Final = ((4096, 4096), (4096, 11008))
ROWS: Final = (1, 2, 4, 8, 16, 64)
ROUNDS: Final = 30
NUM_PRODUCTS: Final = 4  # weights of several layers, so that they come from memory and not from a cache


def main() -> None:
    """Measure every size and print JSON."""
    print(
        json.dumps(
            {
                **measured_here(),
                "threads": usable_cores(),
                "rounds": ROUNDS,
                "row_format": row_format(),
                "layers": {f"{inputs} x {outputs}": _measure(inputs, outputs) for inputs, outputs in SHAPES},
            },
            indent=2,
        )
    )


def _measure(inputs: int, outputs: int) -> dict[str, Any]:
    by_rows = LowerInt8Rows(unsigned_weights=row_format() == "row-unsigned")
    sessions = {
        "block": _session(inputs, outputs, LowerInt8Blocks()),
        "row, constant scale": _session(inputs, outputs, by_rows, largest=5.0),
        "row, own maximum": _session(inputs, outputs, by_rows),
    }
    times: dict[str, dict[int, list[float]]] = {name: {rows: [] for rows in ROWS} for name in sessions}
    for number in range(ROUNDS):
        for rows in ROWS:
            feeds = {
                "x": np.random.default_rng(number).normal(size=(1, rows, inputs)).astype(np.float32),
                "input_ids": np.zeros((1, rows), np.int64),
            }
            for name in list(sessions)[:: 1 if number % 2 else -1]:
                sessions[name].run(None, feeds)
                started = time.perf_counter()
                sessions[name].run(None, feeds)
                times[name][rows].append(1e3 * (time.perf_counter() - started) / NUM_PRODUCTS)
        print(f"\r{inputs} x {outputs}: {number + 1}/{ROUNDS}", end="", file=sys.stderr, flush=True)
    return {
        name: {
            str(rows): {
                "median_ms": round(statistics.median(found), 3),
                "over_block": [
                    round(value, 3)
                    for value in statistics.quantiles(
                        [one / other for one, other in zip(found, times["block"][rows], strict=True)], n=4
                    )
                ],
            }
            for rows, found in by_rows.items()
        }
        for name, by_rows in times.items()
    }


def _session(inputs: int, outputs: int, lower: ir.passes.InPlacePass, largest: float | None = None) -> Any:
    """Products of one norm, each with a weight of its own; one number of each comes out."""
    x, ids = (
        ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        for name, dtype, shape in (
            ("x", ir.DataType.FLOAT, [1, "S", inputs]),
            ("input_ids", ir.DataType.INT64, [1, "S"]),
        )
    )
    graph = ir.Graph([x, ids], [], nodes=[], opset_imports={"": 18, "com.microsoft": 1}, name="layer")
    model = ir.Model(graph, ir_version=10)
    random = np.random.default_rng(0)
    gamma = nodes.initializer(model, "gamma", ir.tensor(np.ones(inputs, np.float32), name="gamma"))
    if largest is not None:
        gamma.meta[nodes.LARGEST_OUTPUT] = largest
    last = nodes.initializer(model, "last", ir.tensor(np.array([outputs - 1]), name="last"))
    for index in range(NUM_PRODUCTS):
        # A norm each, so that no quantised input is shared.
        norm = ir.node("SimplifiedLayerNormalization", [x, gamma], {"epsilon": 1e-5, "axis": -1})
        name = f"weight_{index}"
        weight = random.normal(size=(outputs, inputs)).astype(np.float32)
        value = nodes.initializer(model, name, ir.tensor(weight, name=name))
        product = ir.node("Linear", [norm.outputs[0], value], domain="dovetail")
        gather = ir.node("Gather", [product.outputs[0], last], {"axis": 2})
        nodes.label([norm, product, gather], f"product_{index}")
        gather.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        graph.extend([norm, product, gather])
        graph.outputs.append(gather.outputs[0])
    lowered = lower(model).model
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(
        ir.to_proto(lowered).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


if __name__ == "__main__":
    main()
