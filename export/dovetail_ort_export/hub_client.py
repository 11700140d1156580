"""The hub through `huggingface_hub`: what a repository holds, its files into the cache and back, errors in one line.

It knows neither bundles nor checkpoints.
"""

from __future__ import annotations

import errno
import glob
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final

from dovetail_ort_runtime.bundle.hub_cache import (
    DEFAULT_REVISION,
    HubName,
    cache_directory,
    names_commit,
    repository_directory,
)
from dovetail_ort_runtime.errors import DovetailError, InputError, UnavailableError

_HTTP_LIBRARIES: Final = {"requests", "urllib3", "httpx", "httpx2", "httpcore", "httpcore2"}
_DISK_IS_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LOG_IN: Final = "log in with `hf auth login` or set HF_TOKEN"
_LONGEST_REASON: Final = 300


class NoConnectionError(UnavailableError):
    """The hub cannot be reached, or must not be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFile:
    """A file on the hub.

    Attributes:
        num_bytes: size.
        sha256: 64 hexadecimal digits, of a file in large-file storage; else None.
    """

    num_bytes: int
    sha256: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteModel:
    """A model on the hub at one commit.

    Attributes:
        name: as it was asked for.
        commit: 40 hexadecimal digits.
        private: whether only its owner sees it.
        files: by their paths.
    """

    name: HubName
    commit: str
    private: bool
    files: Mapping[str, RemoteFile]


class HubClient:
    """The hub at HF_ENDPOINT, asked with HF_TOKEN or the login of `hf auth login`, and the cache on this disk.

    Args:
        error: class of what the hub refuses; `NoConnectionError` says that it was not reached.

    Attributes:
        endpoint: address of the hub.

    Raises:
        UnavailableError: `huggingface_hub` is missing.
    """

    def __init__(self, error: type[DovetailError] = InputError) -> None:
        self._library = _library()
        self._error = error
        self.endpoint = (os.environ.get("HF_ENDPOINT") or self._library.constants.ENDPOINT).rstrip("/")
        self._api = self._library.HfApi(endpoint=self.endpoint, library_name="dovetail-ort")
        if not sys.stderr.isatty():
            self._library.utils.disable_progress_bars()
        if "HF_HUB_VERBOSITY" not in os.environ:
            self._library.utils.logging.set_verbosity_error()  # each of its retries is a line

    @property
    def has_token(self) -> bool:
        """Whether somebody is logged in."""
        return self._library.get_token() is not None

    def look_up(self, name: HubName) -> RemoteModel:
        """What a model holds at its revision; errors as the class says."""
        with self._one_line(name):
            return self._look_up(name)

    def find(self, name: HubName) -> RemoteModel | None:
        """The same, or None where there is no repository that the user may see."""
        with self._one_line(name):
            try:
                return self._look_up(name)
            except self._library.errors.GatedRepoError:
                raise
            except self._library.errors.RepositoryNotFoundError:
                return None

    def download(self, model: RemoteModel, files: Iterable[str], *, force: bool = False) -> Path:
        """Put files of a model into the cache, and return the directory of its snapshot.

        With `force` what the cache has of them is fetched again.
        """
        with self._one_line(model.name):
            folder: str = self._library.snapshot_download(
                model.name.repository,
                revision=model.commit,
                cache_dir=cache_directory(),
                endpoint=self.endpoint,
                allow_patterns=[glob.escape(file) for file in files],
                force_download=force,
            )
            return Path(folder)

    def remember(self, model: RemoteModel) -> None:
        """Let the model's name mean this commit in the cache; for when all that is wanted of it is there."""
        revision = model.name.revision or DEFAULT_REVISION
        if names_commit(revision, model.commit):
            return
        reference = repository_directory(model.name) / "refs" / revision
        scratch = reference.with_name(f"{reference.name}.partial")
        with self._one_line(model.name):
            reference.parent.mkdir(parents=True, exist_ok=True)
            scratch.write_text(model.commit, encoding="ascii")
            scratch.replace(reference)

    def create(self, name: HubName, *, private: bool) -> None:
        """Make an empty repository."""
        with self._one_line(name):
            self._api.create_repo(name.repository, private=private)

    def commit(
        self, model: RemoteModel, additions: Mapping[str, Path | bytes], deletions: Iterable[str], message: str
    ) -> str:
        """Add and delete files in one commit behind `model`'s, all or none; the new commit."""
        hub = self._library
        operations = [
            *(hub.CommitOperationDelete(path_in_repo=file) for file in deletions),
            *(
                hub.CommitOperationAdd(path_in_repo=file, path_or_fileobj=content)
                for file, content in additions.items()
            ),
        ]
        with self._one_line(model.name):
            found = self._api.create_commit(
                model.name.repository,
                operations,
                commit_message=message,
                parent_commit=model.commit,
            )
            return str(found.oid)

    def _look_up(self, name: HubName) -> RemoteModel:
        if self._library.constants.HF_HUB_OFFLINE:
            raise NoConnectionError(f"the hub must be asked for {name}, and HF_HUB_OFFLINE forbids it; unset it")
        found = self._api.model_info(name.repository, revision=name.revision, files_metadata=True)
        files = {
            one.rfilename: RemoteFile(num_bytes=one.size or 0, sha256=None if one.lfs is None else one.lfs.sha256)
            for one in found.siblings or ()
        }
        return RemoteModel(name=name, commit=str(found.sha), private=bool(found.private), files=files)

    @contextmanager
    def _one_line(self, name: HubName) -> Iterator[None]:
        """Make one line of whatever the library raises, which says why and what to do next."""
        try:
            yield
        except DovetailError:
            raise
        except Exception as error:  # of the library, of the HTTP client that its version has, of the system
            chain = list(_chain(error))
            for link in chain:
                if sentence := _refusal(link, name, self.endpoint) or _full_disk(link):
                    raise self._error(sentence) from error
            if any(map(_is_connection_error, chain)):
                raise NoConnectionError(
                    f"{self.endpoint} must be reached for {name}, got: {_reason(chain[-1])}; check the connection "
                    "and HF_ENDPOINT"
                ) from error
            raise self._error(f"the hub must serve {name}, got: {_reason(chain[-1])}; try again") from error


