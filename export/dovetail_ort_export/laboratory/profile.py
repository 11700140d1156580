"""Where the time of a forward goes: by operator and by block, beside the bytes it reads and what memory can deliver."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from dovetail_ort_export.laboratory.graphs import TARGET, loaded_graph, open_forwards
from dovetail_ort_export.laboratory.node_costs import NodeBytes, NodeCost, node_costs, read_runs
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.engine.forward_times import time_in_turns
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.machine.processor import processor_name, usable_cores

_ROUNDS: Final = 24
_PRODUCTS: Final = ("MatMulNBits", "Product", "GatedProduct", "NormProduct")
_ATTENTION: Final = ("GroupQueryAttention", "Attention")
# Far above any cache, so that every read is one of memory.
_BUFFER_BYTES: Final = 1 << 30
_READS: Final = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """A part of a forward.

    Attributes:
        name: an operator type, `block 0` and so on, or `ends` for what lies before the first and behind the last block.
        num_nodes: nodes in it.
        kernel_ms: milliseconds in their kernels, a sum of each node's median.
        bytes_read: weights and cache.
    """

    name: str
    num_nodes: int
    kernel_ms: float
    bytes_read: int

    @property
    def bytes_per_second(self) -> float:
        """What its kernels reached."""
        return self.bytes_read / self.kernel_ms * 1e3 if self.kernel_ms else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PassProfile:
    """Forwards of one number of rows.

    Attributes:
        rows: new tokens.
        forward_ms: median of a forward without the profiler, in turns with one under it.
        profiled_ms: median of a forward under it.
        operators: by type, the slowest first.
        blocks: in order, the ends last.
    """

    rows: int
    forward_ms: float
    profiled_ms: float
    operators: tuple[Share, ...]
    blocks: tuple[Share, ...]

    @property
    def bytes_read(self) -> int:
        """Weights and cache that a forward reads."""
        return sum(share.bytes_read for share in self.operators)

    @property
    def kernel_ms(self) -> float:
        """Milliseconds in kernels."""
        return sum(share.kernel_ms for share in self.operators)

    @property
    def bytes_per_second(self) -> float:
        """What a forward without the profiler reached."""
        return self.bytes_read / self.forward_ms * 1e3

    @property
    def overhead(self) -> float:
        """Least share of a forward that is neither a product nor attention; the profiler makes every kernel longer."""
        busy = sum(share.kernel_ms for share in self.operators if share.name in _PRODUCTS + _ATTENTION)
        return max(0.0, 1 - busy / self.forward_ms)


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphProfile:
    """A graph on this machine.

    Attributes:
        graph: `target` or `drafter`.
        num_past: kept tokens.
        read_bandwidth: bytes per second that so many threads can read.
    """

    graph: str
    machine: str
    threads: int
    num_past: int
    read_bandwidth: float
    forwards: tuple[PassProfile, ...]


def profile_graph(
    bundle: Bundle,
    graph: str = TARGET,
    *,
    rows: Sequence[int],
    num_past: int,
    threads: int | None = None,
    trace: Path | None = None,
) -> GraphProfile:
    """Measure forwards of so many rows with and without ONNX Runtime's profiler, in turns.

    They run behind `num_past` kept tokens, on the usable physical cores if `threads` is None. The profile itself goes
    to the file `trace`, in Chrome's trace format, which Perfetto opens.

    Raises:
        InputError: an argument is out of bounds, or there is no such graph.
    """
    if not rows or min(rows) < 1 or num_past < 0:
        raise InputError(
            f"a profile must be of forwards of 1 row or more behind 0 tokens or more, got {rows}, {num_past}"
        )
    threads = threads or usable_cores()
    open_graph = partial(open_forwards, bundle, graph, num_past=num_past, max_rows=max(rows), threads=threads)
    with tempfile.TemporaryDirectory() as folder:
        _, plain = open_graph()
        session, profiled = open_graph(trace=Path(folder) / "trace")
        times = time_in_turns({"plain": plain, "profiled": profiled}, _ROUNDS, rows=rows)
        written = Path(session.end_profiling())
        # Each size in turn, twice: the second forward is the one that was timed.
        runs = read_runs(written)[-2 * len(rows) * _ROUNDS :]
        if trace is not None:
            shutil.copyfile(written, trace)
    nodes = NodeBytes(loaded_graph(bundle, graph))
    forwards = []
    for number, size in enumerate(rows):
        costs = node_costs(runs[2 * number + 1 :: 2 * len(rows)], nodes, size, num_past)
        operators = _shares((cost.op_type, cost) for cost in costs)
        costs.sort(key=lambda cost: (cost.block is None, cost.block))
        forwards.append(
            PassProfile(
                rows=size,
                forward_ms=statistics.median(times["plain"][size]),
                profiled_ms=statistics.median(times["profiled"][size]),
                operators=tuple(sorted(operators, key=lambda share: -share.kernel_ms)),
                blocks=tuple(_shares((_place(cost), cost) for cost in costs)),
            )
        )
    return GraphProfile(
        graph=graph,
        machine=processor_name(),
        threads=threads,
        num_past=num_past,
        read_bandwidth=measured_read_bandwidth(threads),
        forwards=tuple(forwards),
    )


def measured_read_bandwidth(threads: int) -> float:
    """Bytes per second of the fastest of ten reads of one gibibyte, each thread reading a part of its own.

    The fastest, for whatever else runs meanwhile only slows a read down.
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


def _place(cost: NodeCost) -> str:
    return "ends" if cost.block is None else f"block {cost.block}"


def _shares(costs: Iterable[tuple[str, NodeCost]]) -> list[Share]:
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
