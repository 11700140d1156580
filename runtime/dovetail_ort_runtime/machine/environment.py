"""What this Python environment and machine offer."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
from pathlib import Path
from types import ModuleType
from typing import Final

from dovetail_ort_runtime.errors import UnavailableError
from dovetail_ort_runtime.machine.cpu_quota import cpu_quota

OLDEST_ONNXRUNTIME: Final = (1, 31)
_DISTRIBUTIONS: Final = ("onnxruntime", "onnxruntime-gpu")
_METADATA: Final = ".dist-info"
# Those that decide on ONNX Runtime's INT8 kernels, as Linux spells them on x86 and on ARM; the best stand last.
_INSTRUCTION_SETS: Final = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8"),
    *("asimddp", "i8mm", "sve"),
)


def onnxruntime_distributions() -> dict[str, str]:
    """Versions of the ONNX Runtime distributions in the folder that the module is imported from.

    Two of them there overwrite each other's files; one in another folder is never imported.
    """
    folder = _package_folder("onnxruntime")
    found: dict[str, str] = {}
    if folder is None:
        return found
    # The names of folders tell it; importlib.metadata alone takes 20 ms to import.
    for name in _DISTRIBUTIONS:
        for metadata in folder.glob(f"{name.replace('-', '_')}-*{_METADATA}"):
            found[name] = metadata.name.removesuffix(_METADATA).split("-")[1]
    return found


def _package_folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return None if spec is None or spec.origin is None else Path(spec.origin).parents[1].resolve()


def import_onnxruntime() -> ModuleType:
    """The module, with its telemetry off.

    Its wheels for Linux store a device id in the user's cache and send usage. That stays on for those who set
    `ORT_DISABLE_TELEMETRY=0`, and where onnxruntime was imported before.

    Raises:
        UnavailableError: it is missing, too old, or installed twice.
    """
    if len(onnxruntime_distributions()) > 1:
        raise UnavailableError(
            "one of onnxruntime and onnxruntime-gpu must be installed, got both, which overwrite each other's files; "
            "run: pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'dovetail-ort[cpu]' or "
            "'dovetail-ort[gpu]'"
        )
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise UnavailableError(
            f"onnxruntime must be importable, got: {error}; "
            "run: pip install 'dovetail-ort[cpu]' (or 'dovetail-ort[gpu]' for CUDA)"
        ) from error
    # A removal that left files behind leaves a module without a version.
    version = getattr(onnxruntime, "__version__", "0.0")
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_ONNXRUNTIME:
        raise UnavailableError(
            f"onnxruntime must be 1.31 or newer, got {version}; run: pip install --force-reinstall onnxruntime"
        )
    module: ModuleType = onnxruntime
    return module


def usable_cores() -> int:
    """Physical cores that this process may run on, no more than a container's CPU quota pays for."""
    quota = cpu_quota()
    cores = _physical_cores()
    return cores if quota is None else min(cores, max(1, int(quota)))


def _physical_cores() -> int:
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = set()
    for cpu in os.sched_getaffinity(0):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.add(siblings.read_text() if siblings.exists() else cpu)
    return len(cores)


def processor_name() -> str:
    """Model name of the processor, usable cores and the instruction set of its INT8 kernels.

    Virtual machines call different processors by one name: AMD EPYC, with VNNI or without.
    """
    name = _processor_field("model name") or platform.processor() or platform.machine()
    return ", ".join([name, f"{usable_cores()} cores", *(instruction_sets() or ())[-1:]])


def instruction_sets() -> tuple[str, ...] | None:
    """Those of the first processor that INT8 kernels use; None where Linux is not there to tell."""
    flags = _processor_field("flags|Features")
    return None if flags is None else tuple(name for name in _INSTRUCTION_SETS if name in flags.split())


def _processor_field(names: str) -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return None
    line = re.search(rf"^(?:{names})\s*:(.*)$", text, re.MULTILINE)
    return line[1].strip() if line else ""
