"""The target model: one forward over a few new rows, hidden states of each and the logits that are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.bundle.graph_entries import TapsEntry, TargetEntry
from dovetail_ort_runtime.bundle.graph_names import (
    BLOCK_STATES,
    DRAFTER_FEATURES,
    HIDDEN_STATES,
    INPUT_IDS,
    LOGITS,
    POSITION_IDS,
    SCORED_ROWS,
)
from dovetail_ort_runtime.checks import must_be_at_least
from dovetail_ort_runtime.engine.cache_memory import NATIVE_LAYOUT, PORTABLE_LAYOUT, CacheShape, cache_type
from dovetail_ort_runtime.engine.devices import CPU
from dovetail_ort_runtime.engine.first_blocks import FirstBlocks, FirstBlocksForward
from dovetail_ort_runtime.engine.forward_inputs import ancestor_slots
from dovetail_ort_runtime.engine.forward_rows import ForwardRows
from dovetail_ort_runtime.engine.graph_choice import TargetGraphs, check_dimensions, feature_size, graphs_to_load
from dovetail_ort_runtime.engine.graph_runner import Arrays, BoundForward, BoundForwards, GraphRunner
from dovetail_ort_runtime.engine.host_buffers import HostBuffers
from dovetail_ort_runtime.engine.kv_cache import KVCache
from dovetail_ort_runtime.engine.ort_protocols import Session
from dovetail_ort_runtime.engine.session import SessionReport, open_session
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.machine.processor import usable_cores

# Rows of a portable graph's forward, and of its head, at the least: `MatMulNBits` rounds a single row differently.
_TWO_ROWS: Final = 2


@dataclass(frozen=True, slots=True, eq=False)
class TargetOutput:
    """What one forward gave; views that the next forward overwrites.

    Attributes:
        logits: (n, V) float32, logits of the rows that were asked for.
        hidden_states: (S, E) float32, hidden states after the final norm.
        features: (S, F) float32, the drafter's features; the hidden states where the target has no taps.
    """

    logits: FloatArray
    hidden_states: FloatArray
    features: FloatArray


class Target(GraphRunner):
    """A session on the target's graph and the cache of one sequence.

    A native graph gives a row the same bits whatever other rows there are. A portable one has other kernels for a
    single row than for several, and their sums round differently. So neither its forwards nor its head ever run with
    one row: a single row is padded to two, and the second row's result is dropped.

    Args:
        graph: path of the ONNX file.
        entry: what the manifest says of the target.
        max_context: number of slots of the cache, at most the bundle's maximum (the default).
        threads: number of threads that one forward uses; the usable physical cores by default.
        first_blocks_device: `cpu` or `cuda`, for the first blocks of a cut target; all others are on the CPU.
        vram_limit: bytes that the first blocks may take on a GPU; None without a limit.
        trace: beginning of the name of ONNX Runtime's profile of the blocks on the CPU; None for no profile.
        taps: the graphs that give `drafter_features`, too, which are opened instead; None opens the plain ones.

    Raises:
        InputError: an argument is out of its bounds, or a target that was cut is to have taps.
        BundleError: the graph is not the one that the entry describes.
        UnavailableError: the graph is native, and the library of operators is missing.

    Attributes:
        first_blocks: the first blocks of a target that runs in two graphs, or None.
        vocabulary_size: number of logits of a row, V.
        hidden_size: length of a hidden state, E.
        feature_size: length of a feature, F; E where the target has no taps.
        max_rows: rows of one forward at most, fewer than the entry's where a GPU holds no more.
        logits: (max_rows, V) float32; a forward fills its first rows.
        hidden_states: (max_rows, E) float32; a forward fills its first rows.
        features: (max_rows, F) float32; a forward fills its first rows. The hidden states where there are no taps.
        chooses_rows: whether the graph computes the logits of chosen rows only.
        is_native: whether all blocks run in native operators.
        has_taps: whether the features are others than the hidden states.
        least_rows: rows of a forward at the least, 1 or 2; fewer are padded.
        keeps_branches: whether rows of a tree's side branch may be kept: they have the bits of a chain.
    """

    def __init__(
        self,
        graph: Path,
        entry: TargetEntry,
        *,
        max_context: int | None = None,
        threads: int | None = None,
        first_blocks_device: str = CPU,
        vram_limit: int | None = None,
        trace: Path | None = None,
        taps: TapsEntry | None = None,
    ) -> None:
        capacity = entry.max_context if max_context is None else max_context
        if not 2 <= capacity <= entry.max_context:
            raise InputError(f"max_context must be between 2 and the bundle's {entry.max_context}, got {capacity}")
        threads = usable_cores() if threads is None else threads
        must_be_at_least("threads", threads, 1)
        graphs = graphs_to_load(graph, entry, first_blocks_device, taps)
        first_blocks: FirstBlocks | None = None
        if graphs.first_blocks is not None:
            first_blocks = FirstBlocks(
                graphs.first_blocks,
                entry,
                capacity=capacity,
                threads=threads,
                device=first_blocks_device,
                vram_limit=vram_limit,
            )
        session = open_session(graphs.graph, threads, trace=trace)
        max_rows = entry.max_rows if first_blocks is None else first_blocks.max_rows
        super().__init__(
            session,
            _checked_cache(session, entry, graphs, capacity, first_blocks),
            name="target",
            graph=graphs.graph,
            device=CPU,
            threads=threads,
            buffers=HostBuffers(CPU) if first_blocks is None else first_blocks.buffers,
            most_rows=max_rows,
        )
        self.first_blocks = first_blocks
        self.max_rows = max_rows
        self.vocabulary_size = entry.vocabulary_size
        self.hidden_size = entry.hidden_size
        self.feature_size = entry.hidden_size if taps is None else feature_size(session, graphs.graph)
        self.is_native = graphs.is_native and first_blocks is None
        self.least_rows = 1 if self.is_native else _TWO_ROWS
        self.keeps_branches = self.is_native
        self.chooses_rows = any(value.name == SCORED_ROWS for value in session.get_inputs())
        self.logits: FloatArray = np.empty((max_rows, entry.vocabulary_size), dtype=np.float32)
        self.hidden_states: FloatArray = np.empty((max_rows, entry.hidden_size), dtype=np.float32)
        self.has_taps = taps is not None
        self.features = self.hidden_states
        if self.has_taps:
            self.features = np.empty((max_rows, self.feature_size), dtype=np.float32)
        self._forwards: BoundForwards[_Forward] = BoundForwards()

    def forward(self, rows: ForwardRows, *, num_scored: int | None = None) -> TargetOutput:
        """Run the rows after the cache's kept tokens; its length stays.

        Args:
            rows: 1 to `max_rows` rows, for which the cache has room.
            num_scored: how many of the last rows need logits, 1 or more; all if None.
        """
        num_rows = len(rows.token_ids)
        num_scored = num_rows if num_scored is None else num_scored
        padded = max(num_rows, self.least_rows)
        scored = max(num_scored, self.least_rows) if self.chooses_rows else padded
        length = self.cache.length
        ancestors = None if rows.parents is None else ancestor_slots(rows.parents, length)
        num_ancestors = 0 if ancestors is None else ancestors.shape[1]
        size = (padded, scored, num_ancestors)
        forward = self._forwards.get(size)
        if forward is None:
            forward = self._forwards.keep(size, _Forward(self, *size))
        first_scored = max(num_rows - scored, 0)
        forward.run(rows, length, ancestors, first_scored)
        end = num_rows - first_scored
        logits = self.logits[end - num_scored : end]
        return TargetOutput(logits, self.hidden_states[:num_rows], self.features[:num_rows])

    def chunks(
        self, token_ids: TokenArray, *, rows: int | None = None, num_scored: int | None = None
    ) -> Iterator[tuple[TokenArray, TargetOutput]]:
        """Read tokens after the kept ones, and keep them.

        Args:
            token_ids: (T,) int64, for which the cache has room.
            rows: tokens of one forward at most; `max_rows` if None.
            num_scored: how many of the last rows of each forward need logits, 1 or more; all if None.

        Yields:
            The tokens of each forward, which the cache keeps already, and what the forward gave.
        """
        size = self.max_rows if rows is None else rows
        for start in range(0, len(token_ids), size):
            chunk = token_ids[start : start + size]
            output = self.forward(ForwardRows.chain(chunk, self.cache.length), num_scored=num_scored)
            self.cache.keep(range(len(chunk)))
            yield chunk, output

    def read(self, token_ids: TokenArray, *, rows: int | None = None) -> TargetOutput:
        """Read a text from its first token on, and keep it; the cache forgets what it held.

        Args:
            token_ids: (T,) int64.
            rows: tokens of one forward at most; `max_rows` if None.

        Returns:
            Logits (T, V), hidden states (T, E) and features (T, F), which no forward overwrites.
        """
        self.cache.rewind(0)
        logits: list[FloatArray] = []
        hidden_states: list[FloatArray] = []
        features: list[FloatArray] = []
        for _, output in self.chunks(token_ids, rows=rows):
            logits.append(output.logits.copy())
            hidden_states.append(output.hidden_states.copy())
            if self.has_taps:
                features.append(output.features.copy())
        all_states = np.concatenate(hidden_states)
        all_features = np.concatenate(features) if self.has_taps else all_states
        return TargetOutput(np.concatenate(logits), all_states, all_features)

    def reports(self) -> tuple[SessionReport, ...]:
        """Where each session runs, that of the first blocks first."""
        own = self.report()
        return (own,) if self.first_blocks is None else (self.first_blocks.report(), own)


class _Forward(BoundForward):
    """Forwards of one size."""

    def __init__(self, target: Target, num_rows: int, num_scored: int, num_ancestors: int) -> None:
        self._token_ids: TokenArray = target.buffers.array(INPUT_IDS, (1, num_rows), np.int64)
        self._position_ids: TokenArray = target.buffers.array(POSITION_IDS, (1, num_rows), np.int64)
        self._scored_rows: TokenArray = np.zeros(num_scored, dtype=np.int64)
        self._steps = np.arange(num_scored)
        self._inputs = target.inputs(num_rows, num_ancestors)
        tokens: Arrays = {INPUT_IDS: self._token_ids, POSITION_IDS: self._position_ids}
        written = {**tokens, **self._inputs.fixed}
        if target.chooses_rows:
            written[SCORED_ROWS] = self._scored_rows
        self._first_blocks: FirstBlocksForward | None = None
        if target.first_blocks is not None:
            self._first_blocks = target.first_blocks.bind(tokens)
            written[BLOCK_STATES] = target.first_blocks.block_states[None, :num_rows]
        outputs = {
            LOGITS: target.logits[None, :num_scored],
            HIDDEN_STATES: target.hidden_states[None, :num_rows],
        }
        if target.has_taps:
            outputs[DRAFTER_FEATURES] = target.features[None, :num_rows]
        super().__init__(target.session, written=written, outputs=outputs)
        target.cache.bind(self.binding)

    def run(self, rows: ForwardRows, length: int, ancestors: TokenArray | None, first_scored: int) -> None:
        """Run the rows after `length` kept ones; padding repeats the last position."""
        num_rows = len(rows.token_ids)
        self._token_ids[0, :num_rows] = rows.token_ids
        self._position_ids[0, :num_rows] = rows.position_ids
        if num_rows < self._position_ids.shape[1]:
            self._position_ids[0, num_rows:] = rows.position_ids[-1]
        np.add(self._steps, first_scored, out=self._scored_rows)
        self._inputs.fill(length, length, ancestors)
        if self._first_blocks is not None:
            self._first_blocks.run(length, ancestors)
        self.execute(self._inputs.changing)


def _checked_cache(
    session: Session, entry: TargetEntry, graphs: TargetGraphs, capacity: int, first_blocks: FirstBlocks | None
) -> KVCache:
    """The cache of the blocks in `graphs.graph`, whose dimensions are compared with the manifest's."""
    shape = CacheShape(
        num_layers=entry.num_layers - graphs.num_first_blocks,
        num_kv_heads=entry.num_kv_heads,
        capacity=capacity,
        head_size=entry.head_size,
        layout=NATIVE_LAYOUT if graphs.is_native else PORTABLE_LAYOUT,
    )
    sizes = {LOGITS: entry.vocabulary_size, HIDDEN_STATES: entry.hidden_size}
    first_layer = graphs.num_first_blocks
    check_dimensions(session, graphs.graph, shape, sizes, first_layer=first_layer)
    return KVCache(
        replace(shape, dtype=cache_type(session)),
        first_layer=first_layer,
        first_blocks=None if first_blocks is None else first_blocks.cache,
    )
