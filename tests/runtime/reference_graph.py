"""Make the graph of `engine.reference_bits`: small, and with everything in it that the kernels can do.

python tests/runtime/reference_graph.py runtime/dovetail_ort_runtime/engine/reference_bits.onnx

Two blocks over the same weights. Head sizes, inputs and outputs are no multiples of what the kernels work on at a time.
The first block has biases, weights in groups, SiLU and an fp16 cache; the second has norms by head, a window, a soft
cap, GELU and an fp32 cache. All weights come from a generator of whole numbers that is written here, so that no library
can change them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

DOMAIN: Final = "dovetail.native"
VOCABULARY: Final = 90
HIDDEN: Final = 80
HEADS: Final = 6
KV_HEADS: Final = 2
HEAD_SIZE: Final = 16
ROTARY_SIZE: Final = 8
INNER: Final = 40
SLOTS: Final = 576
EPSILON: Final = 1e-5


class WholeNumbers:
    """A linear congruential generator, of whose 64 bits the upper 16 are used."""

    def __init__(self) -> None:
        self._state = 20

    def below(self, bound: int, *shape: int) -> NDArray[np.int64]:
        """Numbers of 0 to `bound` - 1."""
        found = []
        for _ in range(int(np.prod(shape))):
            self._state = (self._state * 6364136223846793005 + 1442695040888963407) % 2**64
            found.append((self._state >> 48) % bound)
        return np.array(found, dtype=np.int64).reshape(shape)

    def floats(self, least: int, most: int, divisor: int, *shape: int) -> NDArray[np.float32]:
        """Whole numbers of `least` to `most` over a power of two."""
        return ((self.below(most - least + 1, *shape) + least) / divisor).astype(np.float32)


def pack(codes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Codes of a weight, (N, K), as the kernels read them: (ceil(N / 32), Kp / 4, 32, 4), filled up with 128."""
    outputs, inputs = codes.shape
    padded = np.full((-outputs % 32 + outputs, -inputs % 64 + inputs), 128, dtype=np.uint8)
    padded[:outputs, :inputs] = codes
    return padded.reshape(len(padded) // 32, 32, -1, 4).transpose(0, 2, 1, 3).copy()


def pack_factors(factors: NDArray[np.float16]) -> NDArray[np.float16]:
    """Factors of a weight, (N, groups), as the kernels read them: (ceil(N / 32), groups, 32), filled up with 1."""
    outputs, groups = factors.shape
    padded = np.ones((-outputs % 32 + outputs, groups), dtype=np.float16)
    padded[:outputs] = factors
    return padded.reshape(-1, 32, groups).swapaxes(1, 2).copy()


def make_graph() -> onnx.ModelProto:
    """The model, with weights inside."""
    numbers = WholeNumbers()
    weights: dict[str, NDArray[Any]] = {}
    for name, outputs, inputs in (
        ("qkv", (HEADS + 2 * KV_HEADS) * HEAD_SIZE, HIDDEN),
        ("context", HIDDEN, HEADS * HEAD_SIZE),
        ("gate_and_up", 2 * INNER, HIDDEN),
        ("down", HIDDEN, INNER),
        ("head", VOCABULARY, HIDDEN),
    ):
        weights[f"{name}.codes"] = pack(1 + numbers.below(255, outputs, inputs))
        weights[f"{name}.scales"] = numbers.floats(96, 159, 2**17, outputs)
        weights[f"{name}.bias"] = numbers.floats(-64, 64, 2**8, outputs)
        factors = numbers.floats(1, 2**11, 2**11, outputs, -(-inputs // 64)).astype(np.float16)
        weights[f"{name}.factors"] = pack_factors(factors)
    for name, size in (("input_norm", HIDDEN), ("inner_norm", HIDDEN), ("last_norm", HIDDEN)):
        weights[name] = numbers.floats(64, 192, 2**7, size)
    for name in ("query_norm", "key_norm"):
        weights[name] = numbers.floats(64, 192, 2**7, HEAD_SIZE)
    for name in ("cos", "sin"):
        weights[name] = numbers.floats(-128, 128, 2**7, SLOTS, ROTARY_SIZE // 2)
    del weights["head.bias"], weights["context.bias"]

    head = ["head.codes", "head.scales"]
    kind = {"inputs": HIDDEN, "bits": 8, "group": 64}
    nodes = [_node("Embedding", ["input_ids", *head, "head.factors"], ["embedded"], **kind)]
    nodes += _block(0, "embedded", None, biased=True, activation="silu")
    nodes += _block(1, "down_0", "after_context_0", biased=False, activation="gelu_tanh")
    nodes += [
        _node("Norm", ["down_1", "last_norm", "after_context_1"], ["normed"], epsilon=EPSILON),
        _node("Product", ["normed", *head, "", "head.factors"], ["logits"], block=32, **kind),
    ]
    graph = helper.make_graph(
        nodes,
        "reference_bits",
        [_value(name, TensorProto.INT64, shape) for name, shape in _INPUTS.items()] + _caches("past_key_values"),
        [_value("logits", TensorProto.FLOAT, (1, "S", VOCABULARY)), *_caches("present")],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="dovetail-ort")


_INPUTS: Final = {
    "input_ids": (1, "S"),
    "position_ids": (1, "S"),
    "lengths": (1,),
    "sequence_ids": ("S",),
    "slots": ("S",),
    "ancestors": ("S", "A"),
}


def _block(number: int, before: str, skip: str | None, *, biased: bool, activation: str) -> list[onnx.NodeProto]:
    def product(name: str) -> list[str]:
        return [f"{name}.codes", f"{name}.scales", f"{name}.bias" if biased else ""]

    def factors(name: str) -> str:
        return f"{name}.factors" if biased else ""

    kind = {"bits": 8, "block": 64, "group": 64 if biased else 0}
    residual = before if skip is None else f"sum_{number}"
    past = [f"past_key_values.{number}.{part}" for part in ("key", "value")]
    present = [f"present.{number}.{part}" for part in ("key", "value")]
    rows = ["lengths", "sequence_ids", "slots", "ancestors", "position_ids"]
    norms = [] if biased else ["query_norm", "key_norm"]
    attention = {"num_heads": HEADS, "kv_num_heads": KV_HEADS, "scale": 0.25}
    if not biased:
        attention |= {"window": 37, "soft_cap": 20.0, "epsilon": EPSILON}
    first = [f"qkv_{number}"] if skip is None else [f"qkv_{number}", residual]
    context = ["context.codes", "context.scales", "", factors("context")]
    return [
        _node(
            "NormProduct",
            [before, "input_norm", *product("qkv"), skip or "", factors("qkv")],
            first,
            inputs=HIDDEN,
            epsilon=EPSILON,
            **kind,
        ),
        _node(
            "Attention",
            [f"qkv_{number}", *past, *rows, "cos", "sin", *norms],
            [f"context_{number}", *present],
            **attention,
        ),
        _node("Product", [f"context_{number}", *context], [f"mixed_{number}"], inputs=HEADS * HEAD_SIZE, **kind),
        _node(
            "NormProduct",
            [f"mixed_{number}", "inner_norm", *product("gate_and_up"), residual, factors("gate_and_up")],
            [f"inner_{number}", f"after_context_{number}"],
            inputs=HIDDEN,
            epsilon=EPSILON,
            **kind,
        ),
        _node(
            "GatedProduct",
            [f"inner_{number}", *product("down"), factors("down")],
            [f"down_{number}"],
            inputs=INNER,
            activation=activation,
            **kind,
        ),
    ]


def _node(operator: str, read: list[str], written: list[str], **attributes: Any) -> onnx.NodeProto:
    while not read[-1]:
        read = read[:-1]
    node = helper.make_node(operator, read, written, name=written[0], domain=DOMAIN)
    node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    return node


def _caches(prefix: str) -> list[onnx.ValueInfoProto]:
    shapes = {"key": (1, KV_HEADS, SLOTS // 64, HEAD_SIZE, 64), "value": (1, KV_HEADS, SLOTS, HEAD_SIZE)}
    return [
        _value(f"{prefix}.{block}.{part}", element, shape)
        for block, element in enumerate((TensorProto.FLOAT16, TensorProto.FLOAT))
        for part, shape in shapes.items()
    ]


def _value(name: str, element: int, shape: tuple[int | str, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element, shape)


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(make_graph().SerializeToString(deterministic=True))
