"""The leaves of a torch model (embedding, products, norms, attention) in the operators of `operators`.

What lies between the leaves stays the model's own code. Nothing here knows a whole model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dovetail_ort_export.tracing import operators


@dataclass(frozen=True, slots=True)
class LayerCache:
    """The inputs of one block's attention besides hidden states, passed through the code of the block.

    Attributes:
        position_ids: (B, S) int64, positions of the rows.
        past: keys and values that the graph reads, (B, Hkv, T, D) float32 each.
        lengths: GroupQueryAttention's (B,) and () int32.
        bias: (B, 1, S, T) float32, added to the scores.
        present: keys and values that the graph gives; each block's attention appends its two.
    """

    position_ids: Tensor
    past: tuple[Tensor, Tensor]
    lengths: tuple[Tensor, Tensor]
    bias: Tensor
    present: list[Tensor]


def leaf_forward(name: str, module: Any) -> Callable[..., Any] | None:
    """The function that replaces the forward of a leaf module, or None if the module is no leaf.

    Args:
        name: name of the module in its model; it is also the beginning of the names of its weights.
        module: torch module of a model of a supported family.
    """
    kind = type(module).__name__
    if isinstance(module, nn.Embedding):
        return lambda input_ids: operators.embedding(input_ids, f"{name}.weight", module.embedding_dim)
    if isinstance(module, nn.Linear):
        bias = "" if module.bias is None else f"{name}.bias"
        return lambda x: operators.linear(x, f"{name}.weight", bias, module.out_features)
    if kind.endswith("RMSNorm"):
        return _norm_forward(name, module)
    if kind.endswith("Attention"):
        return _attention_forward(module)
    return None


def attend(attention: Any, hidden_states: Tensor, cache: LayerCache, heads: tuple[int, int]) -> Tensor:
    """Compute an attention module with operators of `operators`.

    Args:
        attention: torch module with q_proj, k_proj, v_proj, o_proj and `scaling`; q_norm and k_norm where it has them.
        hidden_states: (B, S, E) float32.
        cache: cache of the module's block.
        heads: H and Hkv.

    Returns:
        (B, S, E) float32.
    """
    query = attention.q_proj(hidden_states)
    key = attention.k_proj(hidden_states)
    value = attention.v_proj(hidden_states)
    if hasattr(attention, "q_norm"):
        query = attention.q_norm(query)
        key = attention.k_norm(key)
    context, present_key, present_value = operators.group_query_attention(
        query, key, value, *cache.past, *cache.lengths, cache.position_ids, cache.bias, *heads, attention.scaling
    )
    cache.present.extend((present_key, present_value))
    mixed: Tensor = attention.o_proj(context)
    return mixed


def _norm_forward(name: str, module: Any) -> Callable[[Tensor], Tensor]:
    weight = f"{name}.weight"
    epsilon = float(module.variance_epsilon)
    if not name.endswith((".q_norm", ".k_norm")):
        return lambda x: operators.rms_norm(x, weight, epsilon)
    size = module.weight.shape[0]
    return lambda x: operators.head_rms_norm(x, weight, epsilon, x.shape[-1] // size, size)


def _attention_forward(module: Any) -> Callable[..., tuple[Tensor, None]]:
    heads = (module.config.num_attention_heads, module.config.num_key_value_heads)

    def forward(hidden_states: Tensor, cache: Any = None, past_key_values: Any = None, **_: Any) -> tuple[Tensor, None]:
        return attend(module, hidden_states, cache or past_key_values, heads), None

    return forward
