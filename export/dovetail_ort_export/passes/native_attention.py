"""GroupQueryAttention -> native Attention: sequence, slot and ancestors of each row, caches in the kernels' layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import onnx_ir as ir

from dovetail_ort_export.passes.editing import input_of, native_node, replace
from dovetail_ort_export.passes.pack_products import normed_by_head
from dovetail_ort_export.tracing.axes import CACHE_SLOTS, ROWS
from dovetail_ort_runtime.bundle.graph_names import (
    ANCESTORS,
    ATTENTION_BIAS,
    LENGTHS,
    POSITION_IDS,
    SEQUENCE_IDS,
    SEQUENCE_LENGTHS,
    SLOTS,
    TOTAL_LENGTH,
)
from dovetail_ort_runtime.bundle.native_layout import ATTENTION, HEAD_STEP, LARGEST_HEAD
from dovetail_ort_runtime.errors import SourceError
from dovetail_ort_runtime.kernels import CACHE_BLOCK

# Inputs that describe the rows, which only GroupQueryAttention reads.
REPLACED_INPUTS: Final = (ATTENTION_BIAS, SEQUENCE_LENGTHS, TOTAL_LENGTH)
_SEQUENCES: Final = "num_sequences"
_INPUTS: Final[dict[str, Sequence[str]]] = {
    LENGTHS: (_SEQUENCES,),
    SEQUENCE_IDS: (ROWS,),
    SLOTS: (ROWS,),
    ANCESTORS: (ROWS, "max_ancestors"),
}
# Numbers of GroupQueryAttention's inputs.
_PAST_KEY: Final = 3
_COS: Final = 7
_POSITION_IDS: Final = 9


class _Heads(NamedTuple):
    """Packed queries, keys and values, and the norms that each head passes through."""

    qkv: ir.Value
    query_norm: ir.Node | None
    key_norm: ir.Node | None

    @property
    def norms(self) -> list[ir.Node]:
        """The norms that are there."""
        return [norm for norm in (self.query_norm, self.key_norm) if norm is not None]


def logical_inputs(model: ir.Model) -> list[ir.Value]:
    """The inputs `lengths`, `sequence_ids`, `slots` and `ancestors`, int64, inserted after the positions."""
    new = [ir.val(name, ir.DataType.INT64, shape) for name, shape in _INPUTS.items()]
    inputs = model.graph.inputs
    place = 1 + [value.name for value in inputs].index(POSITION_IDS)
    for value in reversed(new):
        inputs.insert(place, value)
    return new


def check_attention(attention: ir.Node) -> None:
    """Refuse an attention that other passes must prepare first.

    Raises:
        PreconditionError: query, key and value are not packed, or the cache is quantised.
    """
    heads = _heads(attention)
    if heads is None:
        raise ir.passes.PreconditionError(
            f"{attention.name} reads no packed query, key and value; pack-qkv must come before lower-native"
        )
    key = input_of(attention, _PAST_KEY)
    if key.dtype != ir.DataType.FLOAT:
        raise ir.passes.PreconditionError(f"{key.name} must be in float32; leave quantize-cache out")
    if len({_epsilon(norm) for norm in heads.norms}) > 1:
        raise ir.passes.PreconditionError(f"{attention.name} norms queries and keys with different epsilons")


def attend(model: ir.Model, attention: ir.Node, cache: ir.DataType, inputs: Sequence[ir.Value]) -> None:
    """Replace a GroupQueryAttention by the native node; its caches change their type and layout.

    Args:
        model: graph of the attention.
        attention: GroupQueryAttention that `check_attention` passes.
        cache: type of keys and values.
        inputs: inputs that `logical_inputs` made.

    Raises:
        SourceError: the heads have a size that the kernels do not take.
    """
    heads = _heads(attention)
    assert heads is not None
    past_key = input_of(attention, _PAST_KEY)
    past_value = input_of(attention, _PAST_KEY + 1)
    _, present_key, present_value = attention.outputs
    _, num_kv_heads, _, size = _sizes(past_key)
    _check_head_size(size)
    for keys in (past_key, present_key):
        keys.type = ir.TensorType(cache)
        keys.shape = ir.Shape((_SEQUENCES, num_kv_heads, "cache_blocks", size, CACHE_BLOCK))
    for values in (past_value, present_value):
        values.type = ir.TensorType(cache)
        values.shape = ir.Shape((_SEQUENCES, num_kv_heads, CACHE_SLOTS, size))
    attributes = {name: attention.attributes[name].value for name in ("num_heads", "kv_num_heads", "scale")}
    attributes |= {"window": 0, "soft_cap": 0.0}
    attributes["epsilon"] = max((_epsilon(norm) for norm in heads.norms), default=0.0)
    position_ids = attention.inputs[_POSITION_IDS]
    angles = attention.inputs[_COS : _COS + 2]
    norms = [_weight(heads.query_norm), _weight(heads.key_norm)]
    read = [heads.qkv, past_key, past_value, *inputs, position_ids, *angles, *norms]
    replace(model, [attention], native_node(ATTENTION, read, attributes, 3), attention.outputs)


def _check_head_size(size: int) -> None:
    if size % HEAD_STEP or size > LARGEST_HEAD:
        raise SourceError(
            f"the head size must be a multiple of {HEAD_STEP} up to {LARGEST_HEAD} for the native format, got "
            f"{size}; export with --format portable"
        )


def _weight(norm: ir.Node | None) -> ir.Value | None:
    return None if norm is None else norm.inputs[1]


def _heads(attention: ir.Node) -> _Heads | None:
    """The packed input of an attention, or None if it is not packed."""
    query, key, value = attention.inputs[:3]
    if query is not None and key is value is None:
        return _Heads(query, None, None)
    query, query_norm = normed_by_head(query)
    key, key_norm = normed_by_head(key)
    split = None if query is None else query.producer()
    if split is None or split.op_type != "Split" or list(split.outputs) != [query, key, value]:
        return None
    return _Heads(input_of(split, 0), query_norm, key_norm)


def _epsilon(norm: ir.Node) -> float:
    return norm.attributes["epsilon"].as_float()


def _sizes(value: ir.Value) -> Sequence[Any]:
    assert value.shape is not None
    return [size if isinstance(size, int) else size.value for size in value.shape]
