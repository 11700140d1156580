"""A bundle on disk."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from dovetail_ort_runtime.bundle.graph_check import check_graph
from dovetail_ort_runtime.bundle.graph_names import COS_TABLE
from dovetail_ort_runtime.bundle.hub_cache import HubName, Snapshot, find_snapshot
from dovetail_ort_runtime.bundle.manifest import MANIFEST_NAME, FileEntry, Manifest
from dovetail_ort_runtime.errors import BundleError, InputError
from dovetail_ort_runtime.machine.process_memory import return_freed_memory
from dovetail_ort_runtime.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from dovetail_ort_runtime.text.chat_template import ChatTemplate

VERIFICATIONS: Final = ("small", "all", "none")
# Larger files are hashed on request only: 150 MB of weights would add to every start.
SMALL_FILE_BYTES: Final = 16 << 20
# No honest file comes near; what is larger is not read into memory.
LARGEST_TEXT_BYTES: Final = 4 << 20
LARGEST_TOKENIZER_BYTES: Final = 256 << 20
# The table with a row for each position, which every graph of a bundle has.


class Bundle:
    """An opened bundle: every file it names is there and has its size, and its graphs stay inside.

    In a snapshot of the hub's cache a file may be a link to a blob of the same repository, as `Snapshot` tells.

    Args:
        directory: of the bundle; or its name on the hub, `owner/name` or `owner/name@revision`, if there is no such
            directory: it is then looked for in the hub's cache on this disk.
        verify: which files must have the manifest's checksum: `small`, those of up to `SMALL_FILE_BYTES`; `all`; or
            `none`.

    Raises:
        BundleError: something is missing, truncated or altered, a path leaves the directory, `check_graph` refuses
            a graph, or the hub's cache does not have the model.
        InputError: `verify` is none of these.

    Attributes:
        directory: where the bundle lies.
        verify: as given.
        manifest: of the bundle.
    """

    def __init__(self, directory: str | Path, verify: str = "small") -> None:
        if verify not in VERIFICATIONS:
            raise InputError(f"verify must be one of {', '.join(VERIFICATIONS)}, got {verify!r}")
        self.directory, self.verify = find_directory(directory), verify
        self._snapshot = Snapshot.around(self.directory)
        self.manifest = Manifest.from_json(self._manifest_text())
        largest = {"small": SMALL_FILE_BYTES, "none": -1}.get(verify)
        for entry in self.manifest.files:
            self._check(entry, hashed=largest is None or entry.num_bytes <= largest)
        self._check_references()
        self._check_graphs()

    def path(self, name: str) -> Path:
        """Where the file `name` of the manifest lies.

        Raises:
            BundleError: it leaves the bundle.
        """
        path = self.directory / name
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or "\\" in name or not self._is_inside(path):
            raise BundleError(
                f"a path in the manifest must stay inside the bundle, got {name!r}; do not use this bundle"
            )
        return path

    def text(self, name: str) -> str:
        """Contents of the UTF-8 file `name`, of `LARGEST_TEXT_BYTES` at most."""
        with self.path(name).open("rb") as file:
            content = file.read(LARGEST_TEXT_BYTES + 1)
        _check_size(name, len(content), LARGEST_TEXT_BYTES)
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BundleError(f"{name} must be UTF-8, got: {error}; export the bundle again") from error

    def tokenizer(self) -> Tokenizer:
        """The bundle's tokenizer."""
        path = self.path(self.manifest.tokenizer.file)
        _check_size(path.name, path.stat().st_size, LARGEST_TOKENIZER_BYTES)
        tokenizer = Tokenizer(path)
        return_freed_memory()  # reading takes half as much again as the tokenizer itself
        return tokenizer

    def chat_template(self) -> ChatTemplate | None:
        """The bundle's chat template, if it has one."""
        entry = self.manifest.tokenizer
        if entry.chat_template is None:
            return None
        from dovetail_ort_runtime.text.chat_template import ChatTemplate  # Jinja loads slowly

        return ChatTemplate(self.text(entry.chat_template), entry.special_tokens)

    def verify_checksums(self) -> None:
        """Hash every file; BundleError where one differs from the manifest."""
        for entry in self.manifest.files:
            self._check(entry, hashed=True)

    @property
    def _remedy(self) -> str:
        if self._snapshot is None:
            return "export the bundle again"
        if self._snapshot.directory != self.directory.resolve():  # one of several in a repository
            name = self._snapshot.name
            return f"run: hf download {name.repository} --revision {name.revision}"
        return f"run: dovetail-ort pull {self._snapshot.name}"

    @property
    def _way_to_one(self) -> str:
        if self._snapshot is None:
            return "make one with: dovetail-ort export SOURCE OUT"
        if (self.directory / "config.json").is_file():  # a model that transformers loads
            return f"make one with: dovetail-ort export {self._snapshot.name} OUT"
        return self._remedy

    def _manifest_text(self) -> str:
        if not (self.directory / MANIFEST_NAME).is_file():
            raise BundleError(
                f"a bundle must be a directory with a {MANIFEST_NAME}, got {str(self.directory)!r}; {self._way_to_one}"
            )
        return self.text(MANIFEST_NAME)

    def _is_inside(self, path: Path) -> bool:
        try:
            if path.resolve().is_relative_to(self.directory.resolve()):
                return True
            return self._snapshot is not None and self._snapshot.links_to_blob(path)
        except (OSError, RuntimeError, ValueError):  # links in a circle, or a name that no file can have
            return False

    def _check(self, entry: FileEntry, *, hashed: bool) -> None:
        path = self.path(entry.path)
        if not _is_file(path):
            raise BundleError(f"the bundle must have the file {entry.path!r}, which is missing; {self._remedy}")
        if (size := path.stat().st_size) != entry.num_bytes:
            raise BundleError(f"{entry.path} must have {entry.num_bytes} bytes, got {size}; {self._remedy}")
        if hashed and (digest := sha256(path)) != entry.sha256:
            raise BundleError(
                f"{entry.path} must have the SHA-256 {entry.sha256[:12]}…, got {digest[:12]}…; "
                f"the file was altered; {self._remedy}"
            )

    def _check_references(self) -> None:
        manifest, listed = self.manifest, {entry.path for entry in self.manifest.files}
        for name in (*self._graphs(), manifest.tokenizer.file, manifest.tokenizer.chat_template):
            if name is not None and name not in listed:
                raise BundleError(f"the manifest's files must list {name!r}, which it refers to")
        if manifest.drafter is not None and manifest.drafter.target_sha256 != manifest.target.weights_sha256:
            raise BundleError(
                "the bundle's drafter must be of its target, got one of another model; "
                "attach another with: dovetail-ort attach"
            )

    def _check_graphs(self) -> None:
        versions = self.manifest.operators()
        for name in self._graphs():
            folder = PurePosixPath(name).parent
            files = {PurePosixPath(entry.path): entry.num_bytes for entry in self.manifest.files}
            beside = {path.name: size for path, size in files.items() if path.parent == folder}
            found = check_graph(self.path(name), beside)
            num_positions, *_ = found.shapes.get(COS_TABLE) or (0,)
            if num_positions < self.manifest.target.max_context:
                raise BundleError(
                    f"max_context in the manifest must be at most the {num_positions} positions of {name}, "
                    f"got {self.manifest.target.max_context}; export the bundle again"
                )
            if found.operators != versions.get(name):
                raise BundleError(
                    f"the native operators of {name} must be of the manifest's version {versions.get(name)}, "
                    f"got {found.operators}; export the bundle again"
                )

    def _graphs(self) -> tuple[str, ...]:
        drafter = self.manifest.drafter
        return self.manifest.target.graphs + (() if drafter is None else drafter.graphs)


def find_directory(path: str | Path) -> Path:
    """The directory that a bundle's path means, or its name on the hub where there is no such path.

    Raises:
        BundleError: it is a name of a model that the hub's cache does not have.
    """
    name = HubName.parse(str(path))
    return Path(path) if name is None or _exists(Path(path)) else find_snapshot(name)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long
        return False


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def _check_size(name: str, num_bytes: int, largest: int) -> None:
    if num_bytes > largest:
        raise BundleError(f"{name} must have {largest} bytes at most, got more; do not use this bundle")


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
