"""Every operator of a block as one of the package's own, which give the same bits on every processor."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import onnx_ir as ir

from dovetail_ort_export.passes import nodes
from dovetail_ort_export.passes.lowering import ProductPass
from dovetail_ort_export.passes.native_attention import (
    CACHE_TYPES,
    REPLACED_INPUTS,
    attend,
    check_attention,
    logical_inputs,
)
from dovetail_ort_export.passes.native_nodes import native_node, replace
from dovetail_ort_export.quantization.blocks import GROUP, output_scales
from dovetail_ort_export.quantization.nibbles import (
    NIBBLE_GROUP,
    nibble_scales,
    pack_nibbles,
    pack_steps,
    packed_nibbles_shape,
    packed_steps_shape,
)
from dovetail_ort_export.quantization.packed_weights import pack_codes, pack_factors, packed_factors_shape, packed_shape
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.kernels import OPERATOR_DOMAIN, OPERATOR_VERSION

_BLOCK: Final = 64
# Of products whose results are scores, or become scores: logits, queries and keys.
_FINE_BLOCK: Final = 32
_GROUPS: Final = (GROUP, 0)
_BITS: Final = (8, 4)
_NORMS: Final = ("SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization")
# They hand on numbers as they are.
_MOVES: Final = ("Gather", "Reshape", "Split", "Concat", "Identity", "Constant")


class LowerNative(ProductPass):
    """`Linear` -> Product, norms -> Norm, GroupQueryAttention -> Attention, `Embedding` -> Embedding, all native.

    What stands in front of a product goes into it where nothing else reads it: a gated activation (GatedProduct), a
    norm with or without a residual addition (NormProduct), and behind it a bias. Rows are told by sequence, slot and
    ancestors in the place of a bias and of lengths. A target comes out without any other operator on floating point
    numbers.

    Args:
        cache: number format of keys and values, `fp16` or `fp32`.
        group: 64 for a factor of each 64 inputs of an output beside its scale, 0 for the scale alone; of 8 bits.
        bits: 8, or 4 with a step and a minimum for each 32 inputs of an output: of products other than the logits. The
            embedding has 8.
        logits_bits: the same of the logits.

    Raises:
        InputError: one of them has another value.
    """

    operators = ("GroupQueryAttention", "Linear", "Embedding", *_NORMS)

    def __init__(self, cache: str = "fp16", group: int = GROUP, bits: int = 8, logits_bits: int = 8) -> None:
        super().__init__()
        if cache not in CACHE_TYPES:
            raise InputError(f"cache must be one of {', '.join(CACHE_TYPES)}, got {cache!r}")
        if group not in _GROUPS:
            raise InputError(f"group must be {' or '.join(map(str, _GROUPS))}, got {group!r}")
        for name, value in (("bits", bits), ("logits_bits", logits_bits)):
            if value not in _BITS:
                raise InputError(f"{name} must be {' or '.join(map(str, _BITS))}, got {value!r}")
        self._cache = CACHE_TYPES[cache]
        self._group = group
        self._bits, self._logits_bits = bits, logits_bits

    def requires(self, model: ir.Model) -> None:
        """Every product has its weight, every attention is one that can be lowered."""
        super().requires(model)
        for attention in nodes.find(model, "GroupQueryAttention"):
            check_attention(attention)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Lower every operator and change the inputs."""
        if not any(True for _ in self._found(model)):
            return ir.passes.PassResult(model, False)
        self._inputs = logical_inputs(model)
        super().call(model)
        for value in list(model.graph.inputs):
            if value.name in REPLACED_INPUTS:
                model.graph.inputs.remove(value)
        model.graph.opset_imports[OPERATOR_DOMAIN] = OPERATOR_VERSION
        return ir.passes.PassResult(model, True)

    def ensures(self, model: ir.Model) -> None:
        """Nothing is left to lower, and of a target no operator whose bits depend on the processor."""
        super().ensures(model)
        if "hidden_states" not in nodes.by_name(model.graph.outputs):
            return
        for node in model.graph:
            if node.domain != OPERATOR_DOMAIN and node.op_type not in _MOVES:
                raise ir.passes.PostconditionError(
                    f"{node.op_type} {node.name} is left, and its bits depend on the processor; "
                    "pack-gate-up and fuse-skip-norm stand before lower-native"
                )

    def _rewrite(self, model: ir.Model, node: ir.Node) -> None:
        if node.op_type == "GroupQueryAttention":
            attend(model, node, self._cache, self._inputs)
        elif node.op_type == "Linear":
            self._lower_product(model, node)
        elif node.op_type == "Embedding":
            packed = _pack(model, nodes.input_of(node, 0), self._group)
            inputs = [node.inputs[1], packed.codes, packed.scales, packed.factors]
            replace(model, [node], native_node("Embedding", inputs, packed.attributes), node.outputs)
        else:
            _lower_norm(model, node)

    def _lower_product(self, model: ir.Model, linear: ir.Node) -> None:
        replaced, bias = [linear], None
        if (added := _bias_behind(linear)) is not None:
            bias, add = added
            replaced.append(add)
        result = replaced[-1].outputs[0]
        bits = self._logits_bits if _is_logits(result) else self._bits
        weight = nodes.input_of(linear, 1)
        packed = _pack_nibbles(model, weight) if bits == 4 else _pack(model, weight, self._group)
        attributes = dict(packed.attributes)
        attributes["block"] = _FINE_BLOCK if bits == 4 or _leads_to_scores(result) else _BLOCK
        x, op_type = nodes.input_of(linear, 0), "Product"
        if (gated := _gate_and_up_before(x)) is not None:
            x, op_type = gated, "GatedProduct"
            attributes["activation"] = "silu"
        inputs = [x, packed.codes, packed.scales, bias, packed.factors]
        replace(model, replaced, native_node(op_type, inputs, attributes), [result])


