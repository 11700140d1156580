"""Embedding and first blocks of a target that was cut in two."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.bundle.graph_entries import TargetEntry
from dovetail_ort_runtime.bundle.graph_names import BLOCK_STATES, INPUT_IDS, POSITION_IDS
from dovetail_ort_runtime.engine.cache_memory import CacheShape
from dovetail_ort_runtime.engine.devices import CPU
from dovetail_ort_runtime.engine.gpu_memory import memory_left, rows_that_fit, with_reserve
from dovetail_ort_runtime.engine.graph_choice import check_bias, check_dimensions, graph_to_open
from dovetail_ort_runtime.engine.graph_runner import Arrays, BoundForward, GraphRunner
from dovetail_ort_runtime.engine.host_buffers import HostBuffers
from dovetail_ort_runtime.engine.kv_cache import KVCache
from dovetail_ort_runtime.engine.session import device_errors, open_session, weight_bytes

_LEAST_ROWS: Final = 8  # loading runs this many to see whether a row depends on the others


def first_blocks_cache_shape(entry: TargetEntry, capacity: int) -> CacheShape:
    """The cache of a target's first blocks, which are in fp16.

    Args:
        entry: what the manifest says of the whole target.
        capacity: number of slots.
    """
    return CacheShape(
        num_layers=entry.front_layers,
        num_kv_heads=entry.num_kv_heads,
        capacity=capacity,
        head_size=entry.head_size,
        dtype=np.float16,
    )


class FirstBlocks(GraphRunner):
    """A session on a target's front graph, which is in fp16, and the cache of its blocks.

    A cut target keeps first paths alone, so CUDA takes the graph for chains where there is one.

    Args:
        graph: path of the ONNX file.
        entry: what the manifest says of the whole target.
        capacity: number of slots of the cache.
        threads: number of threads that one forward uses on the CPU.
        device: `cpu` or `cuda`.
        vram_limit: bytes that graph, cache and forwards may take on a GPU; None without a limit.

    Raises:
        InputError: weights and cache exceed the limit.
        BundleError: the graph is not the one that the entry describes.
        UnavailableError: CUDA cannot be used, or its memory holds too few rows.

    Attributes:
        max_rows: rows of one forward at most, fewer than the entry's where the limit holds no more.
        block_states: (max_rows or more, E) float32, output of the last block; a forward fills its first rows.
    """

    def __init__(
        self,
        graph: Path,
        entry: TargetEntry,
        *,
        capacity: int,
        threads: int,
        device: str,
        vram_limit: int | None,
    ) -> None:
        shape = first_blocks_cache_shape(entry, capacity)
        left = memory_left(weight_bytes(graph), shape.num_bytes, vram_limit)
        opened = graph_to_open(graph, entry.front_chain_graph, device=device, trees=False)
        session = open_session(opened, threads, device=device, vram_limit=left)
        check_bias(session, opened, for_chains=opened != graph)
        check_dimensions(session, opened, shape, {BLOCK_STATES: entry.hidden_size})
        most_rows = with_reserve(entry.max_rows)
        super().__init__(
            session,
            KVCache(shape, device=device),
            name="target, first blocks",
            graph=graph,  # the graph for chains has no weights of its own
            device=device,
            threads=threads,
            buffers=HostBuffers(device),
            most_rows=most_rows,
        )
        self.block_states: FloatArray = self.buffers.array(BLOCK_STATES, (most_rows, entry.hidden_size), np.float32)
        self.max_rows = entry.max_rows
        if vram_limit is not None and device != CPU:
            self.max_rows = rows_that_fit(entry.max_rows, _LEAST_ROWS, capacity, self._run_longest)

    @device_errors()
    def bind(self, tokens: Arrays) -> FirstBlocksForward:
        """Forwards over as many rows as there are tokens.

        Args:
            tokens: token ids and positions, (1, S) int64 each, by name of the input; they are filled before each
                forward.
        """
        return FirstBlocksForward(self, tokens)

    def _run_longest(self, num_rows: int) -> FirstBlocksForward:
        """Run rows that end in the last slot of the cache."""
        first = self.cache.capacity - num_rows
        tokens = {
            INPUT_IDS: np.zeros((1, num_rows), dtype=np.int64),
            POSITION_IDS: np.arange(first, self.cache.capacity)[None],
        }
        forward = self.bind(tokens)
        forward.run(first, None)
        return forward


class FirstBlocksForward(BoundForward):
    """Forwards of one size."""

    def __init__(self, blocks: FirstBlocks, tokens: Arrays) -> None:
        num_rows = tokens[INPUT_IDS].shape[1]
        self._inputs = blocks.inputs(num_rows, num_ancestors=0)
        super().__init__(
            blocks.session,
            written={**tokens, **self._inputs.fixed},
            outputs={BLOCK_STATES: blocks.block_states[None, :num_rows]},
            device=blocks.device,
        )
        blocks.cache.bind(self.binding)

    @device_errors()
    def run(self, length: int, ancestors: TokenArray | None) -> None:
        """Run the rows after `length` kept ones: a tree or, without ancestors, a chain."""
        self._inputs.fill(length, length, ancestors)
        self.execute(self._inputs.changing)
