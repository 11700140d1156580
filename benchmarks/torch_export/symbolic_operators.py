"""The operators of `dovetail_ort_export.tracing.operators` for `torch.export`, and the trace that uses them.

`torch.onnx.ops.symbolic` states the ONNX node itself, with the type and shape of what it gives, so neither a custom
operator, nor its fake, nor a translation into nodes is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from unittest import mock

import onnx_ir as ir
import torch
from torch import Tensor
from torch.onnx.ops import symbolic, symbolic_multi_out

from dovetail_ort_export.tracing import operators, target
from dovetail_ort_export.tracing.axes import Axes
from dovetail_ort_runtime.bundle.graph_names import COS_TABLE, SIN_TABLE

_Attributes = dict[str, int | float | str | bool | Sequence[int] | Sequence[float] | Sequence[str] | Sequence[bool]]

_FLOAT: Final = torch.float32


@contextmanager
def traced_by_torch_export() -> Iterator[None]:
    """Within it `target.trace_target` goes through `torch.export`."""
    with mock.patch.dict(vars(operators), _OPERATORS), mock.patch.object(target, "traced", exported):
        yield


def exported(
    name: str,
    module: Any,
    arguments: tuple[Any, ...],
    *,
    inputs: Axes,
    outputs: Axes,
    **_: Any,
) -> ir.Model:
    """What `target.traced` gives, by `torch.export`, which infers the shapes of outputs."""
    program = torch.onnx.export(
        module,
        arguments,
        dynamo=True,
        opset_version=operators.OPSET,
        input_names=list(inputs),
        output_names=list(outputs),
        dynamic_shapes=dynamic_shapes(arguments, inputs),
        verbose=False,
    )
    assert program is not None
    skeleton: ir.Model = program.model
    skeleton.graph.name = name
    return skeleton


def dynamic_shapes(arguments: tuple[Any, ...], inputs: Axes) -> Any:
    """The named axes of the inputs, nested as the arguments are; equal names are one dimension."""
    names = {name for axes in inputs.values() for name in axes.values()}
    dimensions = {name: torch.export.Dim(name) for name in names}
    flat = iter(inputs.values())

    def nested(argument: Any) -> Any:
        if isinstance(argument, Tensor):
            return {axis: dimensions[name] for axis, name in next(flat).items()}
        return type(argument)(nested(part) for part in argument)

    return nested(arguments)


def _weight(name: str, *shape: int) -> Tensor:
    return symbolic("dovetail::Weight", [], {"name": name}, dtype=_FLOAT, shape=shape, version=1)


def _embedding(input_ids: Tensor, weight: str, hidden_size: int) -> Tensor:
    # The size of the vocabulary is not known here, and nothing looks at it.
    inputs = [_weight(weight, 1, hidden_size), input_ids]
    return symbolic("dovetail::Embedding", inputs, dtype=_FLOAT, shape=(*input_ids.shape, hidden_size), version=1)


def _linear(x: Tensor, weight: str, bias: str, out_features: int) -> Tensor:
    inputs = [x, _weight(weight, out_features, x.shape[-1])]
    product = symbolic("dovetail::Linear", inputs, dtype=_FLOAT, shape=(*x.shape[:-1], out_features), version=1)
    return product + _weight(bias, out_features) if bias else product


def _rms_norm(x: Tensor, weight: str, epsilon: float) -> Tensor:
    inputs = [x, _weight(weight, x.shape[-1])]
    attributes: _Attributes = {"epsilon": epsilon, "axis": -1}
    return symbolic("SimplifiedLayerNormalization", inputs, attributes, dtype=_FLOAT, shape=x.shape)


def _head_rms_norm(x: Tensor, weight: str, epsilon: float, num_heads: int, head_size: int) -> Tensor:
    # torch's own reshape would compute batch and sequence from other inputs; 0 copies them.
    by_head = torch.tensor([0, 0, num_heads, head_size])
    flat = torch.tensor([0, 0, num_heads * head_size])
    heads = symbolic("Reshape", [x, by_head], dtype=_FLOAT, shape=(*x.shape[:2], num_heads, head_size))
    return symbolic("Reshape", [_rms_norm(heads, weight, epsilon), flat], dtype=_FLOAT, shape=x.shape)


def _group_query_attention(
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
) -> tuple[Tensor, ...]:
    half = past_key.shape[-1] // 2
    tables = [_weight(name, 1, half) for name in (COS_TABLE, SIN_TABLE)]
    lengths = [seqlens_k, total_sequence_length]
    inputs = [query, key, value, past_key, past_value, *lengths, *tables, position_ids, attention_bias]
    attributes: _Attributes = {"num_heads": num_heads, "kv_num_heads": kv_num_heads, "scale": scale, "do_rotary": 1}
    shapes = [query.shape, past_key.shape, past_value.shape]
    name = "com.microsoft::GroupQueryAttention"
    return tuple(symbolic_multi_out(name, inputs, attributes, dtypes=[_FLOAT] * 3, shapes=shapes, version=1))


_OPERATORS: Final = {
    "embedding": _embedding,
    "linear": _linear,
    "rms_norm": _rms_norm,
    "head_rms_norm": _head_rms_norm,
    "group_query_attention": _group_query_attention,
}
