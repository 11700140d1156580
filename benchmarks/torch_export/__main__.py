"""The trace of a target by the legacy exporter and by `torch.export`: time, memory, whether the graphs are the same.

    python -m benchmarks.torch_export

Each trace runs in a process of its own, twice: the first time also imports what the exporter needs. Times are of the
processor, which other work does not lengthen much. Models have their shapes only, on torch's meta device. Then both
graphs of the smaller models get the same random weights, go through two recipes and answer the same tokens.
"""

from __future__ import annotations

import collections
import importlib.metadata
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.machine import write_result
from benchmarks.torch_export.refusals import refusals
from benchmarks.torch_export.symbolic_operators import traced_by_torch_export
from dovetail_ort_export.passes.context import PassContext
from dovetail_ort_export.pipeline import apply_recipe
from dovetail_ort_export.recipe import built_in_recipe
from dovetail_ort_export.source.weights import Weights, head_size
from dovetail_ort_export.tracing import target
from dovetail_ort_export.writing.graph_file import save_graph

_TINY: Final = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 256,
    "max_position_embeddings": 128,
}
# The sizes of the published models; a trace does not depend on contexts and rotary bases.
_SMOLLM2: Final = _TINY | {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}
_LLAMA2: Final = _TINY | {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 128,
    "vocab_size": 32000,
}
MODELS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "tiny Llama": ("llama", _TINY),
    "tiny Qwen2, with biases": ("qwen2", _TINY),
    "tiny Qwen3, with norms of heads": ("qwen3", _TINY),
    "SmolLM2-135M": ("llama", _SMOLLM2),
    "LLaMA-2-7B": ("llama", _LLAMA2),
}
COMPARED: Final = tuple(name for name in MODELS if name != "LLaMA-2-7B")
EXPORTERS: Final[dict[str, Callable[[], AbstractContextManager[None]]]] = {
    "legacy": nullcontext,
    "torch.export": traced_by_torch_export,
}
RECIPES: Final = ("fp32", "portable")
PACKAGES: Final = ("torch", "transformers", "onnxscript", "onnx-ir")
NUM_PROCESSES: Final = 3
_ROWS: Final = 5
_CACHE_ROWS: Final = 16


def main() -> None:
    """Measure, and write `torch-export.json`."""
    result = {
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "threads": torch.get_num_threads(),
        "processes": NUM_PROCESSES,
        "traces": {name: {exporter: _in_processes(name, exporter) for exporter in EXPORTERS} for name in MODELS},
        "compared": {name: _compare(name) for name in COMPARED},
        "refusals": refusals(_model("tiny Llama", "meta")),
    }
    write_result("torch-export", result)


def _in_processes(name: str, exporter: str) -> dict[str, Any]:
    """The medians of times over some processes; all other values are those of the last process."""
    print(f"{exporter} traces {name}", file=sys.stderr)
    command = [sys.executable, "-m", "benchmarks.torch_export", name, exporter]
    outputs = [subprocess.run(command, check=True, capture_output=True).stdout for _ in range(NUM_PROCESSES)]
    found: list[dict[str, Any]] = [json.loads(output) for output in outputs]
    medians = {
        key: float(np.median([one[key] for one in found])) for key in ("first_cpu_s", "second_cpu_s", "memory_mb")
    }
    return found[-1] | medians


def trace(name: str, exporter: str) -> None:
    """Trace a model twice and print what it took."""
    model = _model(name, "meta")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(2):
        started = time.process_time()
        skeleton = _traced(model, exporter)
        seconds.append(round(time.process_time() - started, 3))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = {
        "first_cpu_s": seconds[0],
        "second_cpu_s": seconds[1],
        "memory_mb": round((peak - before) / 1024, 1),
        "nodes": _nodes(skeleton),
        "initializers": len(skeleton.graph.initializers),
    }
    print(json.dumps(result))


def _model(name: str, device: str) -> Any:
    family, settings = MODELS[name]
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings)).eval()


def _traced(model: Any, exporter: str) -> ir.Model:
    with warnings.catch_warnings(), EXPORTERS[exporter]():
        warnings.simplefilter("ignore")
        return target.trace_target(model)


def _nodes(graph: ir.Model) -> dict[str, int]:
    counts = collections.Counter(f"{node.domain}::{node.op_type}".removeprefix("::") for node in graph.graph)
    return dict(sorted(counts.items()))


def _compare(name: str) -> dict[str, dict[str, Any]]:
    """By recipe: nodes of both finished graphs, and the largest difference of their logits for the same tokens."""
    print(f"comparing {name}", file=sys.stderr)
    model = _model(name, "cpu")
    weights = Weights(model, max_context=_CACHE_ROWS)
    found = {}
    for recipe in RECIPES:
        graphs = {}
        for exporter in EXPORTERS:
            context = PassContext(weights=weights)
            graphs[exporter] = apply_recipe(_traced(model, exporter), built_in_recipe(recipe), context)
        logits = [_logits(graph, model.config) for graph in graphs.values()]
        found[recipe] = {
            "num_nodes": {exporter: len(graph.graph) for exporter, graph in graphs.items()},
            "largest_difference": float(np.abs(logits[0] - logits[1]).max()),
            "largest_logit": float(np.abs(logits[0]).max()),
        }
    return found


def _logits(graph: ir.Model, config: Any) -> Any:
    """Logits of a few tokens, the graph's first ones."""
    past = np.zeros((1, config.num_key_value_heads, _CACHE_ROWS, head_size(config)), np.float32)
    values = {
        "input_ids": np.arange(7, 7 + _ROWS)[None],
        "position_ids": np.arange(_ROWS)[None],
        "attention_bias": np.zeros((1, 1, _ROWS, _ROWS), np.float32),
        "seqlens_k": np.array([_ROWS - 1], np.int32),
        "total_sequence_length": np.array(_ROWS, np.int32),
        "scored_rows": np.arange(_ROWS),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        save_graph(graph, path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        feeds = {one.name: values.get(one.name, past) for one in session.get_inputs()}
        return session.run(["logits"], feeds)[0]


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    if sys.argv[1:]:
        trace(*sys.argv[1:])
    else:
        main()
