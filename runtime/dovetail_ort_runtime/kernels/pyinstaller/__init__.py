"""Where PyInstaller finds this package's hook, which puts the library of native operators into an application.

    entry point pyinstaller40 -> hook_directories -> this folder
    PyInstaller -> hook-dovetail_ort_runtime.kernels.py -> the library, beside the frozen package

It knows no operator.
"""

from __future__ import annotations

from pathlib import Path


def hook_directories() -> list[str]:
    """Folders with hooks, for the entry point `pyinstaller40`."""
    return [str(Path(__file__).parent)]
