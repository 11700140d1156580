"""A graph opened in ONNX Runtime on one device."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dovetail_ort_runtime import kernels
from dovetail_ort_runtime.bundle.onnx_file import graph_bytes, uses_native_operators
from dovetail_ort_runtime.engine.devices import CPU, CPU_PROVIDER, CUDA, CUDA_PROVIDER, require_cuda
from dovetail_ort_runtime.errors import BundleError, InputError, UnavailableError, one_line
from dovetail_ort_runtime.machine.cuda_runtime import vram_in_use
from dovetail_ort_runtime.machine.onnx_runtime import import_onnxruntime
from dovetail_ort_runtime.machine.process_memory import huge_pages

_sessions: weakref.WeakSet[Any] = weakref.WeakSet()
# ONNX Runtime's words: "CUDA failure 2: out of memory ; GPU=0 ; hostname=... ; file=... ; line=... ; expr=...; ",
# behind the C++ name of the function; and those of its arena, behind another.
_DEVICE_FAILURE: Final = re.compile(r"(?:CUDA|CUBLAS|CUDNN) failure \d+: .*?(?= ; |$)")
_OUT_OF_MEMORY: Final = re.compile(
    r"Failed to allocate memory for requested buffer of size \d+|Available memory of \d+ is smaller than "
    r"requested bytes of \d+|CUDA failure 2: out of memory|CUBLAS failure 3: \w+"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionReport:
    """Where a session runs.

    Attributes:
        name: `target` or `drafter`.
        device: `cpu` or `cuda`.
        nodes: of the graph, by execution provider.
        threads: of a forward, on the CPU.
        weight_bytes: of graph and weights on disk.
        cache_bytes: of the KV cache, touched or not.
        vram_bytes: that all programs hold of the GPU, ONNX Runtime its peak, as it gives none back; or None.
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
) -> Any:
    """An `onnxruntime.InferenceSession`; it never falls back to another device.

    Args:
        graph: path of the ONNX file.
        threads: of one forward, on the CPU. With CUDA one is enough: it waits for the GPU.
        device: `cpu` or `cuda`.
        vram_limit: bytes that the session may take on the GPU.
        trace: how the name of ONNX Runtime's profile begins; None for no profile.

    Raises:
        BundleError: ONNX Runtime refuses the graph.
        UnavailableError: CUDA is asked for and cannot be used, or the graph is native and the library of operators
            cannot be loaded.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1 if device == CUDA else threads
    options.log_severity_level = 4  # errors come as exceptions
    # Threads that spin between forwards take the core from the other session.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # ONNX Runtime's own format would be read in another way than it was checked.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    is_native = uses_native_operators(graph)
    if is_native:
        kernels.register(options)
    if trace is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(trace)
    providers: list[Any] = [CPU_PROVIDER]
    if device == CUDA:
        require_cuda()
        limit = {} if vram_limit is None else {"gpu_mem_limit": str(vram_limit)}
        providers.insert(0, (CUDA_PROVIDER, {"arena_extend_strategy": "kSameAsRequested", **limit}))
    try:
        # Native weights stay in their file.
        with contextlib.nullcontext() if is_native else huge_pages(), device_errors():
            session = ort.InferenceSession(str(graph), options, providers=providers, enable_fallback=0)
        _sessions.add(session)
    except UnavailableError:
        raise
    except Exception as error:  # onnxruntime raises its own classes straight from C++
        raise BundleError(
            f"{graph.name} must load in ONNX Runtime {ort.__version__}, got: {one_line(error)}"
        ) from error
    if device == CUDA and session.get_providers()[0] != CUDA_PROVIDER:
        raise UnavailableError(
            "CUDA must have a GPU that ONNX Runtime can use, got none; see nvidia-smi, or take the CPU"
        )
    return session


@contextlib.contextmanager
def device_errors() -> Iterator[None]:
    """Turn what ONNX Runtime raises where a device fails or its memory is used up into an `UnavailableError`."""
    try:
        yield
    except Exception as error:  # onnxruntime raises its own classes straight from C++
        text = " ".join(str(error).split())
        memory, failure = _OUT_OF_MEMORY.search(text), _DEVICE_FAILURE.search(text)
        if memory is not None:
            raise UnavailableError(
                f"memory must hold weights, cache and a forward, got: {memory[0]}; "
                "load with a larger vram_limit, a smaller max_context or less on the GPU"
            ) from error
        if failure is not None:
            raise UnavailableError(
                f"CUDA must have a GPU that it can use, got: {one_line(failure[0])}; see nvidia-smi, or take the CPU"
            ) from error
        raise


def memory_left(weights: int, cache: int, vram_limit: int | None) -> int | None:
    """Bytes that a limit leaves to a session beside its cache; InputError where it cannot hold weights and cache."""
    if vram_limit is not None and vram_limit < weights + cache:
        raise InputError(
            f"vram_limit must hold {weights} bytes of weights and {cache} of cache, got {max(vram_limit, 0)}; "
            "load with a larger one or with a smaller max_context"
        )
    return None if vram_limit is None else vram_limit - cache


def weight_bytes(graph: Path) -> int:
    """Of a graph and its weights; 0 where it cannot be read, as opening it tells better."""
    try:
        return graph_bytes(graph)
    except (OSError, ValueError):
        return 0


def report_session(session: Any, *, device: str, **known: Any) -> SessionReport:
    """What is known of a session, and what ONNX Runtime tells of it."""
    parts = session.get_provider_graph_assignment_info()
    nodes = dict(Counter(part.ep_name for part in parts for _ in part.get_nodes()))
    return SessionReport(device=device, nodes=nodes, vram_bytes=vram_in_use() if device == CUDA else None, **known)


def _keep_for_ever() -> None:
    """Let a forked child destroy no session: it would wait for the parent's threads."""
    for session in tuple(_sessions):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))  # nor must the interpreter's own end


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_for_ever)
