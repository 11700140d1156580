"""What docs/torch-export.md says holds: `torch.export` gives the skeleton of the legacy exporter."""

from __future__ import annotations

import collections
import warnings

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.torch_export.symbolic_operators import traced_by_torch_export
from dovetail_ort_export.tracing.target import trace_target

CONSTANTS = {"Constant", "Weight"}  # one exporter writes them once for each use


def skeleton(family):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "vocab_size": 64, "head_dim": 8}
    counts = {"num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes, **counts)).eval()


def contents(graph):
    kinds = collections.Counter(node.op_type for node in graph.graph if node.op_type not in CONSTANTS)
    weights = {node.attributes["name"].as_string() for node in graph.graph if node.op_type == "Weight"}
    ends = [(value.name, str(value.shape), value.dtype) for value in (*graph.graph.inputs, *graph.graph.outputs)]
    return kinds, weights, ends


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_torch_export_gives_the_operators_weights_and_shapes_of_the_legacy_exporter(family):
    model = skeleton(family)
    legacy = trace_target(model)
    with warnings.catch_warnings(), traced_by_torch_export():
        warnings.simplefilter("ignore")
        successor = trace_target(model)
    assert contents(successor) == contents(legacy)
