"""The processor of this machine: its name, usable cores and instruction sets. It knows no ONNX Runtime."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Final

from dovetail_ort_runtime.machine.cpu_quota import cpu_quota

# Those that decide on ONNX Runtime's INT8 kernels, as Linux spells them on x86 and on ARM; the best ones stand last.
_INSTRUCTION_SETS: Final = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "amx_int8",
    "asimddp",
    "i8mm",
    "sve",
)


def usable_cores() -> int:
    """Number of physical cores that this process may run on, and that its container's CPU quota pays for."""
    quota = cpu_quota()
    cores = physical_cores()
    return cores if quota is None else min(cores, max(1, int(quota)))


def processor_name() -> str:
    """Model name of the processor, number of usable cores, and best instruction set for INT8 kernels.

    Virtual machines give different processors the same name: "AMD EPYC" may have VNNI or not.
    """
    name = processor_field("model name") or platform.processor() or platform.machine()
    parts = [name, f"{usable_cores()} cores"]
    known = instruction_sets()
    if known:
        parts.append(known[-1])
    return ", ".join(parts)


def instruction_sets() -> tuple[str, ...] | None:
    """Instruction sets of the first processor that INT8 kernels use; None where this is not Linux."""
    flags = processor_field("flags|Features")
    if flags is None:
        return None
    return tuple(name for name in _INSTRUCTION_SETS if name in flags.split())


def physical_cores() -> int:
    """Number of physical cores that this process may run on."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = set()
    for cpu in os.sched_getaffinity(0):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.add(siblings.read_text() if siblings.exists() else cpu)
    return len(cores)


def processor_field(names: str) -> str | None:
    """Value of a field of the first processor, empty if it has none; None without `/proc/cpuinfo`."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return None
    line = re.search(rf"^(?:{names})\s*:(.*)$", text, re.MULTILINE)
    return line[1].strip() if line else ""
