"""Whether the attributes of a native node fit the shapes and types of its weights, before ONNX Runtime sees the graph.

It knows no file: `graph_check` reads the nodes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from dovetail_ort_runtime.arrays import Shape
from dovetail_ort_runtime.bundle.native_layout import (
    ACTIVATIONS,
    ATTENTION,
    BITS,
    BLOCK,
    EMBEDDING,
    FINE_BLOCK,
    GATED_PRODUCT,
    GROUP,
    HEAD_STEP,
    INPUT_PAD,
    INPUTS_SIDE_BY_SIDE,
    LARGEST_HEAD,
    MOST_HEADS,
    MOST_INPUTS,
    NIBBLE_GROUP,
    NORM,
    NORM_PRODUCT,
    OUTPUTS_SIDE_BY_SIDE,
    PRODUCT,
)
from dovetail_ort_runtime.kernels import CACHE_BLOCK

# Element types, by the numbers in onnx.proto.
FLOAT: Final = 1
UINT8: Final = 2
FLOAT16: Final = 10
_CACHE_FORMATS: Final = (FLOAT, FLOAT16)
# No model has a size near it, and no product of two such sizes overflows.
_LARGEST: Final = 1 << 30

Attribute = int | float | str


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorType:
    """Type of a tensor.

    Attributes:
        data_type: element type, by the numbers in onnx.proto.
        shape: lengths of the dimensions; -1 for one without a number.
    """

    data_type: int
    shape: Shape


@dataclass(frozen=True, kw_only=True, slots=True)
class NativeNode:
    """A node of this project's own operators, as it stands in a graph."""

    operator: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: Mapping[str, Attribute]


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphTensors:
    """Types of a graph's tensors, by name.

    Attributes:
        weights: tensors that the graph holds.
        inputs: tensors that callers give.
    """

    weights: Mapping[str, TensorType] = field(default_factory=dict)
    inputs: Mapping[str, TensorType] = field(default_factory=dict)


def check_node(node: NativeNode, tensors: GraphTensors) -> None:
    """Refuse a node that the library would refuse, or that could make the library read beyond a weight.

    Raises:
        ValueError: the node does not fit; the text says in what.
    """
    check = _OPERATORS.get(node.operator)
    if check is None:
        raise ValueError(f"an operator {node.operator!r}, which this release's library does not have")
    check(_Node(node, tensors))


