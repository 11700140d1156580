"""Write a file so that it appears whole or not at all."""

from __future__ import annotations

from pathlib import Path


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Put `content` into `path`; on an error, a full disk for one, what stood there stays.

    Raises:
        OSError: it cannot be written.
    """
    scratch = path.with_name(f"{path.name}.partial")
    try:
        scratch.write_bytes(content)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
