"""The hub's cache on disk: the directory that a model's name means, and where the files of a snapshot may lie.

It opens no connection and needs no `huggingface_hub`, whose layout this is. It reads only names and links:

    models--owner--name/refs/main               a commit, 40 hexadecimal digits; one file for every branch and tag
    models--owner--name/snapshots/COMMIT/FILE   a link to ../../blobs/HASH, or the file where links cannot be made
    models--owner--name/blobs/HASH              the content, or a link to ../../blobs/XX/HASH64
    blobs/XX/HASH64                             content that repositories of this cache share, since huggingface_hub 2
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from dovetail_ort_runtime.errors import BundleError

DEFAULT_REVISION: Final = "main"
# File that huggingface_hub makes in its store of shared contents; a directory `blobs` without it is something else.
SHARED_STORE_MARKER: Final = ".huggingface-shared-blobs"

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_SHORT_COMMIT: Final = re.compile(r"[0-9a-f]{7,39}")
_SHARED_HASH: Final = re.compile(r"[0-9a-f]{64}")
_REPOSITORY_FOLDER: Final = re.compile(r"models--(?P<owner>.+?)--(?P<model>.+)")
_PART: Final = r"\w[\w.-]{0,95}"  # the hub's own bounds
_NAME: Final = re.compile(rf"(?P<repository>{_PART}/{_PART})(@(?P<revision>[^\s\\:~^?*\[@]+))?", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class HubName:
    """A model on the hub, as `owner/name` or `owner/name@revision`.

    Attributes:
        repository: name of the repository, `owner/name`.
        revision: branch, tag or commit, of which a cache needs 7 digits; None for `main`.
    """

    repository: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The model that a text names, or None if the text is no such name."""
        found = _NAME.fullmatch(text)
        if found is None or "--" in found["repository"] or ".." in found["repository"]:
            return None
        revision = found["revision"]
        if revision is not None and not {"", ".", ".."}.isdisjoint(revision.split("/")):
            return None
        return cls(repository=found["repository"], revision=revision)

    def __str__(self) -> str:
        return self.repository if self.revision is None else f"{self.repository}@{self.revision}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """One commit of a model in the hub's cache.

    Attributes:
        directory: directory of the commit's files, with links resolved.
        repository: directory of everything that the cache has of the model, two levels above.
    """

    directory: Path
    repository: Path

    @classmethod
    def around(cls, directory: Path) -> Self | None:
        """The snapshot that a directory is, or lies in; None if it is another directory."""
        try:
            resolved = directory.resolve()
        except (OSError, RuntimeError, ValueError):  # links in a circle, or a name that no file can have
            return None
        for place in (resolved, *resolved.parents):
            repository = place.parent.parent
            if (
                place.parent.name == "snapshots"
                and _COMMIT.fullmatch(place.name) is not None
                and _REPOSITORY_FOLDER.fullmatch(repository.name) is not None
            ):
                return cls(directory=place, repository=repository)
        return None

    @property
    def commit(self) -> str:
        """The commit's 40 hexadecimal digits."""
        return self.directory.name

    @property
    def name(self) -> HubName:
        """Repository and commit."""
        found = _REPOSITORY_FOLDER.fullmatch(self.repository.name)
        assert found is not None, "a snapshot is recognised by this name"
        return HubName(repository=f"{found['owner']}/{found['model']}", revision=self.commit)

    def links_to_blob(self, path: Path) -> bool:
        """Whether a path in the snapshot is a link to a blob of the same repository. The blob need not exist.

        Raises:
            OSError: there is no link at `path`.
            RuntimeError: links of its directories form a circle.
            ValueError: `path` has a name that no file can have.
        """
        if not path.parent.resolve().is_relative_to(self.directory):
            return False
        blob = _linked(path)
        if blob.parent != self.repository / "blobs" or blob.name in ("", ".", ".."):
            return False
        return not blob.is_symlink() or self._is_shared(blob)

    def _is_shared(self, blob: Path) -> bool:
        """Whether a blob that is a link leads to its content in the store that all repositories of the cache share."""
        store = self.repository.parent / "blobs"
        content = _linked(blob)
        return (
            content.parent == store / content.name[:2]
            and _SHARED_HASH.fullmatch(content.name) is not None
            and not content.is_symlink()
            and (store / SHARED_STORE_MARKER).is_file()
        )


def hub_cache_directory() -> Path:
    """Directory of `huggingface_hub`'s cache, by the same environment variables. It need not exist."""
    home = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("HF_HOME", f"{home}/huggingface")
    cache = os.environ.get("HUGGINGFACE_HUB_CACHE", f"{home}/hub")
    cache = os.environ.get("HF_HUB_CACHE", cache)
    return Path(os.path.expandvars(os.path.expanduser(cache)))  # noqa: PTH111  # Path's fails without a home


def repository_directory(name: HubName) -> Path:
    """Directory of everything that the cache has of a model. It need not exist."""
    return hub_cache_directory() / f"models--{name.repository.replace('/', '--')}"


def names_commit(revision: str, commit: str) -> bool:
    """Whether a revision is a commit, or the beginning of one that is long enough to be found in a cache."""
    is_commit = _COMMIT.fullmatch(revision) is not None or _SHORT_COMMIT.fullmatch(revision) is not None
    return is_commit and commit.startswith(revision)


def find_snapshot(name: HubName) -> Path:
    """The directory of a model's files in the hub's cache.

    Raises:
        BundleError: the cache does not have that revision of the model; the message names the command that fetches it.
    """
    repository = repository_directory(name)
    revision = DEFAULT_REVISION if name.revision is None else name.revision
    commit = _commit(repository, revision)
    if commit is None or not (repository / "snapshots" / commit).is_dir():
        raise BundleError(
            f"there is no bundle {str(name)!r}, neither as a directory nor in {hub_cache_directory()}; "
            f"run: dovetail-ort pull {name}"
        )
    return repository / "snapshots" / commit


def _commit(repository: Path, revision: str) -> str | None:
    """The commit that a branch, a tag, a commit or the beginning of one means in a cache."""
    try:
        with (repository / "refs" / revision).open(encoding="ascii") as file:
            found = file.read(64).strip()
        return found if _COMMIT.fullmatch(found) else None
    except (OSError, ValueError):  # no such branch or tag, or no text
        pass
    if _COMMIT.fullmatch(revision):
        return revision
    if not _SHORT_COMMIT.fullmatch(revision):
        return None
    commits = [path.name for path in (repository / "snapshots").glob(f"{revision}*") if _COMMIT.fullmatch(path.name)]
    return commits[0] if len(commits) == 1 else None


def _linked(path: Path) -> Path:
    """Path that a link leads to, with other links on the way resolved; it may be a link itself."""
    folder = path.parent.resolve()
    target = folder / path.readlink()
    return target.parent.resolve() / target.name
