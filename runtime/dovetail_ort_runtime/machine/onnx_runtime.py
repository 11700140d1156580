"""The package onnxruntime in this environment: which distribution it is, and the one way to import it.

It knows no session and no device.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType
from typing import Final

from dovetail_ort_runtime.errors import UnavailableError, one_line

OLDEST_ONNXRUNTIME: Final = (1, 31)
_DISTRIBUTIONS: Final = ("onnxruntime", "onnxruntime-gpu")
_METADATA: Final = ".dist-info"


def onnxruntime_distributions() -> dict[str, str]:
    """Versions of the ONNX Runtime distributions in the folder that the module is imported from, by name.

    Two distributions in that folder overwrite each other's files. One in another folder is never imported.
    """
    folder = _package_folder("onnxruntime")
    found: dict[str, str] = {}
    if folder is None:
        return found
    # The folders' names are enough, and importlib.metadata is slow to import.
    for name in _DISTRIBUTIONS:
        for metadata in folder.glob(f"{name.replace('-', '_')}-*{_METADATA}"):
            found[name] = metadata.name.removesuffix(_METADATA).split("-")[1]
    return found


def import_onnxruntime() -> ModuleType:
    """Import onnxruntime with its telemetry off.

    Its wheels for Linux store a device id in the user's cache and send usage data. Telemetry stays on for users who set
    `ORT_DISABLE_TELEMETRY=0`, and where onnxruntime was imported before.

    Raises:
        UnavailableError: onnxruntime is missing, too old, or installed twice.
    """
    if len(onnxruntime_distributions()) > 1:
        raise UnavailableError(
            "onnxruntime and onnxruntime-gpu are both installed, and overwrite each other's files; "
            'run: pip uninstall -y onnxruntime onnxruntime-gpu, then pip install "dovetail-ort[cpu]" or '
            '"dovetail-ort[gpu]"'
        )
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise UnavailableError(
            f"onnxruntime cannot be imported: {one_line(error)}; "
            'run: pip install "dovetail-ort[cpu]" (or "dovetail-ort[gpu]" for CUDA)'
        ) from error
    _check_version(onnxruntime)
    module: ModuleType = onnxruntime
    return module


def _package_folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parents[1].resolve()


def _check_version(module: ModuleType) -> None:
    # A removal that left files behind leaves a module without a version.
    version = getattr(module, "__version__", "0.0")
    found = tuple(int(part) for part in version.split(".")[:2])
    if found < OLDEST_ONNXRUNTIME:
        oldest = ".".join(map(str, OLDEST_ONNXRUNTIME))
        raise UnavailableError(
            f"onnxruntime must be {oldest} or newer, got {version}; run: pip install --force-reinstall onnxruntime"
        )
