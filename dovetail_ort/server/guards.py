"""Checks before every route: the Host header, the API key, the count of requests. It knows no route's work."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dovetail_ort.server.errors import RequestError, error_response
from dovetail_ort.server.metrics import ServerMetrics


class HostGuard:
    """Refuses requests that name another host.

    A foreign page whose name resolves to this machine (DNS rebinding) could otherwise use the server through its
    visitor's browser. Such a page has a name, so IP addresses pass.

    Args:
        app: application behind this guard.
        allowed_hosts: names that pass, in lower case, without port.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Collection[str]) -> None:
        self._app = app
        self._allowed_hosts = allowed_hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with status 421, or pass on."""
        if scope["type"] == "http" and not self._allows(Headers(scope=scope).get("host", "")):
            error = RequestError(
                "the Host header must be an IP address or an allowed name; start the server with --allowed-host NAME",
                status=421,
            )
            await error_response(error)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _allows(self, header: str) -> bool:
        try:
            hostname = urlsplit(f"//{header}").hostname or ""
            return hostname in self._allowed_hosts or bool(ipaddress.ip_address(hostname))
        except ValueError:
            return False


class KeyGuard:
    """Refuses requests without the API key.

    Args:
        app: application behind this guard.
        api_key: key that requests must bring, ASCII.
        open_paths: paths that need no key.
    """

    def __init__(self, app: ASGIApp, api_key: str, open_paths: Collection[str]) -> None:
        self._app = app
        self._open_paths = open_paths
        self._api_key = api_key.encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with status 401, or pass on."""
        if scope["type"] == "http" and scope["path"] not in self._open_paths and not self._has_key(scope):
            error = RequestError(
                "the API key is missing or wrong; send it as Authorization: Bearer KEY",
                status=401,
                code="invalid_api_key",
            )
            await error_response(error)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _has_key(self, scope: Scope) -> bool:
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        # Headers are latin-1. The time of the comparison does not reveal where two keys differ.
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), self._api_key)


class RequestCounter:
    """Counts requests by route and status.

    Args:
        app: application behind this counter.
        metrics: counters of the server.
        paths: paths of the routes; requests for all other paths are counted together.
    """

    def __init__(self, app: ASGIApp, metrics: ServerMetrics, paths: Collection[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and count by the status that was sent."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500  # of a request that fails before anything is sent

        async def watched_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.requests.labels(path, str(status)).inc()
