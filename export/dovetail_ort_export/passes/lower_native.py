"""Turn every operator of a block into a native one, which gives the same bits on every processor."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import onnx_ir as ir

from dovetail_ort_export.passes.base import ProductPass
from dovetail_ort_export.passes.editing import (
    by_name,
    derived,
    find,
    input_of,
    native_node,
    only_reader,
    replace,
    tensor_of,
)
from dovetail_ort_export.passes.native_attention import (
    REPLACED_INPUTS,
    attend,
    check_attention,
    logical_inputs,
)
from dovetail_ort_export.quantization.nibbles import (
    nibble_scales,
    pack_nibbles,
    pack_steps,
    packed_nibbles_shape,
    packed_steps_shape,
)
from dovetail_ort_export.quantization.packed_weights import pack_codes, pack_factors, packed_factors_shape, packed_shape
from dovetail_ort_export.quantization.scales import output_scales
from dovetail_ort_runtime.bundle.formats import FP16, KV_CACHES
from dovetail_ort_runtime.bundle.graph_names import DRAFTER_FEATURES, HIDDEN_STATES, LOGITS
from dovetail_ort_runtime.bundle.native_layout import (
    ATTENTION,
    BITS,
    BLOCK,
    EMBEDDING,
    FINE_BLOCK,
    GATED_PRODUCT,
    GROUP,
    GROUPS,
    NIBBLE_GROUP,
    NORM,
    NORM_PRODUCT,
    PRODUCT,
    SILU,
)
from dovetail_ort_runtime.checks import must_be_one_of
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.kernels import OPERATOR_DOMAIN, OPERATOR_VERSION

_NORMS: Final = ("SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization")
# Operators that pass numbers on unchanged.
_MOVES: Final = ("Gather", "Reshape", "Split", "Concat", "Identity", "Constant")
# Number of inputs of SkipSimplifiedLayerNormalization: x, the residual and the weight.
_INPUTS_WITH_SKIP: Final = 3
# Number of the output of SkipSimplifiedLayerNormalization that is the sum.
_TOTAL: Final = 3
# Numbers of Product's inputs.
_CODES: Final = 1
_SCALES: Final = 2
_PRODUCT_BIAS: Final = 3
_FACTORS: Final = 4


class LowerNative(ProductPass):
    """`Linear` -> Product, norms -> Norm, GroupQueryAttention -> Attention, `Embedding` -> Embedding, all native.

    A product takes in what only it reads: a gated activation (GatedProduct), or a norm with or without a residual
    addition (NormProduct). It takes in the bias that is added to it, too. Sequence, slot and ancestors say which rows
    see which, instead of an attention bias and lengths. In the end a target has no other operators on floating point
    numbers.

    Args:
        cache: number format of keys and values, `fp16` or `fp32`.
        group: number of inputs of an output that share a factor beside its scale, 64; or 0 for the scale alone. It
            matters for weights in 8 bits.
        bits: bits of a weight of all products but the logits: 8, or 4 with a step and a minimum for each 32 inputs of
            an output. The embedding has 8.
        logits_bits: bits of a weight of the logits, 8 or 4.

    Raises:
        InputError: an option has another value.
    """

    operators = ("GroupQueryAttention", "Linear", "Embedding", *_NORMS)

    def __init__(self, cache: str = "fp16", group: int = GROUP, bits: int = 8, logits_bits: int = 8) -> None:
        super().__init__()
        must_be_one_of("cache", cache, KV_CACHES)
        if group not in GROUPS:
            raise InputError(f"group must be {' or '.join(map(str, GROUPS))}, got {group!r}")
        for name, value in (("bits", bits), ("logits_bits", logits_bits)):
            if value not in BITS:
                raise InputError(f"{name} must be {' or '.join(map(str, BITS))}, got {value!r}")
        self._cache = ir.DataType.FLOAT16 if cache == FP16 else ir.DataType.FLOAT
        self._group = group
        self._bits = bits
        self._logits_bits = logits_bits

    def requires(self, model: ir.Model) -> None:
        """Check that every product has its weight, and that every attention can be lowered.

        Raises:
            PreconditionError: a product has no weight, or an attention cannot be lowered.
        """
        super().requires(model)
        for attention in find(model, "GroupQueryAttention"):
            check_attention(attention)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Lower every operator and change the inputs."""
        if next(self._found(model), None) is None:
            return ir.passes.PassResult(model, False)
        has_attention = next(find(model, "GroupQueryAttention"), None) is not None
        self._inputs = logical_inputs(model) if has_attention else []
        super().call(model)
        for value in list(model.graph.inputs):
            if value.name in REPLACED_INPUTS:
                model.graph.inputs.remove(value)
        model.graph.opset_imports[OPERATOR_DOMAIN] = OPERATOR_VERSION
        return ir.passes.PassResult(model, True)

    def ensures(self, model: ir.Model) -> None:
        """Check that nothing is left to lower, and in a target no operator whose bits depend on the processor.

        Raises:
            PostconditionError: such an operator is left.
        """
        super().ensures(model)
        is_target = HIDDEN_STATES in by_name(model.graph.outputs)
        if not is_target:
            return
        for node in model.graph:
            if node.domain != OPERATOR_DOMAIN and node.op_type not in _MOVES:
                raise ir.passes.PostconditionError(
                    f"{node.op_type} {node.name} is left, and its bits depend on the processor; "
                    "pack-gate-up and fuse-skip-norm must come before lower-native"
                )

    def _rewrite(self, model: ir.Model, node: ir.Node) -> None:
        if node.op_type == "GroupQueryAttention":
            attend(model, node, self._cache, self._inputs)
        elif node.op_type == "Linear":
            self._lower_product(model, node)
        elif node.op_type == "Embedding":
            self._lower_embedding(model, node)
        else:
            _lower_norm(model, node)

    def _lower_embedding(self, model: ir.Model, embedding: ir.Node) -> None:
        packed = _pack(model, input_of(embedding, 0), self._group)
        inputs = [embedding.inputs[1], packed.codes, packed.scales, packed.factors]
        replace(model, [embedding], native_node(EMBEDDING, inputs, packed.attributes), embedding.outputs)

    def _lower_product(self, model: ir.Model, linear: ir.Node) -> None:
        bias, add = _bias_after(linear)
        replaced = [linear] if add is None else [linear, add]
        result = replaced[-1].outputs[0]
        bits = self._logits_bits if _is_logits(result) else self._bits
        weight = input_of(linear, 1)
        packed = _pack_nibbles(model, weight) if bits == 4 else _pack(model, weight, self._group)
        attributes = dict(packed.attributes)
        attributes["block"] = FINE_BLOCK if bits == 4 or _leads_to_scores(result) else BLOCK
        x = input_of(linear, 0)
        gated = _gate_and_up_before(x)
        if gated is None:
            op_type = PRODUCT
        else:
            op_type = GATED_PRODUCT
            attributes["activation"] = SILU
            x = gated
        inputs = [x, packed.codes, packed.scales, bias, packed.factors]
        replace(model, replaced, native_node(op_type, inputs, attributes), [result])


