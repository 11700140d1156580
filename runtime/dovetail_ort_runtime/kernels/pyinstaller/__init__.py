"""What PyInstaller asks of this package: where its hook stands. The hook carries the library into an application."""

from __future__ import annotations

from pathlib import Path


def hook_directories() -> list[str]:
    """Folders with hooks, as the entry point `pyinstaller40` gives them."""
    return [str(Path(__file__).parent)]
