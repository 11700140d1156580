"""What is found and loaded of CUDA, and a copy to the GPU and back; JSON on standard output.

This runs first on a new machine. Where later steps fail, its result helps to find out why.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime

from benchmarks.gpu.machine import described
from dovetail_ort_runtime.engine.devices import require_cuda
from dovetail_ort_runtime.machine.cuda_runtime import vram_in_use

_LIBRARIES: Final = ("libcud", "libcublas", "libcufft", "libcurand", "libnvrtc", "onnxruntime")
_TRACEBACK_LINES: Final = 8


def main() -> int:
    """Print what every part found; return 1 if one failed."""
    parts: dict[str, Callable[[], Any]] = {
        "python": platform.python_version,
        "machine": described,
        "nvidia-smi": _nvidia_smi,
        "memory_bytes": lambda: Path("/proc/meminfo").read_text().splitlines()[0],
        "build": lambda: onnxruntime.get_build_info(),
        "providers": lambda: onnxruntime.get_available_providers(),
        "require_cuda": require_cuda,
        "vram_in_use": vram_in_use,
        "libraries": _libraries,
        "copy": _copy,
    }
    found = {}
    failed = False
    for name, part in parts.items():
        try:
            found[name] = part()
        except Exception as error:  # every error is a result
            failed = True
            found[name] = {"error": f"{type(error).__name__}: {error}", "traceback": _traceback()}
            print(f"{name}: {found[name]['error']}", file=sys.stderr)
    print(json.dumps(found, indent=1))
    return 1 if failed else 0


def _traceback() -> list[str]:
    return traceback.format_exc().splitlines()[-_TRACEBACK_LINES:]


def _nvidia_smi() -> str | None:
    """What the driver's own tool prints; None where it is not installed."""
    try:
        return subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return None


def _libraries() -> list[str]:
    """Files of CUDA and ONNX Runtime in this process."""
    paths = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    return sorted(path for path in paths if any(name in path for name in _LIBRARIES))


def _copy() -> dict[str, Any]:
    given = np.arange(6, dtype=np.float16)
    value = onnxruntime.OrtValue.ortvalue_from_numpy(given, "cuda")
    returned = value.numpy()
    return {"device": value.device_name(), "identical": bool(np.array_equal(given, returned))}


if __name__ == "__main__":
    sys.exit(main())
