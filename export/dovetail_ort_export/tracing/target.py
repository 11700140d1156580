"""Trace a transformers model into a graph skeleton: every operator in place, every weight a name.

`torch.onnx.export` drives the trace, over a model whose leaves (embedding, products, norms, attention) are swapped for
the operators of `operators`. What lies between the leaves, the order of the blocks, residuals, the gated MLP, is
transformers' own code.
"""

from __future__ import annotations

import inspect
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir
import torch
from torch import Tensor, nn

from dovetail_ort_export.source.weights import head_size
from dovetail_ort_export.tracing import operators

Shape = Sequence[int | str]
Axes = Mapping[str, Mapping[int, str]]

_ROWS: Final = 3
_CACHE_ROWS: Final = 8
ROW_AXES: Final = {0: "batch_size", 1: "sequence_length"}
CACHE_AXES: Final = {0: "batch_size", 2: "max_sequence_length"}
# Dynamic axes of the inputs that every graph has; the last two are GroupQueryAttention's lengths.
INPUT_AXES: Final[dict[str, dict[int, str]]] = {
    "input_ids": ROW_AXES,
    "position_ids": ROW_AXES,
    "attention_bias": {0: "batch_size", 2: "sequence_length", 3: "total_sequence_length"},
    "seqlens_k": {0: "batch_size"},
    "total_sequence_length": {},
}


def cache_axes(prefix: str, num_layers: int) -> dict[str, dict[int, str]]:
    """Dynamic axes of the keys and values of every block, by name."""
    return {f"{prefix}.{layer}.{part}": CACHE_AXES for layer in range(num_layers) for part in ("key", "value")}


def example_inputs(num_layers: int, num_kv_heads: int, size: int) -> dict[str, Any]:
    """Values for the inputs that every graph has, in their order: a few rows after a longer cache."""
    cache = (1, num_kv_heads, _CACHE_ROWS, size)
    return {
        "input_ids": torch.zeros(1, _ROWS, dtype=torch.int64),
        "position_ids": torch.arange(_ROWS)[None],
        "attention_bias": torch.zeros(1, 1, _ROWS, _ROWS),
        "seqlens_k": torch.tensor([_ROWS - 1], dtype=torch.int32),
        "total_sequence_length": torch.tensor(_ROWS, dtype=torch.int32),
        "past_key_values": [(torch.zeros(cache), torch.zeros(cache)) for _ in range(num_layers)],
    }


def trace_target(model: Any) -> ir.Model:
    """The skeleton of a transformers causal LM of a supported family, on torch's meta device or any other."""
    config = model.config
    with _as_target(model):
        return traced(
            "target",
            model,
            tuple(example_inputs(config.num_hidden_layers, config.num_key_value_heads, head_size(config)).values()),
            inputs=INPUT_AXES | cache_axes("past_key_values", config.num_hidden_layers),
            outputs={
                "logits": ROW_AXES,
                "hidden_states": ROW_AXES,
                **cache_axes("present", config.num_hidden_layers),
            },
            widths={
                "logits": ["sequence_length", config.vocab_size],
                "hidden_states": ["sequence_length", config.hidden_size],
            },
            cache=[config.num_key_value_heads, "max_sequence_length", head_size(config)],
        )


def cache_parameter(module: Any) -> str:
    """What a transformers module calls the cache: `past_key_values`, or `cache` in releases from 5.23 on."""
    return "cache" if "cache" in inspect.signature(type(module).forward).parameters else "past_key_values"