def _library() -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError as error:
        raise UnavailableError(
            f"the hub must have its client huggingface_hub, got: {error}; run: pip install 'dovetail-ort[hub]'"
        ) from error
    return huggingface_hub


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and those that it came from."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def _refusal(error: BaseException, name: HubName, endpoint: str) -> str | None:
    """What an answer of the hub means, or None if `error` is no such answer."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if response is None or status is None:
        return None
    kinds = {base.__name__ for base in type(error).__mro__}
    page = f"{endpoint}/{name.repository}"
    if "GatedRepoError" in kinds:
        return f"{name} is gated, got {status} from the hub; ask for access at {page}, then {_LOG_IN}"
    if "RevisionNotFoundError" in kinds:
        revision = name.revision or DEFAULT_REVISION
        return f"{name.repository} must have the revision {revision!r}, got {status} from the hub; see {page}"
    if "RepositoryNotFoundError" in kinds:
        return (
            f"{name.repository} must be a model on {endpoint} that you may see, got {status}: there is none of that "
            f"name, or it is private; check the name, or {_LOG_IN}"
        )
    phrase = getattr(response, "reason_phrase", None) or getattr(response, "reason", None)  # of httpx, of requests
    reason = response.headers.get("X-Error-Message") or phrase or _reason(error)
    if status == 401:
        return f"the hub must know your token, got {status}: {reason}; {_LOG_IN}"
    if status == 403:
        return f"your token must allow this for {name}, got {status}: {reason}; see {endpoint}/settings/tokens"
    return f"the hub must serve {name}, got {status}: {reason}; try again later, or see {page}"


def _full_disk(error: BaseException) -> str | None:
    if isinstance(error, OSError) and error.errno in _DISK_IS_FULL:
        return (
            f"the disk of {cache_directory()} must have room for the files, got: {error.strerror}; free some, or set "
            "HF_HUB_CACHE to a directory on another disk"
        )
    return None


def _is_connection_error(error: BaseException) -> bool:
    library = type(error).__module__.partition(".")[0]
    return library in _HTTP_LIBRARIES or isinstance(error, ConnectionError | TimeoutError)


def _reason(error: BaseException) -> str:
    """What an exception says, in one line of bounded length."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= _LONGEST_REASON else f"{words[:_LONGEST_REASON]}…"
