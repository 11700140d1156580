"""What this Python environment and machine offer."""

import functools
import importlib.util
import os
import platform
import re
from pathlib import Path
from types import ModuleType
from typing import Final

import numpy as np

from dovetail_ort_runtime.cpu_quota import cpu_quota
from dovetail_ort_runtime.errors import UnavailableError

OLDEST_ONNXRUNTIME: Final = (1, 31)
_DISTRIBUTIONS: Final = ("onnxruntime", "onnxruntime-gpu")
# Those that decide on ONNX Runtime's INT8 kernels, as Linux spells them on x86 and on ARM; the best stand last.
_INSTRUCTION_SETS: Final = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8"),
    *("asimddp", "i8mm", "sve"),
)
# The ONNX file of one node, MatMulInteger of the inputs a (uint8) and b (int8).
_INTEGER_PRODUCT: Final = (
    b'\x08\x08:>\n\x18\n\x01a\n\x01b\x12\x01c"\rMatMulInteger\x12\x01gZ\t\n\x01a\x12\x04\n\x02\x08\x02'
    b"Z\t\n\x01b\x12\x04\n\x02\x08\x03b\t\n\x01c\x12\x04\n\x02\x08\x06B\x04\n\x00\x10\r"
)


def onnxruntime_distributions() -> dict[str, str]:
    """Versions of the ONNX Runtime distributions in the folder that the module is imported from.

    Two of them there overwrite each other's files; one in another folder is never imported.
    """
    import importlib.metadata  # takes 20 ms

    folder = _package_folder("onnxruntime")
    found = {}
    for name in _DISTRIBUTIONS:
        for distribution in importlib.metadata.distributions(name=name):
            if Path(str(distribution.locate_file(""))).resolve() == folder:
                found[name] = distribution.version
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


@functools.cache
def sums_of_8_bits_saturate() -> bool:
    """Whether ONNX Runtime cuts off large sums of unsigned times signed 8-bit numbers on this processor.

    On x86 without VNNI it adds pairs of products in 16 bits. Rows still stand alone; their values are wrong. What
    decides is the kernel, so one product of the largest numbers is computed.

    Raises:
        UnavailableError: as `import_onnxruntime`.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(_INTEGER_PRODUCT, options, providers=["CPUExecutionProvider"])
    (sums,) = session.run(None, {"a": np.full((1, 64), 255, np.uint8), "b": np.full((64, 16), 127, np.int8)})
    return bool((sums != 64 * 255 * 127).any())
