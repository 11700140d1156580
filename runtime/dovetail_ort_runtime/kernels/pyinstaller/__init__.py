"""Where PyInstaller finds this package's hook, which puts the library of native operators into an application."""

from __future__ import annotations

from pathlib import Path


def hook_directories() -> list[str]:
    """Folders with hooks, for the entry point `pyinstaller40`."""
    return [str(Path(__file__).parent)]