def _is_logits(result: ir.Value) -> bool:
    return result.is_graph_output() and result.name == LOGITS


def _leads_to_scores(result: ir.Value) -> bool:
    """Whether a product's result is the logits, or is read by attention as queries or keys, or by a drafter."""
    is_read = any(node.op_type == ATTENTION for node, _ in result.uses())
    return _is_logits(result) or is_read or result.name == DRAFTER_FEATURES


def _lower_norm(model: ir.Model, norm: ir.Node) -> None:
    """Replace a norm by a Norm, or by a NormProduct if a single product reads its result."""
    x = norm.inputs[0]
    weight = norm.inputs[-1]
    skip = norm.inputs[1] if len(norm.inputs) == _INPUTS_WITH_SKIP else None
    normed = norm.outputs[0]
    epsilon = norm.attributes["epsilon"].as_float()
    totals = _read_total(norm)
    product = _only_product(normed)
    if product is None:
        inputs = [x, weight] if skip is None else [x, weight, skip]
        fused = native_node(NORM, inputs, {"epsilon": epsilon}, 1 + len(totals))
        replace(model, [norm], fused, [normed, *totals])
        return
    inputs = [
        x,
        weight,
        input_of(product, _CODES),
        input_of(product, _SCALES),
        _optional_input(product, _PRODUCT_BIAS),
        skip,
        _optional_input(product, _FACTORS),
    ]
    attributes = {name: value.value for name, value in product.attributes.items()}
    attributes["epsilon"] = epsilon
    fused = native_node(NORM_PRODUCT, inputs, attributes, 1 + len(totals))
    replace(model, [norm, product], fused, [product.outputs[0], *totals])


