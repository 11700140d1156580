"""A bundle on disk: its directory, and the checks of it before anything is used. It knows no session."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, Literal, get_args

from dovetail_ort_runtime.bundle.graph_check import CheckedGraph, check_graph
from dovetail_ort_runtime.bundle.graph_entries import DrafterEntry, TapsEntry, TargetEntry
from dovetail_ort_runtime.bundle.graph_names import COS_TABLE
from dovetail_ort_runtime.bundle.hub_cache import HubName, Snapshot, find_snapshot
from dovetail_ort_runtime.bundle.manifest import MANIFEST_NAME, FileEntry, Manifest
from dovetail_ort_runtime.checks import must_be_one_of
from dovetail_ort_runtime.errors import BundleError
from dovetail_ort_runtime.machine.process_memory import return_freed_memory
from dovetail_ort_runtime.text.tokenizer import Tokenizer

if TYPE_CHECKING:  # Jinja loads slowly
    from dovetail_ort_runtime.text.chat_template import ChatTemplate

# Which files must have the manifest's checksum.
Verification = Literal["small", "all", "none"]
VERIFICATIONS: Final[tuple[Verification, ...]] = get_args(Verification)
# Larger files are hashed only on request: hashing 150 MB of weights would slow every start.
SMALL_FILE_BYTES: Final = 16 << 20
# No honest file comes near these sizes. A larger one is not read into memory.
LARGEST_TEXT_BYTES: Final = 4 << 20
LARGEST_TOKENIZER_BYTES: Final = 256 << 20


class Bundle:
    """An opened bundle: every file in its manifest is there with its size, and no graph reads other files.

    In a snapshot of the hub's cache a file may be a link to a blob of the same repository; see `Snapshot`.

    Args:
        directory: directory of the bundle. Where there is no such directory, `owner/name` or `owner/name@revision` is
            the bundle's name on the hub, and is looked for in the hub's cache on this disk.
        verify: files that must have the manifest's checksum: `small` for those of up to `SMALL_FILE_BYTES`, `all`, or
            `none`.

    Raises:
        BundleError: something is missing, truncated or altered, a path leaves the directory, `check_graph` refuses a
            graph, or the hub's cache does not have the model.
        InputError: `verify` is another word.

    Attributes:
        directory: directory that the bundle lies in.
        verify: files whose checksums were compared.
        manifest: what the bundle says of itself.
    """

    def __init__(self, directory: str | Path, verify: Verification = "small") -> None:
        must_be_one_of("verify", verify, VERIFICATIONS)
        self.directory = find_directory(directory)
        self.verify = verify
        self._snapshot = Snapshot.around(self.directory)
        self.manifest = Manifest.from_json(self._manifest_text())
        for entry in self.manifest.files:
            self._check(entry, hashed=_is_hashed(entry, verify))
        self._check_references()
        self._check_graphs()

    def path(self, name: str) -> Path:
        """Path of the file `name` of the manifest.

        Raises:
            BundleError: the path leaves the bundle.
        """
        path = self.directory / name
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or "\\" in name or not self._is_inside(path):
            raise BundleError(
                f"a path in the manifest must stay inside the bundle, got {name!r}; do not use this bundle"
            )
        return path

    def text(self, name: str) -> str:
        """Contents of the UTF-8 file `name`.

        Raises:
            BundleError: the path leaves the bundle, or the file is no UTF-8 or larger than `LARGEST_TEXT_BYTES`.
        """
        with self.path(name).open("rb") as file:
            content = file.read(LARGEST_TEXT_BYTES + 1)
        _check_size(name, len(content), LARGEST_TEXT_BYTES)
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BundleError(f"{name} is not UTF-8: {error}; export the bundle again") from error

    def tokenizer(self) -> Tokenizer:
        """The bundle's tokenizer."""
        path = self.path(self.manifest.tokenizer.file)
        _check_size(path.name, path.stat().st_size, LARGEST_TOKENIZER_BYTES)
        tokenizer = Tokenizer(path)
        return_freed_memory()  # reading needs half as much memory again as the tokenizer itself
        return tokenizer

    def chat_template(self) -> ChatTemplate | None:
        """The bundle's chat template, or None if it has none."""
        entry = self.manifest.tokenizer
        if entry.chat_template is None:
            return None
        from dovetail_ort_runtime.text.chat_template import ChatTemplate  # Jinja loads slowly

        return ChatTemplate(self.text(entry.chat_template), entry.special_tokens)

    def verify_checksums(self) -> None:
        """Hash every file.

        Raises:
            BundleError: a file differs from the manifest.
        """
        for entry in self.manifest.files:
            self._check(entry, hashed=True)

    @property
    def _remedy(self) -> str:
        if self._snapshot is None:
            return "export the bundle again"
        if self._snapshot.directory != self.directory.resolve():  # one of several bundles in a repository
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
            raise BundleError(f"the bundle's file {entry.path!r} is missing; {self._remedy}")
        size = path.stat().st_size
        if size != entry.num_bytes:
            raise BundleError(f"{entry.path} must have {entry.num_bytes} bytes, got {size}; {self._remedy}")
        if hashed:
            self._check_hash(entry, sha256(path))

    def _check_hash(self, entry: FileEntry, digest: str) -> None:
        if digest != entry.sha256:
            raise BundleError(
                f"{entry.path} must have the SHA-256 {entry.sha256[:12]}…, got {digest[:12]}…; "
                f"the file was altered; {self._remedy}"
            )

    def _check_references(self) -> None:
        manifest = self.manifest
        listed = {entry.path for entry in manifest.files}
        for name in (*self._graphs(), manifest.tokenizer.file, manifest.tokenizer.chat_template):
            if name is not None and name not in listed:
                raise BundleError(
                    f"the manifest refers to {name!r}, which is not among its files; do not use this bundle"
                )
        if manifest.drafter is not None:
            _check_drafter(manifest.target, manifest.drafter)

    def _check_graphs(self) -> None:
        versions = self.manifest.operators()
        for name in self._graphs():
            found = check_graph(self.path(name), self._bytes_beside(name))
            self._check_positions(name, found)
            if found.operators != versions.get(name):
                raise BundleError(
                    f"the native operators of {name} must be of the manifest's version {versions.get(name)}, "
                    f"got {found.operators}; export the bundle again"
                )

    def _bytes_beside(self, graph: str) -> dict[str, int]:
        """Sizes of the files in a graph's folder, by name."""
        folder = PurePosixPath(graph).parent
        files = {PurePosixPath(entry.path): entry.num_bytes for entry in self.manifest.files}
        return {path.name: size for path, size in files.items() if path.parent == folder}

    def _check_positions(self, graph: str, found: CheckedGraph) -> None:
        table = found.shapes.get(COS_TABLE, ())  # a row for each position
        num_positions = table[0] if table else 0
        if num_positions < self.manifest.target.max_context:
            raise BundleError(
                f"max_context in the manifest must be at most the {num_positions} positions of {graph}, "
                f"got {self.manifest.target.max_context}; export the bundle again"
            )

    def _graphs(self) -> tuple[str, ...]:
        if self.manifest.drafter is None:
            return self.manifest.target.graphs
        return self.manifest.target.graphs + self.manifest.drafter.graphs


