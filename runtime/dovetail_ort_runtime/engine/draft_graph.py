"""The draft graph: features and token ids in, predicted features and the likeliest next tokens out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dovetail_ort_runtime import kernels
from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.bundle.formats import FP16, NATIVE
from dovetail_ort_runtime.bundle.graph_entries import DrafterEntry
from dovetail_ort_runtime.bundle.graph_names import (
    CANDIDATE_IDS,
    CANDIDATE_LOG_PROBABILITIES,
    HIDDEN_STATES,
    INPUT_IDS,
    NUM_CANDIDATES,
    POSITION_IDS,
    PREDICTED_STATES,
    SCORED_ROWS,
)
from dovetail_ort_runtime.engine.cache_memory import NATIVE_LAYOUT, PORTABLE_LAYOUT, CacheShape, cache_type
from dovetail_ort_runtime.engine.devices import CPU, CUDA
from dovetail_ort_runtime.engine.gpu_memory import memory_left, rows_that_fit, with_reserve
from dovetail_ort_runtime.engine.graph_choice import check_bias, check_dimensions, graph_to_open, missing_library
from dovetail_ort_runtime.engine.graph_runner import BoundForward, BoundForwards, GraphRunner
from dovetail_ort_runtime.engine.host_buffers import HostBuffers
from dovetail_ort_runtime.engine.kv_cache import KVCache
from dovetail_ort_runtime.engine.ort_protocols import Session
from dovetail_ort_runtime.engine.session import device_errors, open_session, weight_bytes
from dovetail_ort_runtime.errors import BundleError, InputError, UnavailableError


@dataclass(frozen=True, slots=True, eq=False)
class DraftOutput:
    """What one forward gave; views that the next one overwrites.

    Attributes:
        hidden_states: (n, F) float32, for each scored row the predicted feature one position on.
        candidate_ids: (n, k) int64, the likeliest next tokens of each scored row, the likeliest first.
        log_probabilities: (n, k) float32, log probability of each candidate.
    """

    hidden_states: FloatArray
    candidate_ids: TokenArray
    log_probabilities: FloatArray


class DraftGraph(GraphRunner):
    """A session on a draft graph, and its cache.

    Args:
        graph: path of the ONNX file.
        entry: what the manifest says of the drafter.
        capacity: number of slots of the cache, at most the target's `max_context`: the graph has no rotary angles
            beyond it.
        threads: number of threads that one forward uses on the CPU.
        device: `cpu`, or `cuda` for a graph in fp16.
        vram_limit: bytes that graph, cache and forwards may take on a GPU; None without a limit.
        trees: whether trees are drafted, too; if not, CUDA uses the graph for chains, where there is one.
        trace: beginning of the name of ONNX Runtime's profile; None for no profile.

    Raises:
        InputError: the graph's precision is not for that device, or weights and cache exceed the limit.
        BundleError: the graph is not the one that the entry describes.
        UnavailableError: CUDA cannot be used here, or the graph is native and the library of operators is missing.

    Attributes:
        hidden_size: F, width of the features; E where they are the target's hidden states.
        needs_taps: whether the features are made of levels of the target's residual stream.
        max_rows: rows of one forward at most, fewer than the entry's where the limit holds no more.
    """

    def __init__(
        self,
        graph: Path,
        entry: DrafterEntry,
        *,
        capacity: int,
        threads: int,
        device: str = CPU,
        vram_limit: int | None = None,
        trees: bool = True,
        trace: Path | None = None,
    ) -> None:
        _check_device(graph, entry, device)
        shape = head_cache_shape(entry, capacity)
        left = memory_left(weight_bytes(graph), shape.num_bytes, vram_limit)
        opened = graph_to_open(graph, entry.chain_graph, device=device, trees=trees)
        session = open_session(opened, threads, device=device, vram_limit=left, trace=trace)
        if entry.format != NATIVE:
            check_bias(session, opened, for_chains=opened != graph)
        check_dimensions(
            session, opened, shape, {PREDICTED_STATES: entry.hidden_size}, remedy="attach the drafter again"
        )
        _check_candidates(session, opened)
        super().__init__(
            session,
            KVCache(replace(shape, dtype=cache_type(session)), device=device),
            name="drafter",
            graph=graph,  # the graph for chains has no weights of its own
            device=device,
            threads=threads,
            buffers=HostBuffers(device),
            most_rows=with_reserve(entry.max_rows),
        )
        self.hidden_size = entry.hidden_size
        self.needs_taps = entry.taps is not None
        self.max_rows = entry.max_rows
        self._forwards: BoundForwards[_Forward] = BoundForwards()
        if vram_limit is not None and device != CPU:
            self.max_rows = rows_that_fit(entry.max_rows, 1, capacity, self._run_longest)

    @device_errors()
    def forward(
        self,
        hidden_states: FloatArray,
        token_ids: TokenArray,
        position_ids: TokenArray,
        *,
        num_scored: int,
        num_candidates: int,
        num_kept: int | None = None,
        ancestors: TokenArray | None = None,
    ) -> DraftOutput:
        """Run S rows in the slots from the cache's `length` on; the length stays.

        Args:
            hidden_states: (S, F) float32, the features that rows read, the target's or predicted ones.
            token_ids: (S,) int64, the token that follows each feature.
            position_ids: (S,) int64, the position of each row in the text.
            num_scored: n, how many of the last rows are continued, 1 or more.
            num_candidates: k, number of continuations of each scored row.
            num_kept: number of slots at the beginning that every row sees; all of the cache's `length` if None.
            ancestors: (S, A) int64, the slots of each row's ancestors in a tree, as in `ForwardInputs.fill`; None for a
                chain, whose rows see all slots before theirs. A graph for chains takes None only.
        """
        length = self.cache.length
        # A portable forward is the same for every number of ancestors.
        num_ancestors = 0 if ancestors is None or not self.has_native_attention else ancestors.shape[1]
        size = len(token_ids), num_scored, num_candidates, num_ancestors
        forward = self._forwards.get(size)
        if forward is None:
            forward = self._forwards.keep(size, _Forward(self, *size))
        forward.fill(hidden_states, token_ids, position_ids)
        forward.inputs.fill(length, length if num_kept is None else num_kept, ancestors)
        forward.execute(forward.inputs.changing)
        return forward.output

    def _run_longest(self, num_rows: int) -> object:
        """Run rows that end in the last slot of the cache, and return their forward, which is not kept."""
        capacity = self.cache.capacity
        start = capacity - num_rows
        states = np.zeros((num_rows, self.hidden_size), dtype=np.float32)
        tokens = np.zeros(num_rows, dtype=np.int64)
        self.cache.length = start
        try:
            self.forward(states, tokens, np.arange(start, capacity), num_scored=1, num_candidates=1)
        finally:
            self.cache.length = 0
            forward = self._forwards.pop((num_rows, 1, 1, 0), None)
        return forward


class _Forward(BoundForward):
    """Forwards of one size.

    Attributes:
        inputs: inputs that say which slots the rows see.
        output: what a forward gives.
    """

    def __init__(
        self, graph: DraftGraph, num_rows: int, num_scored: int, num_candidates: int, num_ancestors: int
    ) -> None:
        array = graph.buffers.array
        self._hidden_states: FloatArray = array(HIDDEN_STATES, (1, num_rows, graph.hidden_size), np.float32)
        self._token_ids: TokenArray = array(INPUT_IDS, (1, num_rows), np.int64)
        self._position_ids: TokenArray = array(POSITION_IDS, (1, num_rows), np.int64)
        self.inputs = graph.inputs(num_rows, num_ancestors)
        num_states = num_scored if graph.for_chains else num_rows
        states: FloatArray = array(PREDICTED_STATES, (1, num_states, graph.hidden_size), np.float32)
        shape = 1, num_scored, num_candidates
        candidate_ids: TokenArray = array(CANDIDATE_IDS, shape, np.int64)
        log_probabilities: FloatArray = array(CANDIDATE_LOG_PROBABILITIES, shape, np.float32)
        super().__init__(
            graph.session,
            written={
                HIDDEN_STATES: self._hidden_states,
                INPUT_IDS: self._token_ids,
                POSITION_IDS: self._position_ids,
                **self.inputs.fixed,
            },
            outputs={
                PREDICTED_STATES: states,
                CANDIDATE_IDS: candidate_ids,
                CANDIDATE_LOG_PROBABILITIES: log_probabilities,
            },
            constant={
                SCORED_ROWS: np.arange(num_rows - num_scored, num_rows),
                NUM_CANDIDATES: np.array([num_candidates]),
            },
            device=graph.device,
        )
        graph.cache.bind(self.binding)
        self.output = DraftOutput(states[0, -num_scored:], candidate_ids[0], log_probabilities[0])

    def fill(self, hidden_states: FloatArray, token_ids: TokenArray, position_ids: TokenArray) -> None:
        """Fill in the features, tokens and positions that the rows read."""
        self._hidden_states[0] = hidden_states
        self._token_ids[0] = token_ids
        self._position_ids[0] = position_ids


def _check_device(graph: Path, entry: DrafterEntry, device: str) -> None:
    if device == CUDA and entry.precision != FP16:
        raise InputError(
            f"a drafter on CUDA must be in fp16, got {entry.precision}; "
            "attach it again with: dovetail-ort attach BUNDLE HEAD --precision fp16"
        )
    if entry.format == NATIVE and not kernels.is_available():
        raise UnavailableError(missing_library(graph))


def _check_candidates(session: Session, graph: Path) -> None:
    """Refuse a graph that does not rank next tokens."""
    if CANDIDATE_IDS not in {value.name for value in session.get_outputs()}:
        raise BundleError(f"{graph.name} ranks no candidates; attach the drafter again")


def head_cache_shape(entry: DrafterEntry, capacity: int) -> CacheShape:
    """The cache of a head by the manifest; once the graph is open, its number type may turn out to be another one."""
    return CacheShape(
        num_layers=entry.num_layers,
        num_kv_heads=entry.num_kv_heads,
        capacity=capacity,
        head_size=entry.head_size,
        dtype=np.float16 if entry.precision == FP16 else np.float32,
        layout=NATIVE_LAYOUT if entry.format == NATIVE else PORTABLE_LAYOUT,
    )
