"""What the engine calls of ONNX Runtime's objects, as types: ONNX Runtime itself ships none."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from dovetail_ort_runtime.machine.onnx_runtime import import_onnxruntime


class OrtValue(Protocol):
    """An array as ONNX Runtime reads and writes it."""

    def data_ptr(self) -> int:
        """Address of the first byte."""


class ValueInfo(Protocol):
    """An input or an output of a graph.

    Attributes:
        name: name in the graph.
        shape: length of each axis, or the name of one whose length is open.
        type: number type, such as `tensor(float16)`.
    """

    name: str
    shape: Sequence[Any]
    type: str


class Binding(Protocol):
    """Where one session reads its inputs and writes its outputs: `onnxruntime.IOBinding`."""

    def bind_ortvalue_input(self, name: str, ortvalue: OrtValue) -> None:
        """Read an input from an array."""

    def bind_ortvalue_output(self, name: str, ortvalue: OrtValue) -> None:
        """Write an output to an array."""

    def bind_input(
        self, name: str, device_type: str, device_id: int, element_type: Any, shape: Sequence[int], buffer_ptr: int
    ) -> None:
        """Read an input from an address on a device."""

    def bind_output(
        self, name: str, device_type: str, device_id: int, element_type: Any, shape: Sequence[int], buffer_ptr: int
    ) -> None:
        """Write an output to an address on a device."""


class Session(Protocol):
    """A graph that is ready to run: `onnxruntime.InferenceSession`."""

    def get_inputs(self) -> Sequence[ValueInfo]:
        """The graph's inputs."""

    def get_outputs(self) -> Sequence[ValueInfo]:
        """The graph's outputs."""

    def get_providers(self) -> Sequence[str]:
        """Names of the execution providers, the preferred one first."""

    def get_provider_graph_assignment_info(self) -> Sequence[Any]:
        """Parts of the graph, each with its provider's name and its nodes."""

    def io_binding(self) -> Binding:
        """A new binding, in which nothing is bound."""

    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, NDArray[Any]]) -> Sequence[NDArray[Any]]:
        """Run the graph on arrays; the outputs are new arrays."""

    def run_with_iobinding(self, iobinding: Binding) -> None:
        """Run the graph on what is bound."""

    def end_profiling(self) -> str:
        """Stop a profile, and give the path of its file."""


@functools.cache
def ort_value_of() -> Callable[[NDArray[Any]], OrtValue]:
    """The function that wraps an array for ONNX Runtime without a copy.

    It is looked for once in a process: the look-up takes longer than a binding.
    """
    wrap: Callable[[NDArray[Any]], OrtValue] = import_onnxruntime().OrtValue.ortvalue_from_numpy
    return wrap
