"""How many blocks of a target go into the graph for a GPU. It knows no GPU: memory is a number of bytes."""

from __future__ import annotations

from typing import Final

import numpy as np

from dovetail_ort_export.options import MAX_ROWS, ExportOptions, Report
from dovetail_ort_export.source.causal_lm import CausalLM
from dovetail_ort_export.source.weights import head_size
from dovetail_ort_runtime.engine.cache_memory import CacheShape
from dovetail_ort_runtime.errors import InputError

_HALF_BYTES: Final = 2
_FLOAT_BYTES: Final = 4
_GRAPH_BYTES: Final = 2**20  # the front graph itself, without its weights


def number_of_gpu_layers(options: ExportOptions, model: CausalLM, max_context: int, report: Report) -> int:
    """Number of first blocks that go into a graph for a GPU, as the options say.

    Args:
        options: settings of the export.
        model: transformers causal LM.
        max_context: largest number of tokens of prompt and answer.
        report: function that is called with one line of text if a number was chosen.

    Raises:
        InputError: the number is not below the model's, or the limit of memory holds not one block.
    """
    num_layers = model.config.num_hidden_layers
    if options.vram_limit is not None:
        number = _blocks_within(options.vram_limit, model, max_context)
        report(f"cutting after {number} of {num_layers} blocks")
        return number
    number = int(options.gpu_layers)
    if number >= num_layers:
        raise InputError(f"gpu_layers must be below the model's {num_layers} blocks, got {number}")
    return number


def _blocks_within(vram_limit: int, model: CausalLM, max_context: int) -> int:
    """Largest number of blocks that fit, with embedding, cache and the activations of a forward; never all of them.

    What CUDA and its libraries take for themselves is not counted. Where attention is not flash attention, its scores
    are there at once, (H, S, T) in float32.
    """
    config = model.config
    ends = _bytes_of_ends(model, max_context)
    weights = _HALF_BYTES * sum(parameter.numel() for parameter in model.model.layers[0].parameters())
    cache = CacheShape(
        num_layers=1,
        num_kv_heads=config.num_key_value_heads,
        capacity=max_context,
        head_size=head_size(config),
        dtype=np.float16,
    )
    block = weights + cache.num_bytes
    number = (vram_limit - ends) // block
    if number < 1:
        raise InputError(
            f"vram_limit must hold {ends} bytes of embedding and activations and {block} of a block with its cache, "
            f"got {vram_limit}; take a larger one or a smaller max_context"
        )
    return int(min(number, config.num_hidden_layers - 1))


def _bytes_of_ends(model: CausalLM, max_context: int) -> int:
    """Bytes of all that does not depend on the number of blocks."""
    config = model.config
    embedding = model.model.embed_tokens.weight.numel()
    rotary = max_context * head_size(config)
    activations = MAX_ROWS * (4 * config.hidden_size + 3 * config.intermediate_size)
    scores = _FLOAT_BYTES * MAX_ROWS * config.num_attention_heads * max_context
    return int(_HALF_BYTES * (embedding + rotary + activations) + scores + _GRAPH_BYTES)
