"""A bundle on disk: a directory with a manifest, the graph, its weights and the tokenizer."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import Final

from dovetail_ort_runtime.chat_template import ChatTemplate
from dovetail_ort_runtime.errors import BundleError
from dovetail_ort_runtime.manifest import MANIFEST_NAME, FileEntry, Manifest, TargetEntry
from dovetail_ort_runtime.tokenizer import Tokenizer

# Larger files are hashed on request only: 150 MB of weights would add to every start.
HASHED_AT_OPEN_BYTES: Final = 16 << 20
_CHUNK_BYTES: Final = 1 << 20


class Bundle:
    """An opened bundle: every file it names is there, has its size and, if small, its checksum.

    Args:
        directory: the bundle.

    Raises:
        BundleError: something is missing, truncated or altered, or a path leaves the directory.

    Attributes:
        directory: as given.
        manifest: what it says.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.manifest = Manifest.from_json(self._manifest_text())
        for entry in self.manifest.files:
            self._check(entry, hashed=entry.num_bytes <= HASHED_AT_OPEN_BYTES)
        listed = {entry.path for entry in self.manifest.files}
        drafter = self.manifest.drafter
        target = self.manifest.target
        named = (target.graph, _front_path(target), self.manifest.tokenizer.file, self.manifest.tokenizer.chat_template)
        for name in (*named, None if drafter is None else drafter.graph):
            if name is not None and name not in listed:
                raise BundleError(f"the manifest's files must list {name!r}, which it refers to")
        if drafter is not None and drafter.target_sha256 != self.manifest.target.weights_sha256:
            raise BundleError(
                "the bundle's drafter must be of its target, got one of another model; "
                "attach another with: dovetail-ort attach"
            )

    def path(self, name: str) -> Path:
        """Absolute or relative path of the file `name` of the manifest, inside the directory.

        Raises:
            BundleError: the name is absolute, has a `..`, or is a link out of the bundle.
        """
        path = self.directory / name
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or "\\" in name or not self._is_inside(path):
            raise BundleError(
                f"a path in the manifest must stay inside the bundle, got {name!r}; do not use this bundle"
            )
        return path

    def text(self, name: str) -> str:
        """Contents of the UTF-8 file `name`."""
        try:
            return self.path(name).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise BundleError(f"{name} must be UTF-8, got: {error}; export the bundle again") from error

    def tokenizer(self) -> Tokenizer:
        """The bundle's tokenizer."""
        return Tokenizer(self.path(self.manifest.tokenizer.file))

    def chat_template(self) -> ChatTemplate | None:
        """The bundle's chat template, if it has one."""
        entry = self.manifest.tokenizer
        return (
            None if entry.chat_template is None else ChatTemplate(self.text(entry.chat_template), entry.special_tokens)
        )

    def verify_checksums(self) -> None:
        """Hash every file.

        Raises:
            BundleError: a file differs from the manifest.
        """
        for entry in self.manifest.files:
            self._check(entry, hashed=True)

    def _manifest_text(self) -> str:
        if not (self.directory / MANIFEST_NAME).is_file():
            raise BundleError(
                f"a bundle must be a directory with a {MANIFEST_NAME}, got {str(self.directory)!r}; "
                "make one with: dovetail-ort export SOURCE OUT"
            )
        return self.text(MANIFEST_NAME)

    def _is_inside(self, path: Path) -> bool:
        try:
            return path.resolve().is_relative_to(self.directory.resolve())
        except (OSError, RuntimeError, ValueError):  # links in a circle, or a name that no file can have
            return False

    def _check(self, entry: FileEntry, *, hashed: bool) -> None:
        path = self.path(entry.path)
        if not _is_file(path):
            raise BundleError(f"the bundle must have the file {entry.path!r}, which is missing; export it again")
        if (size := path.stat().st_size) != entry.num_bytes:
            raise BundleError(f"{entry.path} must have {entry.num_bytes} bytes, got {size}; export the bundle again")
        if hashed and (digest := sha256(path)) != entry.sha256:
            raise BundleError(
                f"{entry.path} must have the SHA-256 {entry.sha256[:12]}…, got {digest[:12]}…; "
                "the file was altered, export the bundle again"
            )


def _front_path(target: TargetEntry) -> str | None:
    if target.front_graph is None:
        return None
    try:
        return str(PurePosixPath(target.graph).with_name(target.front_graph))
    except ValueError as error:
        raise BundleError(
            f"front_graph must be the name of a file beside {target.graph!r}, got {target.front_graph!r}; "
            "export the bundle again"
        ) from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
