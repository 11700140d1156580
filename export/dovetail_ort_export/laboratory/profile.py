"""Where the time of a forward goes, by operator and by block, and how its reading compares with memory's bandwidth.

It changes no graph.
"""

from __future__ import annotations

import math
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from dovetail_ort_export.laboratory.graphs import loaded_graph, open_forwards
from dovetail_ort_export.laboratory.node_costs import Event, NodeBytes, NodeCost, node_costs, read_runs
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.graph_names import TARGET
from dovetail_ort_runtime.bundle.native_layout import ATTENTION, PRODUCTS
from dovetail_ort_runtime.engine.forward_times import ForwardTimes, RunForward, time_in_turns
from dovetail_ort_runtime.engine.ort_protocols import Session
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.machine.processor import processor_name, usable_cores

_ROUNDS: Final = 24
_PLAIN: Final = "plain"
_PROFILED: Final = "profiled"
_PRODUCTS: Final = ("MatMulNBits", *PRODUCTS)
_ATTENTIONS: Final = ("GroupQueryAttention", ATTENTION)
# Far above any cache, so that every read is one of memory.
_BUFFER_BYTES: Final = 1 << 30
_READS: Final = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """The part that some nodes have of a forward.

    Attributes:
        name: an operator type, or `block 0` and so on, or `ends` for what is before the first block and after the last.
        num_nodes: number of nodes.
        kernel_ms: milliseconds in their kernels, the sum of each node's median.
        bytes_read: bytes of weights and cache that they read.
    """

    name: str
    num_nodes: int
    kernel_ms: float
    bytes_read: int

    @property
    def bytes_per_second(self) -> float:
        """Bytes per second that the kernels read."""
        return self.bytes_read / self.kernel_ms * 1e3 if self.kernel_ms else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ForwardProfile:
    """Profile of the forwards of one size.

    Attributes:
        rows: rows of each forward.
        forward_ms: median milliseconds of a forward without the profiler.
        profiled_ms: median milliseconds of a forward under the profiler.
        operators: shares by operator type, the slowest first.
        blocks: shares by block, in order, the ends last.
    """

    rows: int
    forward_ms: float
    profiled_ms: float
    operators: tuple[Share, ...]
    blocks: tuple[Share, ...]

    @property
    def bytes_read(self) -> int:
        """Bytes of weights and cache that a forward reads."""
        return sum(share.bytes_read for share in self.operators)

    @property
    def kernel_ms(self) -> float:
        """Milliseconds of a forward in kernels."""
        return sum(share.kernel_ms for share in self.operators)

    @property
    def bytes_per_second(self) -> float:
        """Bytes per second that a forward without the profiler reads."""
        return self.bytes_read / self.forward_ms * 1e3

    @property
    def overhead(self) -> float:
        """Least share of a forward that is neither in products nor in attention, 0 to 1.

        The profiler makes every kernel longer, so the true share may be larger.
        """
        busy = sum(share.kernel_ms for share in self.operators if share.name in _PRODUCTS + _ATTENTIONS)
        return max(0.0, 1 - busy / self.forward_ms)


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphProfile:
    """Profiles of a graph's forwards on this machine.

    Attributes:
        graph: `target` or `drafter`.
        machine: name of the processor.
        threads: number of threads that one forward uses.
        num_past: tokens of context before each forward.
        read_bandwidth: bytes per second that so many threads can read.
        forwards: one profile for each number of rows.
    """

    graph: str
    machine: str
    threads: int
    num_past: int
    read_bandwidth: float
    forwards: tuple[ForwardProfile, ...]


