"""A stand-in of the hub's HTTP interface, as huggingface_hub 0.36 to 2.x calls it: models, files, commits, LFS uploads.

It keeps everything in memory and answers on this machine only. What it does not know is a 501, so that a call which no
test had in mind shows.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

OWNER_TOKEN = "hf_owner"
GUEST_TOKEN = "hf_guest"
LARGE_BYTES = 8192  # a file of more goes to LFS
_REPOSITORY = r"(?P<repository>[^/]+/[^/]+)"


@dataclass
class Repository:
    """A model: every commit has all of its files."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], ref: str = "main") -> str:
        """Put files at the head of a branch, and return the commit."""
        seed = repr((len(self.commits), sorted((name, _sha256(content)) for name, content in files.items())))
        commit = hashlib.sha1(seed.encode()).hexdigest()
        self.commits[commit] = dict(files)
        self.refs[ref] = commit
        return commit

    def files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit of a revision and its files."""
        commit = self.refs.get(revision, revision)
        return (commit, self.commits[commit]) if commit in self.commits else None


class StandIn:
    """The server: `repositories` are what it has, `requests` what it was asked for, as `METHOD /path`.

    Attributes:
        uploaded: what LFS holds, by SHA-256.
        fail: is asked with each request, and gives the status to refuse it with, or None; -1 closes the connection.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.uploaded: dict[str, bytes] = {}
        self.fail: Callable[[str], int | None] = lambda request: None
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def add(self, name: str, files: dict[str, bytes], **settings: bool) -> str:
        """A model with one commit, which is returned."""
        self.repositories[name] = Repository(**settings)
        return self.repositories[name].commit(files)

    def downloads(self) -> list[str]:
        """Names of the files whose content was asked for."""
        return [
            request.split("/", 5)[5] for request in self.requests if re.match(r"GET /[^/]+/[^/]+/resolve/", request)
        ]

    def close(self) -> None:
        """Stop answering, on connections that are open too."""
        self.fail = lambda request: -1
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        path, self.query = unquote(parts.path), parse_qs(parts.query)
        self.body = self._read_body()
        request = f"{self.command} {path}"
        self.hub.requests.append(request)
        status = self.hub.fail(request)
        if status == -1:
            self.close_connection = True
            return
        if status is not None:
            self._refuse(status)
            return
        for pattern, answer in _ROUTES:
            if found := re.fullmatch(pattern, request):
                answer(self, **found.groupdict())
                return
        self._refuse(501)

    do_GET = do_HEAD = do_POST = do_PUT = _handle  # noqa: N815  # names of http.server

    def _read_body(self) -> bytes:
        """The body of a request, as one piece or in chunks, as httpx sends what it reads from a file."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _answer(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _answer_json(self, value: Any) -> None:
        self._answer(json.dumps(value).encode(), Content_Type="application/json")

    def _refuse(self, status: int, code: str = "", message: str = "") -> None:
        headers = {"X_Error_Code": code} if code else {}
        self._answer(b"{}", status, **headers, **({"X_Error_Message": message} if message else {}))

    @property
    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _repository(self, name: str) -> Repository | None:
        """A repository that the caller may see, or None after a refusal as the hub's."""
        found = self.hub.repositories.get(name)
        if self._token not in ("", OWNER_TOKEN, GUEST_TOKEN):
            self._refuse(401, message="Invalid credentials in Authorization header")
        elif found is None or (found.private and self._token != OWNER_TOKEN):
            self._refuse(404 if self._token else 401, "RepoNotFound")
        else:
            return found
        return None

    def _revision(self, repository: str, revision: str) -> tuple[Repository, str, dict[str, bytes]] | None:
        found = self._repository(repository)
        if found is None:
            return None
        at = found.files(revision)
        if at is None:
            self._refuse(404, "RevisionNotFound")
            return None
        return found, *at

    def model(self, repository: str, revision: str | None = None) -> None:
        found = self._revision(repository, revision or "main")
        if found is None:
            return
        model, commit, files = found
        siblings = [{"rfilename": name, **(_sizes(files[name]) if "blobs" in self.query else {})} for name in files]
        self._answer_json(
            {
                "id": repository,
                "sha": commit,
                "private": model.private,
                "tags": [],
                "siblings": siblings,
                "downloads": 0,
            }
        )

    def tree(self, repository: str, revision: str) -> None:
        found = self._revision(repository, revision)
        if found is None:
            return
        listed = []
        for name, content in found[2].items():
            sizes = _sizes(content)
            entry = {"type": "file", "path": name, "size": len(content), "oid": sizes["blobId"]}
            if "lfs" in sizes:
                entry["lfs"] = {"oid": _sha256(content), "size": len(content), "pointerSize": 130}
            listed.append(entry)
        self._answer_json(listed)

    def resolve(self, repository: str, revision: str, file: str) -> None:
        found = self._revision(repository, revision)
        if found is None:
            return
        model, commit, files = found
        if model.gated and self._token != OWNER_TOKEN:
            self._refuse(403 if self._token else 401, "GatedRepo")
        elif file not in files:
            self._refuse(404, "EntryNotFound")
        else:
            content = files[file]
            sizes = _sizes(content)
            etag = sizes["lfs"]["sha256"] if "lfs" in sizes else sizes["blobId"]
            start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            headers = {"ETag": f'"{etag}"', "X_Repo_Commit": commit, "X_Linked_Size": str(len(content))}
            if start is None:
                self._answer(content, **headers)
            else:
                place = f"bytes {start[1]}-{len(content) - 1}/{len(content)}"
                self._answer(content[int(start[1]) :], 206, Content_Range=place, **headers)

    def create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if self._token != OWNER_TOKEN:
            self._refuse(403 if self._token else 401, message="You don't have the rights to create a model")
        elif name in self.hub.repositories:
            self._refuse(409, message="You already created this model repo")
        else:
            private = asked.get("private", asked.get("visibility") == "private")  # before 2.0 and since
            self.hub.add(name, {".gitattributes": b"*.onnx_data filter=lfs"}, private=private)
            self._answer_json({"url": f"{self.hub.endpoint}/{name}"})

    def preupload(self, repository: str) -> None:
        if self._may_write(repository):
            files = json.loads(self.body)["files"]
            answers = [
                {"path": file["path"], "uploadMode": _mode(file["size"]), "shouldIgnore": False, "oid": None}
                for file in files
            ]
            self._answer_json({"files": answers})

    def batch(self, repository: str) -> None:
        if self._may_write(repository):
            objects = []
            for asked in json.loads(self.body)["objects"]:
                actions = {"upload": {"href": f"{self.hub.endpoint}/lfs/{asked['oid']}", "header": {}}}
                known = asked["oid"] in self.hub.uploaded
                objects.append({**asked, **({} if known else {"actions": actions})})
            self._answer_json({"transfer": "basic", "objects": objects})

    def upload(self, digest: str) -> None:
        if _sha256(self.body) != digest:
            self._refuse(400, message="the content has another SHA-256")
        else:
            self.hub.uploaded[digest] = self.body
            self._answer(b"")

    def commit(self, repository: str, revision: str) -> None:
        if not self._may_write(repository):
            return
        model = self.hub.repositories[repository]
        head = model.refs[revision]
        files = dict(model.commits[head])
        for line in map(json.loads, self.body.splitlines()):
            key, value = line["key"], line["value"]
            if key == "header" and value.get("parentCommit", head) != head:
                self._refuse(412, message="the branch has moved on")
                return
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.uploaded[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        commit = model.commit(files, revision)
        url = f"{self.hub.endpoint}/{repository}/commit/{commit}"
        self._answer_json({"commitUrl": url, "commitOid": commit, "pullRequestUrl": None})

    def validate(self) -> None:
        self._answer_json({"errors": [], "warnings": []})

    def _may_write(self, name: str) -> bool:
        if self._repository(name) is None:
            return False
        if self._token != OWNER_TOKEN:
            self._refuse(403, message="your token has no permission to write")
            return False
        return True


_ROUTES = (
    (rf"GET /api/models/{_REPOSITORY}", _Handler.model),
    (rf"GET /api/models/{_REPOSITORY}/revision/(?P<revision>.+)", _Handler.model),
    (rf"GET /api/models/{_REPOSITORY}/tree/(?P<revision>.+)", _Handler.tree),
    (rf"(?:GET|HEAD) /{_REPOSITORY}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", _Handler.resolve),
    (r"POST /api/repos/create", _Handler.create),
    (r"POST /api/validate-yaml", _Handler.validate),
    (rf"POST /api/models/{_REPOSITORY}/preupload/main", _Handler.preupload),
    (rf"POST /{_REPOSITORY}\.git/info/lfs/objects/batch", _Handler.batch),
    (r"PUT /lfs/(?P<digest>[0-9a-f]{64})", _Handler.upload),
    (rf"POST /api/models/{_REPOSITORY}/commit/(?P<revision>.+)", _Handler.commit),
)


def _mode(num_bytes: int) -> str:
    return "lfs" if num_bytes > LARGE_BYTES else "regular"


def _sizes(content: bytes) -> dict[str, Any]:
    """What the hub says about a file: size, git's id of it, and of a large one its SHA-256."""
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    sizes: dict[str, Any] = {"size": len(content), "blobId": blob}
    if _mode(len(content)) == "lfs":
        sizes["lfs"] = {"sha256": _sha256(content), "size": len(content), "pointerSize": 130}
    return sizes


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
