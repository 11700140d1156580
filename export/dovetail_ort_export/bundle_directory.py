"""Write a bundle so that it appears whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dovetail_ort_runtime.bundle import sha256
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.manifest import MANIFEST_NAME, FileEntry


def check_output(out: Path, *, force: bool) -> None:
    """Refuse an output path whose contents would be lost.

    Raises:
        InputError: something stands there and `force` is not set, or it is not a bundle.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MANIFEST_NAME).is_file():
        raise InputError(f"the output must be a new directory or a bundle, got {str(out)!r}; choose another path")
    if not force:
        raise InputError(f"the output must not exist, got {str(out)!r}; pass --force to replace that bundle")


@contextmanager
def bundle_directory(out: Path) -> Iterator[Path]:
    """A temporary directory beside `out` that takes its place when the block ends without an error.

    On an error or Ctrl-C the directory is removed and `out` is as it was.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".partial", dir=out.parent) as scratch:
        new, old = Path(scratch) / "new", Path(scratch) / "old"
        new.mkdir()
        yield new
        try:
            if out.exists():
                out.rename(old)
            new.rename(out)
        except BaseException:  # Ctrl-C between the two
            if old.exists() and not out.exists():
                old.rename(out)
            raise


def file_entries(directory: Path) -> tuple[FileEntry, ...]:
    """Path, size and checksum of every file in a directory, by path."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return tuple(
        FileEntry(path=path.relative_to(directory).as_posix(), num_bytes=path.stat().st_size, sha256=sha256(path))
        for path in files
    )
