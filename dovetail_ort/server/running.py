"""The application behind a socket, until a signal ends it. It knows uvicorn and no routes."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Final

import uvicorn
from starlette.applications import Starlette

from dovetail_ort_runtime.checks import must_be_between
from dovetail_ort_runtime.errors import InputError

_LARGEST_PORT: Final = 65_535
_LAST_SECONDS: Final = 5  # for responses to requests that were aborted


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that is bound to an address and accepts nothing yet.

    Args:
        host: name or address.
        port: number of the port; 0 for a free one.

    Raises:
        InputError: this machine has no such address, or it is taken.
    """
    must_be_between("port", port, 0, _LARGEST_PORT)  # some systems take the remainder
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        try:
            if os.name == "posix":  # on Windows this would take a port that is in use
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise InputError(
            f"host and port must be an address of this machine that is free, got {host}:{port}: {error}"
        ) from error
    return bound


def make_server(
    app: Starlette,
    *,
    grace_seconds: float,
    max_connections: int,
    trusted_proxy: str | None = None,
    on_start: Callable[[], None] = lambda: None,
) -> uvicorn.Server:
    """A server that answers until SIGINT or SIGTERM, and then finishes what it accepted.

    A second signal kills the process.

    Args:
        app: application of `make_app`.
        grace_seconds: seconds for requests to finish after the signal, 0 or more; those that do not get an error.
        max_connections: largest number of connections, 1 or more; further ones get status 503 before anything is read.
        trusted_proxy: address of a proxy whose `X-Forwarded-For` names the client, or None.
        on_start: function that is called as soon as requests are accepted.

    Returns:
        A server to `run(sockets=[...])`, which closes the sockets at its end.
    """
    config = uvicorn.Config(
        app,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=trusted_proxy is not None,
        forwarded_allow_ips=trusted_proxy,
        limit_concurrency=max_connections,
        timeout_graceful_shutdown=math.ceil(grace_seconds) + _LAST_SECONDS,
    )
    return _Server(config, app, grace_seconds, on_start)


class _Server(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, app: Starlette, grace_seconds: float, on_start: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._engine = app.state.engine
        self._grace_seconds = grace_seconds
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._engine.finish()
        deadline = asyncio.get_running_loop().call_later(self._grace_seconds, self._engine.abort)
        await super().shutdown(sockets)
        deadline.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # uvicorn gives it
        if self.should_exit:
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        self.should_exit = True
