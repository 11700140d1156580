"""Measured curves on disk, for the next load. It knows no models."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dovetail_ort_runtime.bundle.json_record import read_record
from dovetail_ort_runtime.planning.time_curves import TimeCurves


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveKey:
    """What measured times hold for. If any value differs, they are measured again.

    Attributes:
        bundles: SHA-256 of the checksums of the target's bundle and the drafter's.
        drafter: name of the drafter's class.
        devices: device of each session, the target's first; CUDA with the GPU's name.
        processor: name of the processor.
        onnxruntime: version of ONNX Runtime.
        operators: format of the target, and level and version of the kernels where there are any.
        threads: number of threads that one forward uses.
        max_context: slots of the cache; a short cache leaves long forwards unmeasured.
        method: name of the way of measuring; times of two ways do not compare.
    """

    bundles: str
    drafter: str
    devices: tuple[str, ...]
    processor: str
    onnxruntime: str
    operators: str
    threads: int
    max_context: int
    method: str

    @property
    def path(self) -> Path:
        """File of the curves of this key."""
        digest = hashlib.sha256(json.dumps(dataclasses.asdict(self)).encode()).hexdigest()
        return curves_directory() / f"{digest[:32]}.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stored:
    key: CurveKey
    curves: TimeCurves


def curves_directory() -> Path:
    """Directory of all curves, in the system's place for what can be made again."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME")
    directory = Path(base) if base else Path.home() / ".cache"
    return directory / "dovetail-ort" / "curves"


def load_curves(key: CurveKey) -> TimeCurves | None:
    """The curves stored for a key; None if there are none that can be read."""
    # A missing home directory is a RuntimeError.
    try:
        stored = read_record(_Stored, json.loads(key.path.read_text(encoding="utf-8")), key.path.name)
    except (OSError, ValueError, RuntimeError):
        return None
    return stored.curves if stored.key == key else None


def store_curves(key: CurveKey, curves: TimeCurves) -> None:
    """Store curves for a key, whole or not at all."""
    text = json.dumps(dataclasses.asdict(_Stored(key=key, curves=curves)), indent=2) + "\n"
    with contextlib.suppress(OSError, RuntimeError):
        key.path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=key.path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            Path(partial).replace(key.path)
        except OSError:
            Path(partial).unlink()
            raise
