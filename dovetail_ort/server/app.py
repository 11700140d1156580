"""The application: its routes, guards and error handlers. It knows no uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from importlib import resources
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dovetail_ort.server.answering import Answering
from dovetail_ort.server.engine import Engine
from dovetail_ort.server.errors import RequestError, error_response, refusal
from dovetail_ort.server.guards import HostGuard, KeyGuard, RequestCounter
from dovetail_ort.server.metrics import ServerMetrics
from dovetail_ort.server.requests import read_chat_request, read_completion_request
from dovetail_ort.server.responses import ChatWriter, CompletionWriter
from dovetail_ort.server.settings import ServerSettings
from dovetail_ort_runtime.errors import DovetailError
from dovetail_ort_runtime.model import Model

# Files of the folder `page` and their media types, by the paths that they are served at.
PAGE_PATHS: Final = {
    "/": ("index.html", "text/html"),
    "/chat.js": ("chat.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
# Nothing from other origins, nothing inline, no frames.
_PAGE_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}


def make_app(model: Model, settings: ServerSettings) -> Starlette:
    """An OpenAI-compatible application that answers with a model during its lifespan.

    Call `app.state.engine.finish()` before the lifespan ends, and all requests that were accepted are still answered.

    Args:
        model: model that answers. Other callers of the model take turns with the application, which does not close it.
        settings: limits and defaults of the server.

    Raises:
        UnavailableError: llguidance is missing.
    """
    metrics = ServerMetrics()
    engine = Engine(model, settings, metrics)
    routes = [*_model_routes(engine, settings, model), *_watch_routes(engine, metrics), *_page_routes()]

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        engine.start()
        yield
        await asyncio.to_thread(engine.stop)

    app = Starlette(
        routes=routes,
        middleware=_middleware(settings, metrics, [route.path for route in routes]),
        exception_handlers={
            DovetailError: _refuse,
            HTTPException: _refuse_route,
            ClientDisconnect: _let_go,
            Exception: _refuse,
        },
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.engine = engine
    return app


def _model_routes(engine: Engine, settings: ServerSettings, model: Model) -> list[Route]:
    answering = Answering(engine, settings, model)
    entry = {"id": settings.model_name, "object": "model", "created": int(time.time()), "owned_by": "dovetail-ort"}

    async def chat(request: Request) -> Response:
        return await answering.answer(request, read_chat_request, ChatWriter)

    async def complete(request: Request) -> Response:
        return await answering.answer(request, read_completion_request, CompletionWriter)

    async def list_models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [entry]})

    async def show_model(request: Request) -> Response:
        settings.check_model(request.path_params["model"])
        return JSONResponse(entry)

    return [
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/completions", complete, methods=["POST"]),
        Route("/v1/models", list_models),
        Route("/v1/models/{model:path}", show_model),
    ]


def _watch_routes(engine: Engine, metrics: ServerMetrics) -> list[Route]:
    async def tell_health(_: Request) -> Response:
        return JSONResponse({"status": "ok" if engine.serves else "ending"}, status_code=200 if engine.serves else 503)

    async def tell_metrics(_: Request) -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return [Route("/health", tell_health), Route("/metrics", tell_metrics)]


def _page_routes() -> list[Route]:
    """A route for each file of the page. Files are read once, so no path of a request reaches the file system."""
    folder = resources.files(__package__) / "page"
    return [_page_route(path, (folder / name).read_bytes(), kind) for path, (name, kind) in PAGE_PATHS.items()]


def _page_route(path: str, content: bytes, media_type: str) -> Route:
    async def show(_: Request) -> Response:
        return Response(content, media_type=media_type, headers=_PAGE_HEADERS)

    return Route(path, show)


def _middleware(settings: ServerSettings, metrics: ServerMetrics, paths: list[str]) -> list[Middleware]:
    guards = [Middleware(RequestCounter, metrics=metrics, paths=paths)]
    if settings.allowed_hosts is not None:
        guards.append(Middleware(HostGuard, allowed_hosts=settings.allowed_hosts))
    if settings.api_key is not None:
        guards.append(Middleware(KeyGuard, api_key=settings.api_key, open_paths=("/health", *PAGE_PATHS)))
    return guards


async def _refuse(_: Request, error: Exception) -> Response:
    return error_response(refusal(error))


async def _refuse_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = f"{request.url.path!a:.100}"
    if error.status_code == 405:
        message = f"the path {path} does not take the method {request.method}; see the header Allow"
    else:
        message = f"this server has no path {path}"
    response = error_response(RequestError(message, status=error.status_code))
    response.headers.update(error.headers or {})
    return response


async def _let_go(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)  # as nginx writes it; nobody is there to read it