def find_directory(path: str | Path) -> Path:
    """Directory of a bundle: the path itself, or a snapshot in the hub's cache where the path is only a name.

    Raises:
        BundleError: the path is a name of a model that the hub's cache does not have.
    """
    name = HubName.parse(str(path))
    if name is None or _exists(Path(path)):
        return Path(path)
    return find_snapshot(name)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_hashed(entry: FileEntry, verify: Verification) -> bool:
    match verify:
        case "small":
            return entry.num_bytes <= SMALL_FILE_BYTES
        case "all":
            return True
        case "none":
            return False


def _check_drafter(target: TargetEntry, drafter: DrafterEntry) -> None:
    """Refuse a drafter that is not this target's."""
    if drafter.target_sha256 != target.weights_sha256:
        raise BundleError(
            "the bundle's drafter was trained for another target; attach one of this target with: dovetail-ort attach"
        )
    if drafter.taps is not None:
        _check_taps(target, drafter, drafter.taps)
    elif drafter.hidden_size != target.hidden_size:
        raise BundleError(
            f"the drafter's hidden_size must be the target's {target.hidden_size}, got {drafter.hidden_size}; "
            "attach the drafter again"
        )


def _check_taps(target: TargetEntry, drafter: DrafterEntry, taps: TapsEntry) -> None:
    if target.front_graph is not None:
        raise BundleError("a target that was cut has no tapped graphs; export it again with --gpu-layers 0")
    if PurePosixPath(drafter.graph).parent != PurePosixPath(target.graph).parent:
        raise BundleError("the drafter's graph and the target's must lie in one folder; attach the drafter again")
    if max(taps.levels) > target.num_layers:
        raise BundleError(
            f"levels must be between 0 and the target's {target.num_layers}, got {max(taps.levels)}; "
            "attach the drafter again"
        )
    if (taps.portable_graph is None) != (target.portable_graph is None):
        raise BundleError(
            "a target with a portable graph needs a tapped one of it, and no other target has one; "
            "attach the drafter again"
        )


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
