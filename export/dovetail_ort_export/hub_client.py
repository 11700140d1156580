"""The Hugging Face hub through `huggingface_hub`: files of a repository into the cache and back, errors in one line.

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
    hub_cache_directory,
    names_commit,
    repository_directory,
)
from dovetail_ort_runtime.errors import DovetailError, InputError, UnavailableError, one_line

_HTTP_LIBRARIES: Final = {"requests", "urllib3", "httpx", "httpx2", "httpcore", "httpcore2"}
_DISK_IS_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LOG_IN: Final = "log in with `hf auth login` or set HF_TOKEN"


class NoConnectionError(UnavailableError):
    """The hub cannot be reached, or must not be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFile:
    """A file on the hub.

    Attributes:
        num_bytes: size of the file.
        sha256: 64 hexadecimal digits for a file in large-file storage; None for any other.
    """

    num_bytes: int
    sha256: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteModel:
    """A model on the hub at one commit.

    Attributes:
        name: name that was asked for.
        commit: 40 hexadecimal digits.
        private: whether only its owner sees it.
        files: files of the repository by their paths.
    """

    name: HubName
    commit: str
    private: bool
    files: Mapping[str, RemoteFile]


class HubClient:
    """The hub at HF_ENDPOINT, asked with HF_TOKEN or the login of `hf auth login`, and the cache on this disk.

    Args:
        error: class of the exception for what the hub refuses. Where the hub was not reached it is
            `NoConnectionError`.

    Attributes:
        endpoint: address of the hub, without a slash at the end.

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
        """Whether a login or a token is there."""
        return self._library.get_token() is not None

    def look_up(self, name: HubName) -> RemoteModel:
        """What a model holds at its revision.

        Raises:
            DovetailError: the class given as `error`, if the hub refuses.
            NoConnectionError: the hub was not reached.
        """
        with self._one_line(name):
            return self._look_up(name)

    def find(self, name: HubName) -> RemoteModel | None:
        """What a model holds at its revision, or None where there is no repository that the user may see.

        Raises:
            DovetailError: the class given as `error`, if the hub refuses for another reason.
            NoConnectionError: the hub was not reached.
        """
        with self._one_line(name):
            try:
                return self._look_up(name)
            except self._library.errors.GatedRepoError:
                raise
            except self._library.errors.RepositoryNotFoundError:
                return None

    def download(self, model: RemoteModel, files: Iterable[str], *, force: bool = False) -> Path:
        """Put files of a model into the cache.

        Args:
            model: model on the hub.
            files: paths of the files.
            force: whether files that the cache has already are fetched again.

        Returns:
            Directory of the model's snapshot in the cache.

        Raises:
            DovetailError: the class given as `error`, if the hub refuses or the disk is full.
            NoConnectionError: the hub was not reached.
        """
        with self._one_line(model.name):
            folder: str = self._library.snapshot_download(
                model.name.repository,
                revision=model.commit,
                cache_dir=hub_cache_directory(),
                endpoint=self.endpoint,
                allow_patterns=[glob.escape(file) for file in files],
                force_download=force,
            )
            return Path(folder)

    def remember(self, model: RemoteModel) -> None:
        """Let the model's name mean this commit in the cache. Call it when all wanted files are there."""
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
        """Make an empty repository.

        Raises:
            DovetailError: the class given as `error`, if the hub refuses.
            NoConnectionError: the hub was not reached.
        """
        with self._one_line(name):
            self._api.create_repo(name.repository, private=private)

    def commit(
        self, model: RemoteModel, additions: Mapping[str, Path | bytes], deletions: Iterable[str], message: str
    ) -> str:
        """Add and delete files in one commit after a model's, all or none.

        Args:
            model: model on the hub, at the commit that must still be the newest.
            additions: files or contents by their paths in the repository.
            deletions: paths in the repository.
            message: message of the commit.

        Returns:
            The new commit, 40 hexadecimal digits.

        Raises:
            DovetailError: the class given as `error`, if the hub refuses.
            NoConnectionError: the hub was not reached.
        """
        operations = [self._library.CommitOperationDelete(path_in_repo=file) for file in deletions]
        for file, content in additions.items():
            operations.append(self._library.CommitOperationAdd(path_in_repo=file, path_or_fileobj=content))
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
            raise NoConnectionError(f"HF_HUB_OFFLINE forbids to ask the hub for {name}; unset it")
        found = self._api.model_info(name.repository, revision=name.revision, files_metadata=True)
        files = {}
        for one in found.siblings or ():
            sha256 = None if one.lfs is None else one.lfs.sha256
            files[one.rfilename] = RemoteFile(num_bytes=one.size or 0, sha256=sha256)
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
                sentence = _refusal(link, name, self.endpoint) or _full_disk(link)
                if sentence is not None:
                    raise self._error(sentence) from error
            reason = _reason(chain[-1])
            if any(_is_connection_error(link) for link in chain):
                raise NoConnectionError(
                    f"{self.endpoint} cannot be reached for {name}: {reason}; check the connection and HF_ENDPOINT"
                ) from error
            raise self._error(f"the hub does not serve {name}: {reason}; try again") from error


def _library() -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError as error:
        raise UnavailableError(
            f'the hub needs the package huggingface_hub: {error}; run: pip install "dovetail-ort[hub]"'
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
        return f"{name} is gated ({status} from the hub); ask for access at {page}, then {_LOG_IN}"
    if "RevisionNotFoundError" in kinds:
        revision = name.revision or DEFAULT_REVISION
        return f"{name.repository} has no revision {revision!r} ({status} from the hub); see {page}"
    if "RepositoryNotFoundError" in kinds:
        return (
            f"there is no model {name.repository} on {endpoint}, or it is private ({status} from the hub); "
            f"check the name, or {_LOG_IN}"
        )
    phrase = getattr(response, "reason_phrase", None) or getattr(response, "reason", None)  # of httpx, of requests
    reason = response.headers.get("X-Error-Message") or phrase or _reason(error)
    if status == 401:
        return f"the hub does not know your token ({status}): {reason}; {_LOG_IN}"
    if status == 403:
        return f"your token does not allow this for {name} ({status}): {reason}; see {endpoint}/settings/tokens"
    return f"the hub does not serve {name} ({status}): {reason}; try again later, or see {page}"


def _full_disk(error: BaseException) -> str | None:
    if isinstance(error, OSError) and error.errno in _DISK_IS_FULL:
        return (
            f"the disk of {hub_cache_directory()} has no room for the files: {error.strerror}; free some, or set "
            "HF_HUB_CACHE to a directory on another disk"
        )
    return None


def _is_connection_error(error: BaseException) -> bool:
    library = type(error).__module__.partition(".")[0]
    return library in _HTTP_LIBRARIES or isinstance(error, ConnectionError | TimeoutError)


def _reason(error: BaseException) -> str:
    """What an exception says, or its name if it says nothing."""
    return one_line(error) or type(error).__name__
