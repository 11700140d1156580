"""Weights of 8 and of 4 bits, in turns: LLaMA-2-7B's products, a target, its drafter.

    python -m benchmarks.four_bits BUNDLE_8 BUNDLE_4 HEAD

A session has so many different weights of a shape that no processor's cache holds them. The bundles are exports of one
source with `--precision int8` and `int4`; both targets are open in one process. HEAD is attached to copies of BUNDLE_8
in both precisions, and drafts chains of four for the first general prompts.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, helper

from benchmarks.machine import write_result
from benchmarks.prompt_sets import GENERAL
from benchmarks.timing import median_ratio, time_turns
from dovetail_ort.suites import load_suite
from dovetail_ort_export.attach import attach_drafter
from dovetail_ort_export.laboratory.graphs import drafter_forwards
from dovetail_ort_runtime import ChainShape, GenerationOptions, SamplingOptions, kernels
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.engine.draft_graph import DraftGraph
from dovetail_ort_runtime.engine.forward_times import target_forwards
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.machine.processor import usable_cores
from dovetail_ort_runtime.model import load_model

# Outputs and inputs of a product.
SHAPES: Final = ((4096, 4096), (11008, 4096), (4096, 11008))
ROWS: Final = (1, 2, 4, 8, 12, 16)
NUM_PAST: Final = 256
DRAFTER_ROWS: Final = (1, 4, 8)
_PRODUCT_TURNS: Final = 9
_FORWARD_TURNS: Final = 60
# The bytes of all weights of a session in 8 bits.
_BYTES: Final = 800_000_000
# By bits: the number of inputs that share a factor, which is also the block of a row.
_GROUPS: Final = {8: 64, 4: 32}
_SLAB: Final = 32
_PROMPTS: Final = 12
_CHAIN: Final = 4


def main(bundle_8: str, bundle_4: str, head: str) -> None:
    """Measure, and write `four-bits.json`."""
    products = {f"{outputs}x{inputs}": _products(outputs, inputs) for outputs, inputs in SHAPES}
    targets = {8: _target(bundle_8), 4: _target(bundle_4)}
    forwards = {bits: target_forwards(target, NUM_PAST) for bits, target in targets.items()}
    found = {
        "threads": usable_cores(),
        "num_past": NUM_PAST,
        "products": products,
        "forwards": {str(rows): _in_turns(_of(forwards, rows), _FORWARD_TURNS, 1) for rows in ROWS},
        "exports": {f"{bits}_bits": _export(path) for bits, path in ((8, bundle_8), (4, bundle_4))},
        "drafters": _drafters(Path(bundle_8), Path(head)),
    }
    write_result("four-bits", found)


def _products(outputs: int, inputs: int) -> dict[str, Any]:
    """By rows: milliseconds of one product of each kind, and of their ratio."""
    count = _BYTES // (outputs * inputs)
    sessions = {bits: _session(bits, outputs, inputs, count) for bits in _GROUPS}
    random = np.random.default_rng(0)
    found = {}
    for rows in ROWS:
        x = random.standard_normal((rows, inputs)).astype(np.float32)
        runs = {bits: partial(session.run, ["y0"], {"x": x}) for bits, session in sessions.items()}
        found[str(rows)] = _in_turns(runs, _PRODUCT_TURNS, count)
    return found


def _session(bits: int, outputs: int, inputs: int, count: int) -> Any:
    """A session on a graph of so many products of one input."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.add_session_config_entry("session.force_spinning_stop", "1")  # or it takes the other session's core
    kernels.register(options)
    model = _model(bits, outputs, inputs, count)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _model(bits: int, outputs: int, inputs: int, count: int) -> ModelProto:
    slabs = outputs // _SLAB
    group = _GROUPS[bits]
    random = np.random.default_rng(bits)
    codes = random.integers(0, 256, (slabs, inputs * bits // 32, _SLAB, 4), dtype=np.uint8)
    parts = () if bits == 8 else (2,)  # a step and a minimum
    factors = random.uniform(0.001, 1, (slabs, inputs // group, *parts, _SLAB)).astype(np.float16)
    scales = np.full(outputs, 0.01, dtype=np.float32)
    constants = [_constant("scales", TensorProto.FLOAT, scales), _constant("factors", TensorProto.FLOAT16, factors)]
    nodes = []
    for number in range(count):
        codes.reshape(-1)[number] ^= 255  # no two weights are the same
        constants.append(_constant(f"codes{number}", TensorProto.UINT8, codes))
        nodes.append(_product(number, inputs, bits, group))
    shape: list[str | int] = ["rows", outputs]
    results = [helper.make_tensor_value_info(f"y{number}", TensorProto.FLOAT, shape) for number in range(count)]
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", inputs])]
    graph = helper.make_graph(nodes, "products", given, results, constants)
    versions = [helper.make_opsetid("", 18), helper.make_opsetid("dovetail.native", 1)]
    return helper.make_model(graph, opset_imports=versions, ir_version=10)


def _constant(name: str, kind: int, values: np.ndarray[Any, Any]) -> TensorProto:
    return helper.make_tensor(name, kind, values.shape, values.tobytes(), raw=True)


def _product(number: int, inputs: int, bits: int, group: int) -> NodeProto:
    names = ["x", f"codes{number}", "scales", "", "factors"]
    node = helper.make_node("Product", names, [f"y{number}"], domain="dovetail.native")
    for name, value in {"inputs": inputs, "bits": bits, "group": group, "block": group}.items():
        node.attribute.append(helper.make_attribute(name, value))
    return node


def _target(path: str) -> Target:
    bundle = Bundle(path)
    entry = bundle.manifest.target
    return Target(bundle.path(entry.graph), entry, max_context=2 * NUM_PAST)


def _export(path: str) -> dict[str, Any]:
    """The size of an export, and its measured distance from the original."""
    bundle = Bundle(path)
    measured = bundle.manifest.measurements
    graph = bundle.manifest.target.graph
    num_bytes = sum(entry.num_bytes for entry in bundle.manifest.files if entry.path.startswith(graph))
    return {"target_bytes": num_bytes, "mean_kl": measured.agreement.mean_kl, "top1": measured.agreement.top1}


def _drafters(bundle: Path, head: Path) -> dict[str, Any]:
    """Forwards of a drafter in turns, and the draft tokens that its target accepted."""
    with tempfile.TemporaryDirectory() as folder:
        copies = {bits: Path(folder) / f"int{bits}" for bits in _GROUPS}
        models = {}
        for bits, copy in copies.items():
            shutil.copytree(bundle, copy)
            attach_drafter(copy, head, f"int{bits}")
            models[bits] = _draft_graph(copy)
        forwards = {bits: drafter_forwards(model, NUM_PAST) for bits, model in models.items()}
        return {
            "forwards": {str(rows): _in_turns(_of(forwards, rows), _FORWARD_TURNS, 1) for rows in DRAFTER_ROWS},
            "accepted": {f"{bits}_bits": _accepted(copy) for bits, copy in copies.items()},
        }


def _draft_graph(path: Path) -> DraftGraph:
    bundle = Bundle(path)
    entry = bundle.manifest.drafter
    assert entry is not None
    return DraftGraph(bundle.path(entry.graph), entry, capacity=2 * NUM_PAST, threads=usable_cores())


def _accepted(bundle: Path) -> dict[str, int]:
    """Draft tokens of chains of a fixed length, greedy answers of up to 128 tokens."""
    options = GenerationOptions(max_new_tokens=128, sampling=SamplingOptions())
    found = {"prompts": 0, "drafted": 0, "accepted": 0}
    with load_model(bundle, drafter="dgf", draft_shape=ChainShape.fixed(_CHAIN)) as model:
        for prompt in load_suite(GENERAL)[:_PROMPTS]:
            model.reset()
            statistics_of_answer = model.generate(prompt.messages, options).statistics
            found["prompts"] += 1
            found["drafted"] += statistics_of_answer.drafted_tokens
            found["accepted"] += statistics_of_answer.accepted_tokens
    return found


def _of(forwards: Mapping[int, Callable[[int], object]], rows: int) -> dict[int, Callable[[], object]]:
    return {bits: partial(run, rows) for bits, run in forwards.items()}


def _in_turns(runs: Mapping[int, Callable[[], object]], turns: int, count: int) -> dict[str, float]:
    """Median milliseconds of one of the `count` things that a run does, and the median of the ratios of the turns."""
    ms = time_turns(runs, turns, unmeasured=1)
    return {
        "8_bits_ms": round(statistics.median(ms[8]) / count, 4),
        "4_bits_ms": round(statistics.median(ms[4]) / count, 4),
        "ratio": round(median_ratio(ms[4], ms[8]), 4),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
