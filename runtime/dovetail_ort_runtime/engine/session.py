"""A graph opened in ONNX Runtime on one device."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from dovetail_ort_runtime import kernels
from dovetail_ort_runtime.bundle.onnx_file import graph_bytes, uses_native_operators
from dovetail_ort_runtime.engine.devices import CPU, CPU_PROVIDER, CUDA, CUDA_PROVIDER, require_cuda
from dovetail_ort_runtime.engine.ort_protocols import Session
from dovetail_ort_runtime.errors import BundleError, UnavailableError, one_line
from dovetail_ort_runtime.machine.cuda_runtime import vram_in_use
from dovetail_ort_runtime.machine.onnx_runtime import import_onnxruntime
from dovetail_ort_runtime.machine.process_memory import huge_pages

_sessions: weakref.WeakSet[Session] = weakref.WeakSet()
# What ONNX Runtime says after the C++ name of a function: "CUDA failure 2: out of memory ; GPU=0 ; hostname=... ;
# file=... ; line=... ; expr=...; ". Its memory arena has other words.
_DEVICE_FAILURE: Final = re.compile(r"(?:CUDA|CUBLAS|CUDNN) failure \d+: .*?(?= ; |$)")
_OUT_OF_MEMORY: Final = re.compile(
    r"Failed to allocate memory for requested buffer of size \d+|Available memory of \d+ is smaller than "
    r"requested bytes of \d+|CUDA failure 2: out of memory|CUBLAS failure 3: \w+"
)
# The ONNX file of d = a @ b + a, each 2 x 2 in float32: a product of cuBLAS, and a kernel of ONNX Runtime's own.
_PRODUCT_AND_SUM: Final = (
    b'\x08\x08:d\n\x11\n\x01a\n\x01b\x12\x01c"\x06MatMul\n\x0e\n\x01c\n\x01a\x12\x01d"\x03Add\x12\x00'
    b"Z\x13\n\x01a\x12\x0e\n\x0c\x08\x01\x12\x08\n\x02\x08\x02\n\x02\x08\x02"
    b"Z\x13\n\x01b\x12\x0e\n\x0c\x08\x01\x12\x08\n\x02\x08\x02\n\x02\x08\x02"
    b"b\x13\n\x01d\x12\x0e\n\x0c\x08\x01\x12\x08\n\x02\x08\x02\n\x02\x08\x02B\x04\n\x00\x10\r"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionReport:
    """Where a session runs, and what it takes.

    Attributes:
        name: name of what the session runs: `target`, `target, first blocks` or `drafter`.
        device: `cpu` or `cuda`.
        nodes: number of the graph's nodes by execution provider.
        threads: number of threads that one forward uses on the CPU.
        weight_bytes: size of graph and weights on disk.
        cache_bytes: size of the KV cache, touched or not.
        vram_bytes: GPU memory that all programs use together, in bytes; None on the CPU, or if CUDA does not say.
            ONNX Runtime gives no memory back, so its peak is included.
    """

    name: str
    device: str
    nodes: dict[str, int]
    threads: int
    weight_bytes: int
    cache_bytes: int
    vram_bytes: int | None = None


def open_session(
    graph: Path, threads: int, *, device: str = CPU, vram_limit: int | None = None, trace: Path | None = None
) -> Session:
    """Open a graph; it never falls back to another device.

    Args:
        graph: path of the ONNX file.
        threads: number of threads that one forward uses on the CPU. With CUDA one is enough: it waits for the GPU.
        device: `cpu` or `cuda`.
        vram_limit: bytes that the session may take on the GPU; None without a limit.
        trace: beginning of the name of ONNX Runtime's profile; None for no profile.

    Raises:
        BundleError: ONNX Runtime refuses the graph.
        UnavailableError: CUDA is asked for and cannot be used, or the graph is native and the library of operators
            cannot be loaded.
    """
    ort = import_onnxruntime()
    is_native = uses_native_operators(graph)
    options = _options(1 if device == CUDA else threads, trace)
    if is_native:
        kernels.register(options)
    providers = _providers(device, vram_limit)
    # A native session maps its weights from their file.
    memory = contextlib.nullcontext() if is_native else huge_pages()
    try:
        with memory, device_errors():
            session: Session = ort.InferenceSession(str(graph), options, providers=providers, enable_fallback=0)
    except UnavailableError:
        raise
    except Exception as error:  # onnxruntime raises its own classes straight from C++
        raise BundleError(f"ONNX Runtime {ort.__version__} cannot load {graph.name}: {one_line(error)}") from error
    _sessions.add(session)
    if device == CUDA and session.get_providers()[0] != CUDA_PROVIDER:
        raise UnavailableError("ONNX Runtime finds no GPU for CUDA; see nvidia-smi, or take the CPU")
    return session


def _options(threads: int, trace: Path | None) -> Any:
    """An `onnxruntime.SessionOptions`."""
    options = import_onnxruntime().SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors come as exceptions
    # Threads that spin between forwards take the core from the other session.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # A file in ONNX Runtime's own format would not be read as it was checked.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if trace is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(trace)
    return options


def _providers(device: str, vram_limit: int | None) -> list[str | tuple[str, dict[str, str]]]:
    """Execution providers, the preferred one first."""
    if device == CPU:
        return [CPU_PROVIDER]
    require_cuda()
    settings = {"arena_extend_strategy": "kSameAsRequested"}
    if vram_limit is not None:
        settings["gpu_mem_limit"] = str(vram_limit)
    return [(CUDA_PROVIDER, settings), CPU_PROVIDER]


@contextlib.contextmanager
def device_errors() -> Iterator[None]:
    """Turn what ONNX Runtime raises where a device fails or its memory is used up into an `UnavailableError`."""
    try:
        yield
    except Exception as error:  # onnxruntime raises its own classes straight from C++
        text = " ".join(str(error).split())
        memory = _OUT_OF_MEMORY.search(text)
        failure = _DEVICE_FAILURE.search(text)
        if memory is not None:
            raise UnavailableError(
                f"weights, cache and a forward do not fit into memory: {memory[0]}; "
                "load with a larger vram_limit, a smaller max_context or less on the GPU"
            ) from error
        if failure is not None:
            raise UnavailableError(
                f"CUDA cannot use the GPU: {one_line(failure[0])}; see nvidia-smi, or take the CPU"
            ) from error
        raise


def weight_bytes(graph: Path) -> int:
    """Size of a graph and its weights on disk; 0 where it cannot be read, which opening it reports."""
    try:
        return graph_bytes(graph)
    except (OSError, ValueError):
        return 0


def report_session(
    session: Session, *, name: str, device: str, threads: int, weight_bytes: int, cache_bytes: int
) -> SessionReport:
    """What is known of a session, together with what ONNX Runtime and the GPU report."""
    nodes: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        nodes[part.ep_name] += len(part.get_nodes())
    return SessionReport(
        name=name,
        device=device,
        nodes=dict(nodes),
        threads=threads,
        weight_bytes=weight_bytes,
        cache_bytes=cache_bytes,
        vram_bytes=vram_in_use() if device == CUDA else None,
    )


def try_cuda(device: str = CUDA) -> None:
    """Run a graph of two nodes, which shows whether CUDA computes.

    Args:
        device: `cuda`, or `cpu` to try the graph itself.

    Raises:
        UnavailableError: CUDA cannot be used; why and what to do.
    """
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "trial.onnx"
        graph.write_bytes(_PRODUCT_AND_SUM)
        session = open_session(graph, 1, device=device)
    numbers = np.ones((2, 2), dtype=np.float32)
    with device_errors():
        session.run(None, {"a": numbers, "b": numbers})


def _keep_for_ever() -> None:
    """Let a forked child destroy no session: it would wait for the parent's threads."""
    for session in tuple(_sessions):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))  # the interpreter's end destroys none either


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_for_ever)
