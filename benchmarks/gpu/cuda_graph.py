"""Forwards of a drafter over 1 and 8 rows, with all inputs and outputs on the GPU; JSON on standard output.

    python -m benchmarks.gpu.cuda_graph BUNDLE --rounds 200

Nothing is copied to or from the CPU, so only the forward itself is timed: as it runs now, and captured as a CUDA graph,
which is one launch. The difference, times the forwards of a round, is the most that a captured graph can gain.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.timing import time_rounds
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.graph_entries import DrafterEntry
from dovetail_ort_runtime.bundle.graph_names import KEY, VALUE, past, present
from dovetail_ort_runtime.engine.devices import CUDA_PROVIDER, require_cuda

CONTEXT: Final = 256
_CAPACITY: Final = 1024
# Inputs that are read on the CPU.
_ON_CPU: Final = ("total_sequence_length", "num_candidates")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("--rounds", type=int, required=True)
    given = parser.parse_args()
    require_cuda()
    bundle = Bundle(given.bundle)
    entry = bundle.manifest.drafter
    assert entry is not None
    assert entry.chain_graph is not None, "a drafter in fp16 has one"
    graph = bundle.path(entry.graph).with_name(entry.chain_graph)
    found = {
        "1 row": _time(graph, entry, 1, given.rounds),
        "8 rows": _time(graph, entry, 8, given.rounds),
        "1 row, captured": _time(graph, entry, 1, given.rounds, captured=True),
    }
    print(json.dumps(found, indent=1))


def _time(graph: Path, entry: DrafterEntry, rows: int, rounds: int, *, captured: bool = False) -> dict[str, Any]:
    """Milliseconds, or the reason why there are none."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    provider = (CUDA_PROVIDER, {"enable_cuda_graph": "1" if captured else "0"})
    try:
        session = onnxruntime.InferenceSession(str(graph), options, providers=[provider, "CPUExecutionProvider"])
        binding = _bound(session, entry, rows)
        return time_rounds(partial(session.run_with_iobinding, binding), rounds)
    except Exception as error:  # onnxruntime raises its own classes straight from C++; a refusal is a result
        return {"error": " ".join(str(error).split())[:400]}


def _bound(session: Any, entry: DrafterEntry, rows: int) -> Any:
    binding = session.io_binding()
    for name, array in _inputs(entry, rows).items():
        device = "cpu" if name in _ON_CPU else "cuda"
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array, device))
    cache = np.zeros((1, entry.num_kv_heads, _CAPACITY, entry.head_size), np.float16)
    for layer in range(entry.num_layers):
        for part in (KEY, VALUE):
            value = onnxruntime.OrtValue.ortvalue_from_numpy(cache, "cuda")
            binding.bind_ortvalue_input(past(layer, part), value)
            binding.bind_ortvalue_output(present(layer, part), value)
    for name, array in _outputs(entry).items():
        binding.bind_ortvalue_output(name, onnxruntime.OrtValue.ortvalue_from_numpy(array, "cuda"))
    return binding


def _inputs(entry: DrafterEntry, rows: int) -> dict[str, NDArray[Any]]:
    total = CONTEXT + rows
    return {
        "hidden_states": np.zeros((1, rows, entry.hidden_size), np.float32),
        "input_ids": np.zeros((1, rows), np.int64),
        "position_ids": np.arange(CONTEXT, total)[None],
        "scored_rows": np.array([rows - 1]),
        "seqlens_k": np.array([total - 1], np.int32),
        "total_sequence_length": np.array(total, np.int32),
        "num_candidates": np.array([1]),
    }


def _outputs(entry: DrafterEntry) -> dict[str, NDArray[Any]]:
    return {
        "predicted_states": np.zeros((1, 1, entry.hidden_size), np.float32),
        "candidate_ids": np.zeros((1, 1, 1), np.int64),
        "candidate_log_probabilities": np.zeros((1, 1, 1), np.float32),
    }


if __name__ == "__main__":
    main()