def traced(
    name: str,
    module: Any,
    arguments: tuple[Any, ...],
    *,
    inputs: Axes,
    outputs: Axes,
    widths: Mapping[str, Shape],
    cache: Shape,
) -> ir.Model:
    """The skeleton of a torch module, with the output shapes that the tracer leaves open.

    Args:
        name: of the graph.
        module: in evaluation mode; returns a flat tuple.
        arguments: example values of its parameters.
        inputs: dynamic axes by the name of each input, in the order of `arguments`, caches flattened.
        outputs: likewise of each output.
        widths: sizes behind the batch, by the name of the output.
        cache: sizes behind the batch of all other outputs.
    """
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # The tracer warns of every constant it meets and of its own successor.
        warnings.simplefilter("ignore")
        path = Path(folder) / "skeleton.onnx"
        torch.onnx.export(
            module,
            arguments,
            path,
            dynamo=False,
            opset_version=operators.OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={**inputs, **outputs},
        )
        skeleton = ir.load(path)
    for output in skeleton.graph.outputs:
        output.shape = ir.Shape(["batch_size", *widths.get(str(output.name), cache)])
    skeleton.graph.name = name
    return skeleton


@contextmanager
def _as_target(model: Any) -> Iterator[None]:
    """Within it the model's forward is the target's: cached, biased, with hidden states."""
    replaced = []
    for name, module in model.named_modules():
        forward = leaf_forward(name, module) if name else _target_forward(model)
        if forward is not None:
            module.forward = forward
            replaced.append(module)
    try:
        yield
    finally:
        for module in replaced:
            del module.forward


def _target_forward(model: Any) -> Callable[..., tuple[Tensor, ...]]:
    cache_name = cache_parameter(model.model.layers[0])

    def forward(
        input_ids: Tensor,
        position_ids: Tensor,
        attention_bias: Tensor,
        seqlens_k: Tensor,
        total_sequence_length: Tensor,
        past_key_values: list[tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, ...]:
        hidden_states = model.model.embed_tokens(input_ids)
        lengths = (seqlens_k, total_sequence_length)
        present: list[Tensor] = []
        for layer, past in zip(model.model.layers, past_key_values, strict=True):
            cache = LayerCache(position_ids, past, lengths, attention_bias, present)
            hidden_states = layer(hidden_states, **{cache_name: cache})
        hidden_states = model.model.norm(hidden_states)
        return model.lm_head(hidden_states), hidden_states, *present

    return forward


@dataclass(frozen=True, slots=True)
class LayerCache:
    """What one block's attention needs beside hidden states, on its way through the code of the block."""

    position_ids: Tensor
    past: tuple[Tensor, Tensor]
    lengths: tuple[Tensor, Tensor]
    bias: Tensor
    present: list[Tensor]


def leaf_forward(name: str, module: Any) -> Callable[..., Any] | None:
    """The operator that stands for a leaf module, or None if the module is not one."""
    kind = type(module).__name__
    weight = f"{name}.weight"
    if isinstance(module, nn.Embedding):
        return lambda input_ids: operators.embedding(input_ids, weight, module.embedding_dim)
    if isinstance(module, nn.Linear):
        bias = "" if module.bias is None else f"{name}.bias"
        return lambda x: operators.linear(x, weight, bias, module.out_features)
    if kind.endswith("RMSNorm"):
        epsilon = float(module.variance_epsilon)
        if name.endswith((".q_norm", ".k_norm")):
            size = module.weight.shape[0]
            return lambda x: operators.head_rms_norm(x, weight, epsilon, x.shape[-1] // size, size)
        return lambda x: operators.rms_norm(x, weight, epsilon)
    if kind.endswith("Attention"):
        heads = (module.config.num_attention_heads, module.config.num_key_value_heads)
        return lambda hidden_states, cache=None, past_key_values=None, **_: (
            attend(module, hidden_states, cache or past_key_values, heads),
            None,
        )
    return None


def attend(attention: Any, hidden_states: Tensor, cache: LayerCache, heads: tuple[int, int]) -> Tensor:
    """An attention module in operators of `operators`; `heads` are H and Hkv."""
    query, key = attention.q_proj(hidden_states), attention.k_proj(hidden_states)
    value = attention.v_proj(hidden_states)
    if hasattr(attention, "q_norm"):
        query, key = attention.q_norm(query), attention.k_norm(key)
    context, *present = operators.group_query_attention(
        query, key, value, *cache.past, *cache.lengths, cache.position_ids, cache.bias, *heads, attention.scaling
    )
    cache.present.extend(present)
    mixed: Tensor = attention.o_proj(context)
    return mixed
