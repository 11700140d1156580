"""What it would save to draft a chain in one session call, by the drafter's graph as often in one as there are steps.

    python unrolled_drafting.py BUNDLE > result.json

The chain itself stays what it is, token by token and bit by bit, which is checked. Each step's attention writes the one
cache in place, for its past and its present are bound to the same buffer as the first's.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from benchmarks.machine import measured_here
from dovetail_ort_export.laboratory.subjects import attached_drafter
from dovetail_ort_export.passes import nodes
from dovetail_ort_runtime.bundle import Bundle
from dovetail_ort_runtime.draft_model import DraftModel
from dovetail_ort_runtime.draft_shape import ChainShape
from dovetail_ort_runtime.environment import usable_cores
from dovetail_ort_runtime.feature_drafter import FeatureDrafter
from dovetail_ort_runtime.pass_times import target_passes, time_in_turns
from dovetail_ort_runtime.session import open_session
from dovetail_ort_runtime.target import Target

STEPS: Final = (2, 4, 8)
NUM_PAST: Final = 256
NUM_UNREAD: Final = 2
ROUNDS: Final = 300
NEXT_TOKEN: Final = 42

# Ids and the logarithms of their probabilities.
Chain = tuple[list[int], list[float]]


def main(path: str) -> None:
    """Measure every number of steps and print JSON."""
    bundle = Bundle(path)
    calls = ChainByCalls(bundle)
    entry = bundle.manifest.target
    target = Target(bundle.path(entry.graph), entry, max_context=NUM_PAST + max(STEPS) + 2, threads=usable_cores())
    verify = target_passes(target, NUM_PAST)
    with tempfile.TemporaryDirectory() as folder:
        unrolled = {steps: UnrolledChain(calls, steps, Path(folder)) for steps in STEPS}
        for steps in STEPS:
            if calls.draft(steps) != unrolled[steps].draft():
                raise SystemExit(f"the unrolled chain of {steps} steps must be the chain, got another")
        times = time_in_turns(
            {
                "calls": calls.draft,
                "unrolled": lambda steps: unrolled[steps].draft(),
                "verify": lambda steps: verify(steps + 1),
            },
            ROUNDS,
            rows=STEPS,
        )
    result = {
        **measured_here(),
        "threads": usable_cores(),
        "num_past": NUM_PAST,
        "rounds": ROUNDS,
        "steps": {str(steps): _compare(*(times[name][steps] for name in times)) for steps in STEPS},
    }
    print(json.dumps(result, indent=2))


def _compare(calls: list[float], unrolled: list[float], verify: list[float]) -> dict[str, Any]:
    ratios = [one / other for one, other in zip(unrolled, calls, strict=True)]
    saved = [(b - a) / (b + c) for a, b, c in zip(unrolled, calls, verify, strict=True)]
    return {
        "calls_ms": round(statistics.median(calls), 4),
        "unrolled_ms": round(statistics.median(unrolled), 4),
        "unrolled_over_calls": [round(value, 3) for value in statistics.quantiles(ratios, n=4)],
        "verify_ms": round(statistics.median(verify), 3),
        "share_of_a_round_saved": [round(value, 4) for value in statistics.quantiles(saved, n=4)],
    }


class ChainByCalls:
    """The drafter as the runtime uses it, behind kept tokens, the last of which it has not read."""

    def __init__(self, bundle: Bundle) -> None:
        entry = attached_drafter(bundle)
        self.graph = bundle.path(entry.graph)
        self.model = DraftModel(self.graph, entry, capacity=NUM_PAST + NUM_UNREAD + max(STEPS), threads=usable_cores())
        self.drafter = FeatureDrafter(self.model)
        random = np.random.default_rng(0)
        self.token_ids = random.integers(0, bundle.manifest.target.vocabulary_size, NUM_PAST + NUM_UNREAD)
        self.states = random.normal(size=(len(self.token_ids), entry.hidden_size)).astype(np.float32)
        self.drafter.observe(self.token_ids, self.states)
        self.drafter.draft(NEXT_TOKEN, 1, ChainShape.fixed(1))

    def draft(self, steps: int) -> Chain:
        """Read what is not read, and draft."""
        self.drafter.rewind(NUM_PAST)
        self.drafter.observe(self.token_ids[NUM_PAST:], self.states[NUM_PAST:])
        chain = self.drafter.draft(NEXT_TOKEN, steps, ChainShape.fixed(steps))
        return chain.token_ids.tolist(), list(chain.confidences)


class UnrolledChain:
    """The same chain by one call of one graph, in the same cache."""

    def __init__(self, calls: ChainByCalls, steps: int, folder: Path) -> None:
        self._session = open_session(unroll(calls.graph, steps, folder / f"{steps}.onnx"), usable_cores())
        start, end = NUM_PAST - 1, len(calls.token_ids)  # a rewind drops the last kept token's row
        self._states = calls.states[start:]
        self._following = np.array([*calls.token_ids[start + 1 :], NEXT_TOKEN])
        rows = end - start
        self._inputs: dict[str, NDArray[Any]] = {
            "hidden_states": np.empty((1, rows, calls.model.hidden_size), np.float32),
            "input_ids": np.empty((1, rows), np.int64),
            "position_ids": np.arange(start, end)[None],
            "attention_bias": np.zeros((1, 1, rows, end), np.float32),
            "seqlens_k": np.array([end - 1], np.int32),
            "total_sequence_length": np.array(end, np.int32),
            "scored_rows": np.array([rows - 1]),
            "num_candidates": np.array([1]),
        }
        self._ids = [np.empty((1, 1, 1), np.int64) for _ in range(steps)]
        self._log_probabilities = [np.empty((1, 1, 1), np.float32) for _ in range(steps)]
        cache = {
            f"{number // 2}.{('key', 'value')[number % 2]}": buffer
            for number, buffer in enumerate(calls.model.cache.buffers)
        }
        bound: dict[str, NDArray[Any]] = {f"past_key_values.{part}": buffer for part, buffer in cache.items()}
        for step in range(steps):
            end_of_name = f".{step}" if step else ""
            bound[f"candidate_ids{end_of_name}"] = self._ids[step]
            bound[f"candidate_log_probabilities{end_of_name}"] = self._log_probabilities[step]
            bound |= {f"present.{part}{end_of_name}": buffer for part, buffer in cache.items()}
        self._binding: Any = self._session.io_binding()
        for value in self._session.get_inputs():
            self._binding.bind_ortvalue_input(value.name, _ort_value((self._inputs | bound)[value.name]))
        for value in self._session.get_outputs():
            if value.name in bound:
                self._binding.bind_ortvalue_output(value.name, _ort_value(bound[value.name]))

    def draft(self) -> Chain:
        """Read what is not read, and draft."""
        self._inputs["hidden_states"][0] = self._states
        self._inputs["input_ids"][0] = self._following
        self._session.run_with_iobinding(self._binding)
        probability, confidences = 1.0, []
        for found in self._log_probabilities:
            probability *= math.exp(found[0, 0, 0])
            confidences.append(probability)
        return [int(found[0, 0, 0]) for found in self._ids], confidences


def _ort_value(array: NDArray[Any]) -> Any:
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def unroll(graph: Path, steps: int, out: Path) -> Path:
    """Write a drafter's graph with further steps behind it, one row each; their outputs' names end in the step."""
    model = ir.load(graph)
    inputs = {value.name: value for value in model.graph.inputs}
    outputs = {value.name: value for value in model.graph.outputs}
    first = tuple(model.graph)
    (scored,) = (node for node, _ in inputs["scored_rows"].uses())
    best = nodes.constant(model, "unrolled.best", np.array(0))
    one = nodes.constant(model, "unrolled.one", np.array(1))
    one_slot = nodes.constant(model, "unrolled.one_slot", np.array(1, np.int32))
    position = ir.node("Gather", [inputs["position_ids"], inputs["scored_rows"]], {"axis": 1})
    nodes.label([position], "unrolled/position")
    model.graph.append(position)
    state, before = scored.outputs[0], dict(outputs)
    last: dict[str, ir.Value] = {
        "position_ids": position.outputs[0],
        "seqlens_k": inputs["seqlens_k"],
        "total_sequence_length": inputs["total_sequence_length"],
    }
    for step in range(1, steps):
        new = [ir.node("Gather", [before["candidate_ids"], best], {"axis": 2})]
        new += [ir.node("Add", [value, one if name == "position_ids" else one_slot]) for name, value in last.items()]
        for node, name in zip(new, ("input_ids", *last), strict=True):
            nodes.label([node], f"unrolled/{name}.{step}")
        model.graph.extend(new)
        last = {name: node.outputs[0] for name, node in zip(last, new[1:], strict=True)}
        replaced: dict[ir.Value, ir.Value | None] = {inputs[name]: value for name, value in last.items()}
        replaced |= {inputs["hidden_states"]: state, inputs["input_ids"]: new[0].outputs[0]}
        replaced |= {inputs["attention_bias"]: None}  # a chain sees all that is before it
        for name, value in inputs.items():
            if name.startswith("past_key_values."):
                replaced[value] = before[name.replace("past_key_values", "present")]
        for node in first:
            if node is scored:  # there is one row
                replaced[node.outputs[0]] = replaced[node.inputs[0]]
                continue
            model.graph.append(_copy(node, replaced, step))
        before = {name: replaced[value] for name, value in outputs.items()}
        state = before.pop("predicted_states")
        model.graph.outputs.extend(before.values())
    ir.save(model, out, external_data=f"{out.name}_data")
    return out


def _copy(node: ir.Node, replaced: dict[ir.Value, ir.Value | None], step: int) -> ir.Node:
    copy = ir.Node(
        node.domain,
        node.op_type,
        [replaced.get(value, value) for value in node.inputs],
        node.attributes.values(),
        num_outputs=len(node.outputs),
        name=f"{node.name}.{step}",
    )
    for value, new in zip(node.outputs, copy.outputs, strict=True):
        new.name, new.type, new.shape = value.name and f"{value.name}.{step}", value.type, value.shape
        replaced[value] = new
    return copy


if __name__ == "__main__":
    main(*sys.argv[1:])
