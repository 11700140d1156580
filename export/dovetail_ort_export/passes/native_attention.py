"""GroupQueryAttention -> native Attention: rows told by sequence, slot and ancestors, caches in the kernels' layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import onnx_ir as ir

from dovetail_ort_export.passes import nodes
from dovetail_ort_export.passes.native_nodes import native_node, replace
from dovetail_ort_export.passes.packing import normed_by_head
from dovetail_ort_runtime.errors import SourceError
from dovetail_ort_runtime.kernels import CACHE_BLOCK

CACHE_TYPES: Final = {"fp16": ir.DataType.FLOAT16, "fp32": ir.DataType.FLOAT}
# What tells rows apart for GroupQueryAttention alone.
REPLACED_INPUTS: Final = ("attention_bias", "seqlens_k", "total_sequence_length")
_ROWS: Final = "sequence_length"
_SEQUENCES: Final = "num_sequences"
_INPUTS: Final[dict[str, Sequence[str]]] = {
    "lengths": (_SEQUENCES,),
    "sequence_ids": (_ROWS,),
    "slots": (_ROWS,),
    "ancestors": (_ROWS, "max_ancestors"),
}
# Of GroupQueryAttention's inputs.
_PAST_KEY: Final = 3
_COS: Final = 7
_POSITION_IDS: Final = 9
# What a kernel takes.
_HEAD_STEP: Final = 16
_LARGEST_HEAD: Final = 256


class _Heads(NamedTuple):
    """Queries, keys and values in a row, and the norms that those of a head pass through."""

    qkv: ir.Value
    query_norm: ir.Node | None
    key_norm: ir.Node | None


def logical_inputs(model: ir.Model) -> list[ir.Value]:
    """The inputs `lengths`, `sequence_ids`, `slots` and `ancestors`, int64, put behind the positions."""
    new = [ir.val(name, ir.DataType.INT64, shape) for name, shape in _INPUTS.items()]
    inputs = model.graph.inputs
    place = 1 + [value.name for value in inputs].index("position_ids")
    for value in reversed(new):
        inputs.insert(place, value)
    return new


def check_attention(attention: ir.Node) -> None:
    """Refuse what another pass would have to make of it first.

    Raises:
        PreconditionError: query, key and value are not packed, or the cache is quantised.
    """
    heads = _heads(attention)
    if heads is None:
        raise ir.passes.PreconditionError(
            f"{attention.name} reads no packed query, key and value; pack-qkv stands before lower-native"
        )
    key = nodes.input_of(attention, _PAST_KEY)
    if key.dtype != ir.DataType.FLOAT:
        raise ir.passes.PreconditionError(f"{key.name} must be in float32; leave quantize-cache out")
    if len(set(map(_epsilon, filter(None, heads[1:])))) > 1:
        raise ir.passes.PreconditionError(f"{attention.name} norms queries and keys with different epsilons")


def attend(model: ir.Model, attention: ir.Node, cache: ir.DataType, inputs: Sequence[ir.Value]) -> None:
    """Put the native node into the place of a GroupQueryAttention, whose caches change their type and layout.

    Args:
        model: whose graph it is.
        attention: one that `check_attention` passes.
        cache: type of keys and values.
        inputs: what `logical_inputs` gave.

    Raises:
        SourceError: the heads have a size that the kernels do not take.
    """
    heads = _heads(attention)
    assert heads is not None
    past = [nodes.input_of(attention, _PAST_KEY + part) for part in (0, 1)]
    _, num_kv_heads, _, size = _sizes(past[0])
    if size % _HEAD_STEP or size > _LARGEST_HEAD:
        raise SourceError(
            f"the head size must be a multiple of {_HEAD_STEP} up to {_LARGEST_HEAD} for the native format, got "
            f"{size}; export with --format portable"
        )
    slots = "max_sequence_length"
    shapes = ((_SEQUENCES, num_kv_heads, "cache_blocks", size, CACHE_BLOCK), (_SEQUENCES, num_kv_heads, slots, size))
    for values in (past, attention.outputs[1:]):
        for value, shape in zip(values, shapes, strict=True):
            value.type, value.shape = ir.TensorType(cache), ir.Shape(shape)
    norms = (heads.query_norm, heads.key_norm)
    attributes = {name: attention.attributes[name].value for name in ("num_heads", "kv_num_heads", "scale")}
    attributes |= {"window": 0, "soft_cap": 0.0}
    attributes["epsilon"] = max((_epsilon(norm) for norm in norms if norm is not None), default=0.0)
    weights = [None if norm is None else norm.inputs[1] for norm in norms]
    position_ids, angles = attention.inputs[_POSITION_IDS], attention.inputs[_COS : _COS + 2]
    new = native_node("Attention", [heads.qkv, *past, *inputs, position_ids, *angles, *weights], attributes, 3)
    replace(model, [attention], new, attention.outputs)


def _heads(attention: ir.Node) -> _Heads | None:
    """What an attention reads, or None if it is not packed."""
    query, key, value = attention.inputs[:3]
    if query is not None and key is value is None:
        return _Heads(query, None, None)
    (query, query_norm), (key, key_norm) = map(normed_by_head, (query, key))
    split = None if query is None else query.producer()
    if split is None or split.op_type != "Split" or list(split.outputs) != [query, key, value]:
        return None
    return _Heads(nodes.input_of(split, 0), query_norm, key_norm)


def _epsilon(norm: ir.Node) -> float:
    return norm.attributes["epsilon"].as_float()


def _sizes(value: ir.Value) -> Sequence[Any]:
    assert value.shape is not None
    return [size if isinstance(size, int) else size.value for size in value.shape]
