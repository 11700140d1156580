"""What stands before every route: the Host header, the API key, the count of requests. It knows no route's work."""

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
    """Turns away requests that name another host.

    A page of a foreign name that resolves to this machine (DNS rebinding) could otherwise use the server through its
    visitor's browser. Such a page has a name: addresses are let through. `allowed_hosts` are in lower case,
    without port.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Collection[str]) -> None:
        self._app, self._allowed_hosts = app, allowed_hosts

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
    """Turns away requests without the API key, but for those of `open_paths`."""

    def __init__(self, app: ASGIApp, api_key: str, open_paths: Collection[str]) -> None:
        self._app, self._open_paths = app, open_paths
        self._api_key = api_key.encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with status 401, or pass on."""
        if scope["type"] == "http" and scope["path"] not in self._open_paths and not self._has_key(scope):
            error = RequestError(
                "the API key must be given as Authorization: Bearer KEY, got none or another one",
                status=401,
                code="invalid_api_key",
            )
            await error_response(error)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _has_key(self, scope: Scope) -> bool:
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        # Headers are latin-1; the comparison takes the same time wherever two keys differ.
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), self._api_key)


class RequestCounter:
    """Counts requests by route and status; those of no route in `paths` share a line, whatever strangers ask for."""

    def __init__(self, app: ASGIApp, metrics: ServerMetrics, paths: Collection[str]) -> None:
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and count what was sent."""
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