def profile_graph(
    bundle: Bundle,
    graph: str = TARGET,
    *,
    rows: Sequence[int],
    num_past: int,
    threads: int | None = None,
    trace: Path | None = None,
) -> GraphProfile:
    """Measure forwards with and without ONNX Runtime's profiler, in turns.

    Args:
        bundle: the bundle.
        graph: `target` or `drafter`.
        rows: numbers of rows of the forwards, 1 or more each.
        num_past: tokens of context before each forward, 0 or more.
        threads: number of threads that one forward uses; the usable physical cores if None.
        trace: file for the profile itself, in Chrome's trace format, which Perfetto opens; None for no file.

    Raises:
        InputError: an argument is out of bounds, or the bundle has no drafter.
    """
    if not rows or min(rows) < 1:
        raise InputError(f"the rows of a profile must be 1 or more, got {', '.join(map(str, rows)) or 'none'}")
    if num_past < 0:
        raise InputError(f"the tokens of context of a profile must be 0 or more, got {num_past}")
    threads = threads or usable_cores()

    def open_graph(trace: Path | None) -> tuple[Session, RunForward]:
        return open_forwards(bundle, graph, num_past=num_past, max_rows=max(rows), threads=threads, trace=trace)

    times, runs = _run_in_turns(open_graph, rows, trace)
    nodes = NodeBytes(loaded_graph(bundle, graph))
    by_size = zip(rows, _timed_runs(runs, len(rows)), strict=True)
    forwards = [_forward_profile(size, times, node_costs(timed, nodes, size, num_past)) for size, timed in by_size]
    return GraphProfile(
        graph=graph,
        machine=processor_name(),
        threads=threads,
        num_past=num_past,
        read_bandwidth=measured_read_bandwidth(threads),
        forwards=tuple(forwards),
    )


def _run_in_turns(
    open_graph: Callable[[Path | None], tuple[Session, RunForward]], rows: Sequence[int], trace: Path | None
) -> tuple[dict[str, ForwardTimes], list[list[Event]]]:
    """Times of forwards without and with the profiler, and the kernels of each forward of the profile."""
    with tempfile.TemporaryDirectory() as folder:
        _, plain = open_graph(None)
        session, profiled = open_graph(Path(folder) / "trace")
        times = time_in_turns({_PLAIN: plain, _PROFILED: profiled}, _ROUNDS, rows=rows)
        written = Path(session.end_profiling())
        if trace is not None:
            shutil.copyfile(written, trace)
        return times, read_runs(written)


def _forward_profile(rows: int, times: Mapping[str, ForwardTimes], costs: Sequence[NodeCost]) -> ForwardProfile:
    return ForwardProfile(
        rows=rows,
        forward_ms=statistics.median(times[_PLAIN][rows]),
        profiled_ms=statistics.median(times[_PROFILED][rows]),
        operators=_by_operator(costs),
        blocks=_by_block(costs),
    )


def _timed_runs(runs: Sequence[list[Event]], num_sizes: int) -> list[Sequence[list[Event]]]:
    """The runs of a profile that were timed, for each size.

    First come the forwards that filled the cache. Then each round runs every size twice, and times the second one.
    """
    in_rounds = runs[-2 * num_sizes * _ROUNDS :]
    timed = in_rounds[1::2]
    return [timed[number::num_sizes] for number in range(num_sizes)]


def measured_read_bandwidth(threads: int) -> float:
    """Bytes per second that threads can read from memory.

    Each thread reads its part of one gibibyte. The result is that of the fastest of ten reads: whatever else runs
    meanwhile can only slow a read down.

    Args:
        threads: number of threads.
    """
    buffer = np.ones(_BUFFER_BYTES // np.dtype(np.uint64).itemsize, dtype=np.uint64)
    parts = np.array_split(buffer, threads)
    fastest = float("inf")
    with ThreadPoolExecutor(threads) as executor:
        for _ in range(_READS):
            started = time.perf_counter()
            list(executor.map(np.bitwise_or.reduce, parts))
            fastest = min(fastest, time.perf_counter() - started)
    return buffer.nbytes / fastest


def _by_operator(costs: Sequence[NodeCost]) -> tuple[Share, ...]:
    """Shares by operator type, the slowest first."""
    shares = _shares((cost.op_type, cost) for cost in costs)
    return tuple(sorted(shares, key=lambda share: -share.kernel_ms))


def _by_block(costs: Sequence[NodeCost]) -> tuple[Share, ...]:
    """Shares by block, in order, the ends last."""
    in_order = sorted(costs, key=lambda cost: math.inf if cost.block is None else cost.block)
    return tuple(_shares(("ends" if cost.block is None else f"block {cost.block}", cost) for cost in in_order))


def _shares(costs: Iterable[tuple[str, NodeCost]]) -> list[Share]:
    """One share for each name, in the order in which the names come."""
    parts: dict[str, list[NodeCost]] = defaultdict(list)
    for name, cost in costs:
        parts[name].append(cost)
    return [
        Share(
            name=name,
            num_nodes=len(members),
            kernel_ms=sum(cost.kernel_ms for cost in members),
            bytes_read=sum(cost.bytes_read for cost in members),
        )
        for name, members in parts.items()
    ]
