"""Puts the library of native operators, if there is one, beside the frozen package."""

from __future__ import annotations

from dovetail_ort_runtime.kernels import library_path

_path = library_path()
binaries = [] if _path is None else [(str(_path), "dovetail_ort_runtime/kernels")]