def _is_logits(result: ir.Value) -> bool:
    return result.is_graph_output() and result.name == "logits"


def _leads_to_scores(result: ir.Value) -> bool:
    """Whether it is the logits or what attention reads."""
    return _is_logits(result) or any(node.op_type == "Attention" for node, _ in result.uses())


def _lower_norm(model: ir.Model, norm: ir.Node) -> None:
    x, *skip, weight = norm.inputs
    normed, total = norm.outputs[0], norm.outputs[3] if len(norm.outputs) > 3 else None
    epsilon = norm.attributes["epsilon"].as_float()
    totals = [total] if total is not None and total.uses() else []
    product = _only_product(normed)
    if product is None:
        fused = native_node("Norm", [x, weight, *skip], {"epsilon": epsilon}, 1 + len(totals))
        replace(model, [norm], fused, [normed, *totals])
        return
    _, codes, scales, bias, factors = (*product.inputs, None, None)[:5]
    inputs = [x, weight, codes, scales, bias, *(skip or [None]), factors]
    attributes = {name: value.value for name, value in product.attributes.items()} | {"epsilon": epsilon}
    fused = native_node("NormProduct", inputs, attributes, 1 + len(totals))
    replace(model, [norm, product], fused, [product.outputs[0], *totals])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Packed:
    """A weight (N, K) as an operator reads it, and what the operator says of it."""

    codes: ir.Value
    scales: ir.Value
    factors: ir.Value | None
    attributes: dict[str, Any]


def _pack(model: ir.Model, weight: ir.Value, group: int) -> _Packed:
    num_outputs, num_inputs = nodes.tensor_of(weight).shape.numpy()
    shape = packed_shape(num_outputs, num_inputs)
    factors = None
    if group:
        groups = packed_factors_shape(num_outputs, num_inputs)
        factors = nodes.derived(model, weight, "factors", pack_factors, groups, ir.DataType.FLOAT16)
    return _Packed(
        codes=nodes.derived(model, weight, "packed", partial(pack_codes, group=group), shape, ir.DataType.UINT8),
        scales=nodes.derived(model, weight, "scales", output_scales, (num_outputs,)),
        factors=factors,
        attributes={"inputs": num_inputs, "bits": 8, "group": group},
    )


def _pack_nibbles(model: ir.Model, weight: ir.Value) -> _Packed:
    num_outputs, num_inputs = nodes.tensor_of(weight).shape.numpy()
    codes = packed_nibbles_shape(num_outputs, num_inputs)
    steps = packed_steps_shape(num_outputs, num_inputs)
    return _Packed(
        codes=nodes.derived(model, weight, "nibbles", pack_nibbles, codes, ir.DataType.UINT8),
        scales=nodes.derived(model, weight, "nibble_scales", nibble_scales, (num_outputs,)),
        factors=nodes.derived(model, weight, "steps", pack_steps, steps, ir.DataType.FLOAT16),
        attributes={"inputs": num_inputs, "bits": 4, "group": NIBBLE_GROUP},
    )


def _bias_behind(linear: ir.Node) -> tuple[ir.Value, ir.Node] | None:
    """The bias that alone is added to a product, and the addition."""
    add = nodes.only_reader(linear.outputs[0])
    if add is None or add.op_type != "Add":
        return None
    for value in add.inputs:
        if value is not None and value.is_initializer() and len(nodes.tensor_of(value).shape) == 1:
            return value, add
    return None


def _gate_and_up_before(x: ir.Value) -> ir.Value | None:
    """Gate and up side by side where `x` is silu(gate) * up and one product alone reads it."""
    product = x.producer()
    if product is None or product.op_type != "Mul" or nodes.only_reader(x) is None:
        return None
    for silu, up in (product.inputs, product.inputs[::-1]):
        gate = _gate_of(silu)
        split = None if gate is None else gate.producer()
        if split is not None and split.op_type == "Split" and list(split.outputs) == [gate, up]:
            return nodes.input_of(split, 0)
    return None


def _gate_of(silu: ir.Value | None) -> ir.Value | None:
    """What `silu` is gate * sigmoid(gate) of."""
    product = None if silu is None else silu.producer()
    if product is None or product.op_type != "Mul":
        return None
    for gate, sigmoid in (product.inputs, product.inputs[::-1]):
        node = None if sigmoid is None else sigmoid.producer()
        if node is not None and node.op_type == "Sigmoid" and node.inputs[0] is gate:
            return gate
    return None


def _only_product(normed: ir.Value) -> ir.Node | None:
    reader = nodes.only_reader(normed)
    return reader if reader is not None and (reader.domain, reader.op_type) == (OPERATOR_DOMAIN, "Product") else None