def _read_total(norm: ir.Node) -> list[ir.Value]:
    """The sum that a norm with a residual addition gives as an output, if anything reads it."""
    if len(norm.outputs) <= _TOTAL or not norm.outputs[_TOTAL].uses():
        return []
    return [norm.outputs[_TOTAL]]


def _optional_input(node: ir.Node, index: int) -> ir.Value | None:
    """Input `index` of a node, or None where it is not connected."""
    return node.inputs[index] if index < len(node.inputs) else None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Packed:
    """A weight (N, K) as an operator reads it, with the operator's attributes about it.

    Attributes:
        codes: integers of the weight.
        scales: (N,) float32, a scale for each output.
        factors: factors in 8 bits, steps and minima in 4; None for a weight without groups.
        attributes: attributes of the operator.
    """

    codes: ir.Value
    scales: ir.Value
    factors: ir.Value | None
    attributes: dict[str, Any]


def _pack(model: ir.Model, weight: ir.Value, group: int) -> _Packed:
    num_outputs, num_inputs = tensor_of(weight).shape.numpy()
    shape = packed_shape(num_outputs, num_inputs)
    factors = None
    if group:
        factors_shape = packed_factors_shape(num_outputs, num_inputs)
        factors = derived(model, weight, "factors", pack_factors, factors_shape, ir.DataType.FLOAT16)
    return _Packed(
        codes=derived(model, weight, "packed", partial(pack_codes, group=group), shape, ir.DataType.UINT8),
        scales=derived(model, weight, "scales", output_scales, (num_outputs,)),
        factors=factors,
        attributes={"inputs": num_inputs, "bits": 8, "group": group},
    )


def _pack_nibbles(model: ir.Model, weight: ir.Value) -> _Packed:
    num_outputs, num_inputs = tensor_of(weight).shape.numpy()
    codes_shape = packed_nibbles_shape(num_outputs, num_inputs)
    steps_shape = packed_steps_shape(num_outputs, num_inputs)
    return _Packed(
        codes=derived(model, weight, "nibbles", pack_nibbles, codes_shape, ir.DataType.UINT8),
        scales=derived(model, weight, "nibble_scales", nibble_scales, (num_outputs,)),
        factors=derived(model, weight, "steps", pack_steps, steps_shape, ir.DataType.FLOAT16),
        attributes={"inputs": num_inputs, "bits": 4, "group": NIBBLE_GROUP},
    )


def _bias_after(linear: ir.Node) -> tuple[ir.Value | None, ir.Node | None]:
    """The bias of a product that only an addition reads, and the addition; None and None for any other product."""
    add = only_reader(linear.outputs[0])
    if add is None or add.op_type != "Add":
        return None, None
    for value in add.inputs:
        if value is not None and value.is_initializer() and len(tensor_of(value).shape) == 1:
            return value, add
    return None, None


def _gate_and_up_before(x: ir.Value) -> ir.Value | None:
    """Gate and up side by side, if `x` is silu(gate) * up and a single product reads it."""
    product = x.producer()
    if product is None or product.op_type != "Mul" or only_reader(x) is None:
        return None
    for silu, up in (product.inputs, product.inputs[::-1]):
        gate = _gate_of(silu)
        split = None if gate is None else gate.producer()
        if split is not None and split.op_type == "Split" and list(split.outputs) == [gate, up]:
            return input_of(split, 0)
    return None


def _gate_of(silu: ir.Value | None) -> ir.Value | None:
    """The gate whose gate * sigmoid(gate) is `silu`; None if it is something else."""
    product = None if silu is None else silu.producer()
    if product is None or product.op_type != "Mul":
        return None
    for gate, sigmoid in (product.inputs, product.inputs[::-1]):
        node = None if sigmoid is None else sigmoid.producer()
        if node is not None and node.op_type == "Sigmoid" and node.inputs[0] is gate:
            return gate
    return None


def _only_product(normed: ir.Value) -> ir.Node | None:
    """The native Product that reads a value, if nothing else reads it."""
    reader = only_reader(normed)
    if reader is None or (reader.domain, reader.op_type) != (OPERATOR_DOMAIN, PRODUCT):
        return None
    return reader
