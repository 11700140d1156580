"""The shape of a published head's decoder blocks, by its configuration and by the names of its tensors."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from dovetail_ort_export.heads.config import BlockConfig
from dovetail_ort_export.heads.published.keys import Keys
from dovetail_ort_export.source.rules import AnyOf, Listed, Number, Truth
from dovetail_ort_runtime.errors import SourceError

# Width of a tensor. No honest head comes near its bound, and a number of any size must not reach torch.
SIZE: Final = Number(whole=True, least=1, most=1 << 18)

_HEAD_SIZE_STEP: Final = 16  # GroupQueryAttention's, where it rotates
_MOST_BLOCKS: Final = 6
_DEFAULT_EPSILON: Final = 1e-6


def read_block(keys: Keys, tensors: Collection[str], *, needs_qk_norm: bool) -> BlockConfig:
    """The shape of a head's blocks.

    Args:
        keys: the configuration.
        tensors: canonical names of the head's tensors.
        needs_qk_norm: whether all blocks of this kind have norms of queries and keys.

    Raises:
        SourceError: a size is missing, or the blocks are of another kind.
    """
    hidden_size = keys.need("hidden_size", SIZE)
    num_heads = keys.need("num_attention_heads", SIZE)
    num_kv_heads = keys.take("num_key_value_heads", SIZE, num_heads)
    if num_heads % num_kv_heads:
        raise SourceError(
            f"num_attention_heads must be a multiple of num_key_value_heads, got {num_heads} and {num_kv_heads}"
        )
    keys.take("hidden_act", AnyOf(("silu", "swish")))
    attention = "layers.0.self_attn"
    stated_bias = keys.take("attention_bias", Truth())
    return BlockConfig(
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_size=_head_size(keys, hidden_size, num_heads),
        intermediate_size=keys.need("intermediate_size", SIZE),
        norm_epsilon=keys.take("rms_norm_eps", Number(above=0), _DEFAULT_EPSILON),
        qkv_bias=_qkv_bias(keys, stated_bias, f"{attention}.q_proj.bias" in tensors),
        output_bias=stated_bias is not False and f"{attention}.o_proj.bias" in tensors,
        mlp_bias=keys.take("mlp_bias", Truth(), "layers.0.mlp.gate_proj.bias" in tensors),
        qk_norm=needs_qk_norm or f"{attention}.q_norm.weight" in tensors,
    )


def read_num_layers(keys: Keys) -> int:
    """Number of blocks of a head.

    Raises:
        SourceError: it is missing, or that of a whole model.
    """
    num_layers: int = keys.need("num_hidden_layers", Number(whole=True, least=1))
    if num_layers > _MOST_BLOCKS:
        raise SourceError(
            f"num_hidden_layers of a draft head must be at most {_MOST_BLOCKS}, got {num_layers}; "
            "is this a whole model?"
        )
    keys.take("draft_num_hidden_layers", AnyOf((num_layers,)))
    return num_layers


def check_window(keys: Keys) -> None:
    """Refuse blocks that see a part of the text only.

    Raises:
        SourceError: they do.
    """
    window = keys.take("sliding_window", Number(whole=True))
    uses_window = keys.take("use_sliding_window", Truth())
    keys.take("max_window_layers", Number(whole=True))
    layer_types = keys.take("layer_types", Listed(("full_attention", "sliding_attention")))
    if layer_types is not None:
        slides = "sliding_attention" in layer_types
    else:
        slides = window is not None and uses_window is not False
    if slides:
        raise SourceError(f"a draft head must see the whole text, got a sliding window of {window} tokens")


def refuse_new_parts(block: BlockConfig) -> None:
    """Refuse parts that no EAGLE-1 or 2 head has.

    Raises:
        SourceError: the blocks have some.
    """
    parts = {"output_bias": block.output_bias, "mlp_bias": block.mlp_bias, "norms of queries and keys": block.qk_norm}
    found = [part for part, is_there in parts.items() if is_there]
    if found:
        raise SourceError(f"an EAGLE-1 or 2 head must have plain Llama layers, got {' and '.join(found)}")


def _head_size(keys: Keys, hidden_size: int, num_heads: int) -> int:
    size = keys.take("head_dim", SIZE)
    if size is None:
        if hidden_size % num_heads:
            raise SourceError(
                "hidden_size must be a multiple of num_attention_heads where there is no head_dim, got "
                f"{hidden_size} and {num_heads}"
            )
        size = hidden_size // num_heads
    if size % _HEAD_SIZE_STEP:
        raise SourceError(f"the head size of a draft head must be a multiple of {_HEAD_SIZE_STEP}, got {size}")
    return int(size)


def _qkv_bias(keys: Keys, attention_bias: bool | None, is_seen: bool) -> bool:
    """Whether queries, keys and values have a bias, by either of two keys."""
    qkv_bias = keys.take("qkv_bias", Truth())
    stated = {value for value in (attention_bias, qkv_bias) if value is not None}
    if len(stated) > 1:
        raise SourceError(
            f"attention_bias and qkv_bias must be equal, got {attention_bias} and {qkv_bias}; keep the right one"
        )
    return stated.pop() if stated else is_seen
