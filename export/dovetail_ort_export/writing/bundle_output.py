"""Write bundles and files so that they appear whole or not at all, whatever ends the process. It knows no graph."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Final

from dovetail_ort_runtime.bundle.bundle import Bundle, sha256
from dovetail_ort_runtime.bundle.manifest import MANIFEST_NAME, FileEntry, Manifest
from dovetail_ort_runtime.errors import InputError

_LOCK_NAME: Final = "lock"
_SUFFIX: Final = ".partial"


def check_output(out: Path, *, force: bool) -> None:
    """Refuse an output path whose contents would be lost.

    Args:
        out: directory of the bundle to be.
        force: whether a bundle there may be replaced.

    Raises:
        InputError: there is a bundle and `force` is not set, or something that is no bundle.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MANIFEST_NAME).is_file():
        raise InputError(f"the output must be a new directory or a bundle, got {str(out)!r}; choose another path")
    if not force:
        raise InputError(f"there is a bundle at {str(out)!r} already; pass --force to replace it")


@contextmanager
def bundle_directory(out: Path) -> Iterator[Path]:
    """A temporary directory beside `out` that takes its place when the block ends without an error.

    On an error or Ctrl-C the directory is removed and `out` is as it was. A process that is killed leaves it behind for
    `clear_leftovers`.

    Args:
        out: directory of the bundle to be.

    Raises:
        BundleError: what was written is not a bundle.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=_SUFFIX, dir=out.parent) as scratch,
        (Path(scratch) / _LOCK_NAME).open("w") as lock,
    ):
        _lock(lock)
        new = Path(scratch) / "new"
        old = Path(scratch) / "old"
        new.mkdir()
        yield new
        Bundle(new, "none")  # what the runtime refuses is not put in place
        try:
            if out.exists():
                out.rename(old)
            new.rename(out)
        except BaseException:  # Ctrl-C between the two
            if old.exists() and not out.exists():
                old.rename(out)
            raise


def clear_leftovers(out: Path) -> None:
    """Remove what killed processes left beside `out`; put back a bundle that one was about to replace.

    Directories of processes that are still at work are locked, and stay.
    """
    if not out.parent.is_dir():
        return
    for scratch in out.parent.iterdir():  # glob would take a name's brackets for a pattern
        if scratch.name.startswith(f".{out.name}.") and scratch.name.endswith(_SUFFIX):
            _clear(scratch, out)


def _clear(scratch: Path, out: Path) -> None:
    try:
        with (scratch / _LOCK_NAME).open("r+") as lock:
            if not _lock(lock):
                return
            if (scratch / "old").exists() and not out.exists():
                (scratch / "old").rename(out)
            shutil.rmtree(scratch)
    except FileNotFoundError:  # no lock: made a moment ago, or not ours
        return


def _lock(file: IO[Any]) -> bool:
    """Whether this process has the lock now, until the file is closed."""
    if sys.platform == "win32":  # what a killed export left there stays for its user to remove
        return False
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def copy_without(bundle: Bundle, graphs: tuple[str, ...], directory: Path) -> tuple[FileEntry, ...]:
    """Copy a bundle's files, all but some graphs and their weights.

    Args:
        bundle: bundle to copy.
        graphs: paths of the graphs to leave out, as the manifest names them.
        directory: directory for the copies, which keep their paths.

    Returns:
        What the manifest says of these files.
    """
    return _put_without(bundle, graphs, directory, shutil.copyfile)


def link_without(bundle: Bundle, graphs: tuple[str, ...], directory: Path) -> tuple[FileEntry, ...]:
    """Link a bundle's files into the directory that takes its place, all but some graphs and their weights.

    A link takes no space and no time. A file is copied where the file system has no hard links. Read the weights of the
    bundle's graphs before: `load_graph` refuses to read a file with two names.

    Args:
        bundle: bundle that is replaced.
        graphs: paths of the graphs to leave out, as the manifest names them.
        directory: where the files go, under the same paths.

    Returns:
        What the manifest says of these files.
    """
    return _put_without(bundle, graphs, directory, _link_or_copy)


def _put_without(
    bundle: Bundle, graphs: tuple[str, ...], directory: Path, put: Callable[[Path, Path], object]
) -> tuple[FileEntry, ...]:
    kept = tuple(file for file in bundle.manifest.files if not file.path.startswith(graphs))
    for file in kept:
        path = directory / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        put(bundle.path(file.path).resolve(), path)
    return kept


def link_other_files(bundle: Bundle, directory: Path) -> None:
    """Link what else lies in a bundle's directory, such as its user's notes, into the one that takes its place.

    The directory's own permissions go along.

    Args:
        bundle: bundle that is replaced.
        directory: directory of the new bundle, whose manifest is written; a file that is there stays.
    """
    own = {MANIFEST_NAME, *(file.path for file in bundle.manifest.files)}

    def left_out(folder: str, names: list[str]) -> list[str]:
        paths = {name: (Path(folder) / name).relative_to(bundle.directory) for name in names}
        return [name for name, path in paths.items() if path.as_posix() in own or (directory / path).is_file()]

    def put(source: str, path: str) -> None:
        _link_or_copy(Path(source), Path(path))

    shutil.copytree(bundle.directory, directory, symlinks=True, ignore=left_out, copy_function=put, dirs_exist_ok=True)


def _link_or_copy(source: Path, path: Path) -> None:
    try:
        path.hardlink_to(source)
    except OSError:  # another file system, one without links, or a file of somebody else
        shutil.copyfile(source, path)


def write_manifest(manifest: Manifest, directory: Path, kept: Iterable[FileEntry] = ()) -> Manifest:
    """Write a manifest that names the files of `directory`, and return it.

    Args:
        manifest: manifest with any files.
        directory: directory of the bundle.
        kept: entries of files there whose checksums are known already.
    """
    manifest = replace(manifest, files=file_entries(directory, kept))
    write_whole(directory / MANIFEST_NAME, manifest.to_json().encode())
    return manifest


def file_entries(directory: Path, kept: Iterable[FileEntry] = ()) -> tuple[FileEntry, ...]:
    """Path, size and checksum of every file in a directory, sorted by path.

    Args:
        directory: directory of the files.
        kept: entries of files there whose checksums are known already.
    """
    known = {entry.path: entry for entry in kept}
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    names = {path: path.relative_to(directory).as_posix() for path in files}
    return tuple(known.get(name) or _file_entry(path, name) for path, name in names.items())


def _file_entry(path: Path, name: str) -> FileEntry:
    return FileEntry(path=name, num_bytes=path.stat().st_size, sha256=sha256(path))


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write `content` into `path`; on an error, such as a full disk, a file that was there stays as it was.

    Raises:
        OSError: the file cannot be written.
    """
    scratch = path.with_name(f"{path.name}{_SUFFIX}")
    try:
        scratch.write_bytes(content)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
