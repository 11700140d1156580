"""What every graph that runs here has: a session, a KV cache, memory on the host, and forwards that are bound once.

Binding. ONNX Runtime reads and writes the arrays that are bound to it where they lie. A graph has two buffers for each
block's keys and values, each bound as an input and as an output, besides its other inputs and outputs. Binding them all
takes longer than a small drafter's forward. So everything is bound once for each size of forward, such as 4 rows of
which the last one is scored. A forward then only fills the arrays that were bound. Two kinds of inputs are bound anew
for each forward: those whose length changes with the text, which only portable graphs have; and, on a GPU, all that the
forward reads, because ONNX Runtime copies an input to the GPU when it is bound.

Of a graph's inputs this module knows three: the total length, and the attention bias and the slots, which say what
kind of attention a graph has. `target`, `first_blocks` and `draft_graph` say what is filled.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from dovetail_ort_runtime.bundle.graph_names import ATTENTION_BIAS, SLOTS, TOTAL_LENGTH
from dovetail_ort_runtime.engine.devices import CPU, CUDA
from dovetail_ort_runtime.engine.forward_inputs import ChainInputs, ForwardInputs, NativeInputs, PortableInputs
from dovetail_ort_runtime.engine.gpu_memory import KEPT_ROWS
from dovetail_ort_runtime.engine.host_buffers import HostBuffers
from dovetail_ort_runtime.engine.kv_cache import KVCache
from dovetail_ort_runtime.engine.ort_protocols import Session, ort_value_of
from dovetail_ort_runtime.engine.session import SessionReport, report_session, weight_bytes

Arrays = Mapping[str, NDArray[Any]]
Size = tuple[int, ...]
Forward = TypeVar("Forward", bound="BoundForward")
_NOTHING: Final[Arrays] = {}


class BoundForward:
    """Inputs and outputs of forwards of one size, bound once.

    Args:
        session: session of the graph.
        written: arrays by name of the input; they may be filled before each forward.
        outputs: arrays by name of the output; each forward overwrites them.
        constant: arrays by name of the input that stay as they are.
        device: `cpu` or `cuda`.

    Attributes:
        binding: where the session reads and writes; the KV cache is bound in it by `CacheMemory.bind`.
    """

    def __init__(
        self, session: Session, *, written: Arrays, outputs: Arrays, constant: Arrays = _NOTHING, device: str = CPU
    ) -> None:
        self._session = session
        self._ort_value = ort_value_of()
        self.binding = session.io_binding()
        self.bind(written)
        self.bind(constant)
        self.bind_outputs(outputs)
        self._copied: Arrays = _NOTHING
        if device != CPU:
            # Attention reads the total length on the host, whatever the device is.
            self._copied = {name: array for name, array in written.items() if name != TOTAL_LENGTH}

    def bind(self, inputs: Arrays) -> None:
        """Bind arrays by name of the input."""
        for name, array in inputs.items():
            self.binding.bind_ortvalue_input(name, self._ort_value(array))

    def bind_outputs(self, outputs: Arrays) -> None:
        """Bind arrays by name of the output."""
        for name, array in outputs.items():
            self.binding.bind_ortvalue_output(name, self._ort_value(array))

    def execute(self, changing: Arrays) -> None:
        """Run the graph on what is bound.

        Args:
            changing: arrays by name of the input that have another length than in the last forward.
        """
        if self._copied:
            self.bind(self._copied)
        if changing:
            self.bind(changing)
        self._session.run_with_iobinding(self.binding)


class BoundForwards(dict[Size, Forward]):
    """Bound forwards by size, whose first number is that of the rows."""

    def keep(self, size: Size, forward: Forward) -> Forward:
        """Keep a forward unless it is a long one, which would hold memory of its device; give it back."""
        if size[0] <= KEPT_ROWS:
            self[size] = forward
        return forward


class GraphRunner:
    """A session on one device with its KV cache.

    Args:
        session: session of the graph.
        cache: keys and values of the graph's blocks.
        name: name in reports.
        graph: path of the ONNX file whose weights the session has.
        device: `cpu` or `cuda`.
        threads: number of threads that one forward uses on the CPU.
        buffers: memory on the host that forwards read and write.
        most_rows: rows of the longest forward.

    Attributes:
        session: session of the graph.
        cache: keys and values; its length is moved by whoever runs forwards.
        device: `cpu` or `cuda`.
        threads: number of threads that one forward uses.
        buffers: memory on the host that forwards read and write, but for the cache.
        has_native_attention: whether attention is this project's own operator.
        for_chains: whether the graph knows no trees.
    """

    def __init__(
        self,
        session: Session,
        cache: KVCache,
        *,
        name: str,
        graph: Path,
        device: str,
        threads: int,
        buffers: HostBuffers,
        most_rows: int,
    ) -> None:
        inputs = {value.name for value in session.get_inputs()}
        self.session = session
        self.cache = cache
        self.device = device
        self.threads = 1 if device == CUDA else threads
        self.buffers = buffers
        self.has_native_attention = SLOTS in inputs
        self.for_chains = not self.has_native_attention and ATTENTION_BIAS not in inputs
        self._no_bias = np.zeros(most_rows * cache.capacity if ATTENTION_BIAS in inputs else 0, dtype=np.float32)
        self._name = name
        self._graph = graph

    def inputs(self, num_rows: int, num_ancestors: int) -> ForwardInputs:
        """Inputs that say which slots `num_rows` rows see, with `num_ancestors` ancestors each."""
        if self.has_native_attention:
            return NativeInputs(num_rows, num_ancestors)
        if self.for_chains:
            return ChainInputs(num_rows, self.buffers)
        return PortableInputs(num_rows, self._no_bias, self.buffers)

    @cached_property
    def weight_bytes(self) -> int:
        """Size of the graph and its weights on disk."""
        return weight_bytes(self._graph)

    def report(self) -> SessionReport:
        """Where the session runs, and what it takes."""
        return report_session(
            self.session,
            name=self._name,
            device=self.device,
            threads=self.threads,
            weight_bytes=self.weight_bytes,
            cache_bytes=self.cache.num_bytes,
        )
