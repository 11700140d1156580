"""Small native graphs of random packed weights, written by onnx without the exporter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

from dovetail_ort_runtime.bundle.graph_entries import DrafterEntry, TargetEntry
from dovetail_ort_runtime.kernels import OPERATOR_DOMAIN, OPERATOR_VERSION

NUM_LAYERS, NUM_HEADS, NUM_KV_HEADS, HEAD_SIZE = 2, 4, 2, 16
HIDDEN_SIZE, INTERMEDIATE_SIZE, VOCABULARY_SIZE, MAX_CONTEXT = 64, 96, 384, 512
CACHE_TYPES = {"fp16": TensorProto.FLOAT16, "fp32": TensorProto.FLOAT}
PACKED = {"bits": 8, "group": 64}


class NativeGraph:
    """A graph as it is put together."""

    def __init__(self, cache: str, seed: int) -> None:
        self.cache = CACHE_TYPES[cache]
        self.random = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.opset_version = OPERATOR_VERSION

    def add(self, operator: str, read: list[str], given: list[str], domain: str = OPERATOR_DOMAIN, **attributes):
        """A node; its first output."""
        self.nodes.append(onnx_node(operator, read, given, domain, attributes))
        return given[0]

    def weight(self, name: str, array: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def norm_weight(self, name: str, size: int = HIDDEN_SIZE) -> str:
        return self.weight(name, self.random.uniform(0.5, 1.5, size).astype(np.float32))

    def packed(self, name: str, num_outputs: int, num_inputs: int) -> list[str]:
        """Codes, scales and factors; codes that only fill up are 128, factors 1."""
        codes = np.full((-(-num_outputs // 32) * 32, -(-num_inputs // 64) * 64), 128, dtype=np.uint8)
        codes[:num_outputs, :num_inputs] = self.random.integers(1, 256, (num_outputs, num_inputs))
        slabs = codes.reshape(-1, 32, codes.shape[1] // 4, 4).transpose(0, 2, 1, 3)
        scales = self.random.uniform(0.5, 1.5, num_outputs).astype(np.float32) / np.float32(64 * num_inputs**0.5)
        factors = np.ones((len(codes), codes.shape[1] // 64), np.float16)
        factors[:num_outputs] = self.random.uniform(0.5, 1, (num_outputs, factors.shape[1]))
        return [
            self.weight(f"{name}.codes", np.ascontiguousarray(slabs)),
            self.weight(f"{name}.scales", scales),
            self.weight(
                f"{name}.factors", np.ascontiguousarray(factors.reshape(-1, 32, factors.shape[1]).swapaxes(1, 2))
            ),
        ]

    def input(self, name: str, shape: list[Any], data_type: int = TensorProto.INT64) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, data_type, shape))
        return name

    def output(self, name: str, shape: list[Any], data_type: int = TensorProto.FLOAT) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, data_type, shape))

    def read_rows(self) -> None:
        self.input("position_ids", [1, "S"])
        for name, shape in {
            "lengths": ["B"],
            "sequence_ids": ["S"],
            "slots": ["S"],
            "ancestors": ["S", "A"],
            "scored_rows": ["n"],
        }.items():
            self.input(name, shape)
        angles = np.arange(MAX_CONTEXT)[:, None] / 1e4 ** (np.arange(HEAD_SIZE // 2) / (HEAD_SIZE // 2))
        self.weight("rotary.cos", np.cos(angles).astype(np.float32))
        self.weight("rotary.sin", np.sin(angles).astype(np.float32))

    def block(self, layer: int, x: str, skip: str) -> tuple[str, str]:
        """A decoder block on x + skip; again two parts of a sum."""
        name = f"block.{layer}"
        width = (NUM_HEADS + 2 * NUM_KV_HEADS) * HEAD_SIZE
        first = self.norm_weight(f"{name}.first_norm")
        *qkv, factors = self.packed(f"{name}.qkv", width, HIDDEN_SIZE)
        attributes = {"inputs": HIDDEN_SIZE, "block": 64, "epsilon": 1e-5, **PACKED}
        total = f"{name}.input"
        self.add("NormProduct", [x, first, *qkv, "", skip, factors], [f"{name}.qkv", total], **attributes)
        context = self.attention(layer, f"{name}.qkv")
        *o, factors = self.packed(f"{name}.o", HIDDEN_SIZE, NUM_HEADS * HEAD_SIZE)
        width = {"inputs": NUM_HEADS * HEAD_SIZE, "block": 64, **PACKED}
        attended = self.add("Product", [context, *o, "", factors], [f"{name}.o"], **width)
        second = self.norm_weight(f"{name}.second_norm")
        *gate_up, factors = self.packed(f"{name}.gate_up", 2 * INTERMEDIATE_SIZE, HIDDEN_SIZE)
        middle = f"{name}.middle"
        inputs = [attended, second, *gate_up, "", total, factors]
        self.add("NormProduct", inputs, [f"{name}.gate_up", middle], **attributes)
        *down, factors = self.packed(f"{name}.down", HIDDEN_SIZE, INTERMEDIATE_SIZE)
        attributes = {"inputs": INTERMEDIATE_SIZE, "block": 64, "activation": "silu", **PACKED}
        return self.add("GatedProduct", [f"{name}.gate_up", *down, "", factors], [f"{name}.down"], **attributes), middle

    def attention(self, layer: int, qkv: str) -> str:
        shapes = {
            "key": ["B", NUM_KV_HEADS, "M / 64", HEAD_SIZE, 64],
            "value": ["B", NUM_KV_HEADS, "M", HEAD_SIZE],
        }
        past = [self.input(f"past_key_values.{layer}.{part}", shape, self.cache) for part, shape in shapes.items()]
        present = [f"present.{layer}.{part}" for part in shapes]
        for name, shape in zip(present, shapes.values(), strict=True):
            self.output(name, shape, self.cache)
        rows = ["lengths", "sequence_ids", "slots", "ancestors", "position_ids", "rotary.cos", "rotary.sin"]
        return self.add(
            "Attention",
            [qkv, *past, *rows],
            [f"block.{layer}.context", *present],
            num_heads=NUM_HEADS,
            kv_num_heads=NUM_KV_HEADS,
            scale=HEAD_SIZE**-0.5,
        )

    def scored(self, states: str, name: str) -> str:
        return self.add("Gather", [states, "scored_rows"], [name], domain="", axis=1)

    def save(self, path: Path) -> Path:
        graph = helper.make_graph(self.nodes, "g", self.inputs, self.outputs, self.weights)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid(OPERATOR_DOMAIN, self.opset_version)]
        save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
        return path


def onnx_node(operator: str, inputs: list[str], outputs: list[str], domain: str, attributes: dict[str, Any]) -> Any:
    node = helper.make_node(operator, inputs, outputs, domain=domain)
    node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    return node


def target_graph(cache: str = "fp16", seed: int = 3) -> NativeGraph:
    """A whole target."""
    graph = NativeGraph(cache, seed)
    graph.input("input_ids", [1, "S"])
    graph.read_rows()
    head = graph.packed("head", VOCABULARY_SIZE, HIDDEN_SIZE)
    embedded = graph.add("Embedding", ["input_ids", *head], ["embedded"], inputs=HIDDEN_SIZE, **PACKED)
    x, skip = embedded, ""
    for layer in range(NUM_LAYERS):
        x, skip = graph.block(layer, x, skip)
    final = graph.norm_weight("final_norm")
    states = graph.add("Norm", [x, final, skip], ["hidden_states"], epsilon=1e-5)
    graph.output("logits", [1, "n", VOCABULARY_SIZE])
    graph.output("hidden_states", [1, "S", HIDDEN_SIZE])
    inputs = [graph.scored(states, "scored"), *head[:2], "", head[2]]
    graph.add("Product", inputs, ["logits"], inputs=HIDDEN_SIZE, block=32, **PACKED)
    return graph


def drafter_graph(cache: str = "fp16", seed: int = 4) -> NativeGraph:
    """A drafter of one block, whose input is the sum of feature and embedding."""
    graph = NativeGraph(cache, seed)
    graph.input("hidden_states", [1, "S", HIDDEN_SIZE], TensorProto.FLOAT)
    graph.input("input_ids", [1, "S"])
    graph.read_rows()
    graph.input("num_candidates", [1])
    head = graph.packed("head", VOCABULARY_SIZE, HIDDEN_SIZE)
    embedded = graph.add("Embedding", ["input_ids", *head], ["embedded"], inputs=HIDDEN_SIZE, **PACKED)
    x, skip = graph.block(0, "hidden_states", embedded)
    final = graph.norm_weight("final_norm")
    states = graph.add("Norm", [x, final, skip], ["predicted_states"], epsilon=1e-5)
    scored = graph.scored(states, "scored")
    inputs = [scored, *head[:2], "", head[2]]
    logits = graph.add("Product", inputs, ["logits"], inputs=HIDDEN_SIZE, block=32, **PACKED)
    shares = graph.add("LogSoftmax", [logits], ["shares"], domain="", axis=-1)
    graph.add("TopK", [shares, "num_candidates"], ["candidate_log_probabilities", "candidate_ids"], domain="")
    graph.output("predicted_states", [1, "S", HIDDEN_SIZE])
    graph.output("candidate_ids", [1, "n", "k"], TensorProto.INT64)
    graph.output("candidate_log_probabilities", [1, "n", "k"])
    return graph


def target_entry(**changes: Any) -> TargetEntry:
    """What a manifest says of `target_graph`."""
    known = {
        "graph": "model_native.onnx",
        "family": "llama",
        "precision": "int8",
        "exact": True,
        "num_layers": NUM_LAYERS,
        "num_heads": NUM_HEADS,
        "num_kv_heads": NUM_KV_HEADS,
        "head_size": HEAD_SIZE,
        "hidden_size": HIDDEN_SIZE,
        "vocabulary_size": VOCABULARY_SIZE,
        "num_parameters": 1,
        "max_context": MAX_CONTEXT,
        "max_rows": 64,
        "format": "native",
        "operators": OPERATOR_VERSION,
    }
    return TargetEntry(**{**known, **changes})


def drafter_entry(**changes: Any) -> DrafterEntry:
    """What a manifest says of `drafter_graph`."""
    known = {
        "graph": "drafter_native.onnx",
        "precision": "int8",
        "fusion": "gating",
        "target_sha256": "",
        "num_layers": 1,
        "num_kv_heads": NUM_KV_HEADS,
        "head_size": HEAD_SIZE,
        "hidden_size": HIDDEN_SIZE,
        "draft_vocabulary_size": VOCABULARY_SIZE,
        "num_parameters": 1,
        "max_rows": 64,
        "format": "native",
        "operators": OPERATOR_VERSION,
    }
    return DrafterEntry(**{**known, **changes})
