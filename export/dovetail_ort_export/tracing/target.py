"""Trace a transformers model into a graph skeleton: every operator in place, every weight a name.

`torch.onnx.export` drives the trace, over a model whose leaves are swapped for the operators of `operators`. What lies
between the leaves, the order of the blocks, residuals, the gated MLP, is transformers' own code. It knows no weights.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
from torch import Tensor

from dovetail_ort_export.source.causal_lm import CausalLM
from dovetail_ort_export.source.weights import head_size
from dovetail_ort_export.tracing.axes import CACHE_SLOTS, INPUT_AXES, ROW_AXES, ROWS, past_axes, present_axes
from dovetail_ort_export.tracing.leaves import LayerCache, leaf_forward
from dovetail_ort_export.tracing.skeleton import example_inputs, traced
from dovetail_ort_runtime.bundle.graph_names import HIDDEN_STATES, LOGITS


def trace_target(model: CausalLM) -> ir.Model:
    """The skeleton of a transformers causal LM of a supported family.

    Args:
        model: the model, in evaluation mode, on torch's meta device or any other.

    Returns:
        A graph with the inputs and outputs of a portable target, logits of all rows among them.
    """
    config = model.config
    num_layers = config.num_hidden_layers
    arguments = example_inputs(num_layers, config.num_key_value_heads, head_size(config))
    with _as_target(model):
        return traced(
            "target",
            model,
            tuple(arguments.values()),
            inputs={**INPUT_AXES, **past_axes(num_layers)},
            outputs={LOGITS: ROW_AXES, HIDDEN_STATES: ROW_AXES, **present_axes(num_layers)},
            widths={LOGITS: [ROWS, config.vocab_size], HIDDEN_STATES: [ROWS, config.hidden_size]},
            cache=[config.num_key_value_heads, CACHE_SLOTS, head_size(config)],
        )


def cache_parameter(module: Any) -> str:
    """Name of the cache among a transformers module's parameters: `past_key_values`, or `cache` since release 5.23."""
    return "cache" if "cache" in inspect.signature(type(module).forward).parameters else "past_key_values"


@contextmanager
def _as_target(model: CausalLM) -> Iterator[None]:
    """Within this context the model's forward is that of a target: with cache, attention bias and hidden states."""
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


def _target_forward(model: CausalLM) -> Callable[..., tuple[Tensor, ...]]:
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