class _Node:
    """Inputs and attributes of a node, checked one by one; attributes that nothing has checked are refused."""

    def __init__(self, node: NativeNode, tensors: GraphTensors) -> None:
        self._node = node
        self._tensors = tensors
        self._asked: set[str] = set()

    def error(self, what: str) -> ValueError:
        return ValueError(f"{self._node.operator} {what}")

    def arity(self, inputs: tuple[int, int], outputs: tuple[int, int]) -> None:
        for name, found, (least, most) in (
            ("inputs", self._node.inputs, inputs),
            ("outputs", self._node.outputs, outputs),
        ):
            if not least <= len(found) <= most or not all(found[:least]):
                raise self.error(f"of {len(found)} {name}, and it takes {least} to {most}")

    def has(self, place: int) -> bool:
        return place < len(self._node.inputs) and self._node.inputs[place] != ""

    def weight(self, place: int, name: str, data_type: int, shape: Shape | None = None) -> Shape:
        """Shape of the weight at a place, which must have this type, and this shape if one is given."""
        found = self._tensors.weights.get(self._node.inputs[place])
        if found is None or self._node.inputs[place] in self._tensors.inputs:
            raise self.error(f"whose {name} is no weight of the graph")
        if found.data_type != data_type or (shape is not None and found.shape != shape):
            wanted = "its number format" if shape is None else f"{shape} in its number format"
            raise self.error(f"whose {name} has {found.shape} in format {found.data_type}, not {wanted}")
        return found.shape

    def input(self, place: int, name: str) -> TensorType:
        found = self._tensors.inputs.get(self._node.inputs[place])
        if found is None:
            raise self.error(f"whose {name} is no input of the graph")
        return found

    def integer(self, name: str, least: int, most: int = _LARGEST, default: int | None = None) -> int:
        value = self._attribute(name, int, default)
        if not isinstance(value, int) or not least <= value <= most:
            raise self.error(f"with {name} = {value}, not {least} to {most}")
        return value

    def choice(self, name: str, choices: Sequence[Attribute], default: Attribute | None = None) -> Attribute:
        value = self._attribute(name, type(choices[0]), default)
        if value not in choices:
            raise self.error(f"with {name} = {value!r}, not {' or '.join(map(str, choices))}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number of 0 or more."""
        value = self._attribute(name, float, default)
        if not isinstance(value, float) or not math.isfinite(value) or value < 0:
            raise self.error(f"with {name} = {value}, no finite number of 0 or more")
        return value

    def _attribute(self, name: str, expected: type, default: Attribute | None) -> Attribute:
        self._asked.add(name)
        value = self._node.attributes.get(name, default)
        if value is None:
            raise self.error(f"without the attribute {name}")
        if type(value) is not expected:
            raise self.error(f"with {name} = {value!r}, which is not of its type")
        return value

    def no_more_attributes(self) -> None:
        for name in self._node.attributes:
            if name not in self._asked:
                raise self.error(f"with an attribute {name!r}, which it does not have")


def _check_packed(node: _Node, place: int, factors_place: int) -> tuple[int, int]:
    """Numbers of outputs and inputs of a weight in 8 bits, after a check of its scales and of any factors of groups."""
    num_outputs, num_inputs, slabs, padded = _check_sizes(node, place)
    node.choice("bits", (8,), 8)
    group = node.choice("group", (0, GROUP), 0)
    fours = padded // INPUTS_SIDE_BY_SIDE
    node.weight(place, "weight", UINT8, (slabs, fours, OUTPUTS_SIDE_BY_SIDE, INPUTS_SIDE_BY_SIDE))
    if node.has(factors_place) != (group != 0):
        given = "with" if node.has(factors_place) else "without"
        raise node.error(f"with group = {group} and {given} factors")
    if group:
        node.weight(factors_place, "factors", FLOAT16, (slabs, padded // GROUP, OUTPUTS_SIDE_BY_SIDE))
    return num_outputs, num_inputs


def _check_packed_nibbles(node: _Node, place: int, factors_place: int) -> tuple[int, int]:
    """Numbers of outputs and inputs of a weight in 4 bits, after a check of its scales, steps and minima."""
    num_outputs, num_inputs, slabs, padded = _check_sizes(node, place)
    node.choice("group", (NIBBLE_GROUP,), 0)
    eights = padded // (2 * INPUTS_SIDE_BY_SIDE)
    node.weight(place, "weight", UINT8, (slabs, eights, OUTPUTS_SIDE_BY_SIDE, INPUTS_SIDE_BY_SIDE))
    if not node.has(factors_place):
        raise node.error("with bits = 4 and without factors")
    node.weight(factors_place, "factors", FLOAT16, (slabs, padded // NIBBLE_GROUP, 2, OUTPUTS_SIDE_BY_SIDE))
    return num_outputs, num_inputs


def _check_sizes(node: _Node, place: int) -> tuple[int, int, int, int]:
    """Numbers of outputs, inputs, slabs and filled-up inputs of the weight at a place."""
    num_inputs = node.integer("inputs", 1, MOST_INPUTS)
    scales = node.weight(place + 1, "scales", FLOAT)
    if len(scales) != 1 or not 1 <= scales[0] <= _LARGEST:
        raise node.error(f"whose scales have the shape {scales}, not one for each output")
    num_outputs = scales[0]
    num_slabs = -(-num_outputs // OUTPUTS_SIDE_BY_SIDE)
    padded_inputs = -(-num_inputs // INPUT_PAD) * INPUT_PAD
    return num_outputs, num_inputs, num_slabs, padded_inputs


def _check_product_weight(node: _Node, place: int, factors_place: int) -> int:
    """Number of inputs of a product's weight, after a check of its scales and of any bias."""
    if node.choice("bits", BITS, 8) == 4:
        num_outputs, num_inputs = _check_packed_nibbles(node, place, factors_place)
        node.choice("block", (FINE_BLOCK,))
    else:
        num_outputs, num_inputs = _check_packed(node, place, factors_place)
        node.choice("block", (BLOCK, FINE_BLOCK))
    if node.has(place + 2):
        node.weight(place + 2, "bias", FLOAT, (num_outputs,))
    return num_inputs


def _check_embedding(node: _Node) -> None:
    node.arity((3, 4), (1, 1))
    _check_packed(node, 1, 3)
    node.no_more_attributes()


def _check_norm(node: _Node) -> None:
    node.arity((2, 3), (1, 2))
    weight = node.weight(1, "weight", FLOAT)
    if len(weight) != 1 or not 1 <= weight[0] <= _LARGEST:
        raise node.error(f"whose weight has the shape {weight}, not one number for each channel")
    node.number("epsilon")
    node.no_more_attributes()


def _check_product(node: _Node) -> None:
    node.arity((3, 5), (1, 1))
    _check_product_weight(node, 1, 4)
    node.no_more_attributes()


def _check_gated_product(node: _Node) -> None:
    node.arity((3, 5), (1, 1))
    _check_product_weight(node, 1, 4)
    node.choice("activation", ACTIVATIONS)
    node.no_more_attributes()


def _check_norm_product(node: _Node) -> None:
    node.arity((4, 7), (1, 2))
    num_inputs = _check_product_weight(node, 2, 6)
    node.weight(1, "norm_weight", FLOAT, (num_inputs,))
    node.number("epsilon")
    node.no_more_attributes()


def _check_attention(node: _Node) -> None:
    node.arity((10, 12), (3, 3))
    num_heads = node.integer("num_heads", 1, MOST_HEADS)
    num_kv_heads = node.integer("kv_num_heads", 1, num_heads)
    if num_heads % num_kv_heads:
        raise node.error(f"with {num_heads} heads, no multiple of {num_kv_heads} heads of keys and values")
    head_size = _check_caches(node, num_kv_heads)
    tables = node.weight(8, "cos", FLOAT)
    if len(tables) != 2 or not 0 <= 2 * tables[1] <= head_size:
        raise node.error(f"whose table cos has the shape {tables}, and a head has {head_size} channels")
    node.weight(9, "sin", FLOAT, tables)
    for place, name in ((10, "query_norm"), (11, "key_norm")):
        if node.has(place):
            node.weight(place, name, FLOAT, (head_size,))
    for name, default in (("scale", None), ("soft_cap", 0.0), ("epsilon", 0.0)):
        node.number(name, default)
    node.integer("window", 0, (1 << 63) - 1, 0)
    node.no_more_attributes()


def _check_caches(node: _Node, num_kv_heads: int) -> int:
    """Head size, which keys and values have in common."""
    keys = node.input(1, "past_key")
    values = node.input(2, "past_value")
    head_size = values.shape[3] if len(values.shape) == 4 else 0
    fits = (
        len(keys.shape) == 5
        and keys.shape[1] == values.shape[1] == num_kv_heads
        and keys.shape[3:] == (head_size, CACHE_BLOCK)
        and 0 < head_size <= LARGEST_HEAD
        and head_size % HEAD_STEP == 0
    )
    if not fits or keys.data_type != values.data_type or keys.data_type not in _CACHE_FORMATS:
        raise node.error(
            f"whose caches have the shapes {keys.shape} and {values.shape} in the formats {keys.data_type} and "
            f"{values.data_type}, not (B, {num_kv_heads}, M / 64, D, 64) and (B, {num_kv_heads}, M, D) in fp16 or fp32"
        )
    return head_size


_OPERATORS: Final = {
    EMBEDDING: _check_embedding,
    NORM: _check_norm,
    PRODUCT: _check_product,
    GATED_PRODUCT: _check_gated_product,
    NORM_PRODUCT: _check_norm_product,
    ATTENTION: _check_attention,
}
