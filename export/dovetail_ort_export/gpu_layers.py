"""How many of a target's first blocks a GPU's memory holds."""

from typing import Any, Final

import numpy as np

from dovetail_ort_export.weights import head_size
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.kv_cache import cache_bytes

_HALF: Final = 2  # bytes of a number in fp16
_GRAPH_BYTES: Final = 2**20  # the graph itself, beside its weights


def blocks_within(vram_limit: int, model: Any, *, max_context: int, max_rows: int) -> int:
    """The most blocks of a causal LM that `vram_limit` bytes hold, but never all of them.

    With them go the embedding, a cache of `max_context` slots and the activations of a pass over `max_rows` rows. What
    CUDA and its libraries take for themselves is not counted.

    Raises:
        InputError: not even one block fits.
    """
    config = model.config
    embedding = model.get_input_embeddings().weight.numel()
    rotary = max_context * head_size(config)
    activations = max_rows * (4 * config.hidden_size + 3 * config.intermediate_size)
    ends = _HALF * (embedding + rotary + activations) + _GRAPH_BYTES
    weights = _HALF * sum(parameter.numel() for parameter in model.model.layers[0].parameters())
    block = weights + cache_bytes(1, config.num_key_value_heads, max_context, head_size(config), np.float16)
    number = (vram_limit - ends) // block
    if number < 1:
        raise InputError(
            f"vram_limit must hold {ends} bytes of embedding and activations and {block} of a block with its cache, "
            f"got {vram_limit}; take a larger one or a smaller max_context"
        )
    return int(min(number, config.num_hidden_layers - 1))
