"""The operators that a graph is traced in: torch functions on one side, ONNX nodes on the other.

A weight enters the trace as a name, never as numbers: `Weight` nodes carry it and `passes.bind_weights` puts the
tensors in later, one at a time. So tracing costs neither the memory nor the time of the weights, and the products
(`Linear`) are still open to every number format. The torch side returns zeros of the right shape: tracing looks at
nothing else.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from torch.onnx import symbolic_helper

from dovetail_ort_runtime.bundle.graph_names import COS_TABLE, SIN_TABLE

OPSET: Final = 18


@torch.library.custom_op("dovetail::embedding", mutates_args=())
def embedding(input_ids: Tensor, weight: str, hidden_size: int) -> Tensor:
    """Rows of `weight` (V, E) for `input_ids` (B, S) int64: (B, S, E) float32."""
    return torch.zeros(*input_ids.shape, hidden_size)


@torch.library.custom_op("dovetail::linear", mutates_args=())
def linear(x: Tensor, weight: str, bias: str, out_features: int) -> Tensor:
    """`x` (..., in) times the transpose of `weight` (out, in), plus `bias` (out,) unless its name is empty."""
    return x.new_zeros(*x.shape[:-1], out_features)


@torch.library.custom_op("dovetail::rms_norm", mutates_args=())
def rms_norm(x: Tensor, weight: str, epsilon: float) -> Tensor:
    """`x` (..., E) over its root mean square along the last axis, times `weight` (E,)."""
    return x.clone()


@torch.library.custom_op("dovetail::head_rms_norm", mutates_args=())
def head_rms_norm(x: Tensor, weight: str, epsilon: float, num_heads: int, head_size: int) -> Tensor:
    """`rms_norm` of each head of `x` (B, S, H * D) by itself, `weight` (D,)."""
    return x.clone()


@torch.library.custom_op("dovetail::group_query_attention", mutates_args=())
def group_query_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    past_key: Tensor,
    past_value: Tensor,
    seqlens_k: Tensor,
    total_sequence_length: Tensor,
    position_ids: Tensor,
    attention_bias: Tensor,
    num_heads: int,
    kv_num_heads: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Causal attention over a shared cache, rotary embedding included.

    Args:
        query: (B, S, H * D) float32.
        key: (B, S, Hkv * D) float32.
        value: (B, S, Hkv * D) float32.
        past_key: (B, Hkv, T, D) float32.
        past_value: (B, Hkv, T, D) float32.
        seqlens_k: (B,) int32, T - 1.
        total_sequence_length: () int32, T.
        position_ids: (B, S) int64, rows of the rotary caches.
        attention_bias: (B, 1, S, T) float32, added to the scores.
        num_heads: H, number of query heads.
        kv_num_heads: Hkv, number of key-value heads.
        scale: number that the scores are multiplied by.

    Returns:
        (B, S, H * D) float32, and the present keys and values, (B, Hkv, T, D) float32 each.
    """
    return query.clone(), past_key.clone(), past_value.clone()


def _weight(graph: Any, name: str) -> Any:
    return graph.op("dovetail::Weight", name_s=name)


def _typed(value: Any, sizes: list[int | None]) -> Any:
    # Without a type on every node the tracer prints a warning for each.
    return value.setType(torch._C.TensorType.get().with_dtype(torch.float32).with_sizes(sizes))


@symbolic_helper.parse_args("v", "s", "i")
def _embedding_nodes(graph: Any, input_ids: Any, weight: str, hidden_size: int) -> Any:
    rows = graph.op("dovetail::Embedding", _weight(graph, weight), input_ids)
    return _typed(rows, [None, None, hidden_size])


@symbolic_helper.parse_args("v", "s", "s", "i")
def _linear_nodes(graph: Any, x: Any, weight: str, bias: str, out_features: int) -> Any:
    product = _typed(graph.op("dovetail::Linear", x, _weight(graph, weight)), [None, None, out_features])
    return graph.op("Add", product, _weight(graph, bias)) if bias else product


@symbolic_helper.parse_args("v", "s", "f")
def _rms_norm_nodes(graph: Any, x: Any, weight: str, epsilon: float) -> Any:
    norm = graph.op("SimplifiedLayerNormalization", x, _weight(graph, weight), epsilon_f=epsilon, axis_i=-1)
    return norm.setType(x.type())


@symbolic_helper.parse_args("v", "s", "f", "i", "i")
def _head_rms_norm_nodes(graph: Any, x: Any, weight: str, epsilon: float, num_heads: int, head_size: int) -> Any:
    # 0 copies the axis, so batch and sequence stay dynamic.
    by_head = graph.op("Constant", value_t=torch.tensor([0, 0, num_heads, head_size]))
    flat = graph.op("Constant", value_t=torch.tensor([0, 0, num_heads * head_size]))
    heads = _rms_norm_nodes(graph, graph.op("Reshape", x, by_head), weight, epsilon)
    return graph.op("Reshape", heads, flat)


@symbolic_helper.parse_args("v", "v", "v", "v", "v", "v", "v", "v", "v", "i", "i", "f")
def _group_query_attention_nodes(
    graph: Any,
    query: Any,
    key: Any,
    value: Any,
    past_key: Any,
    past_value: Any,
    seqlens_k: Any,
    total_sequence_length: Any,
    position_ids: Any,
    attention_bias: Any,
    num_heads: int,
    kv_num_heads: int,
    scale: float,
) -> Any:
    context, present_key, present_value = graph.op(
        "com.microsoft::GroupQueryAttention",
        query,
        key,
        value,
        past_key,
        past_value,
        seqlens_k,
        total_sequence_length,
        _weight(graph, COS_TABLE),
        _weight(graph, SIN_TABLE),
        position_ids,
        attention_bias,
        num_heads_i=num_heads,
        kv_num_heads_i=kv_num_heads,
        scale_f=scale,
        do_rotary_i=1,
        outputs=3,
    )
    return context.setType(query.type()), present_key.setType(past_key.type()), present_value.setType(past_value.type())


for _name, _nodes in (
    ("embedding", _embedding_nodes),
    ("linear", _linear_nodes),
    ("rms_norm", _rms_norm_nodes),
    ("head_rms_norm", _head_rms_norm_nodes),
    ("group_query_attention", _group_query_attention_nodes),
):
    torch.onnx.register_custom_op_symbolic(f"dovetail::{_name}", _nodes, OPSET)  # type: ignore[attr-defined]
