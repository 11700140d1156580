"""The HTTP server: OpenAI-compatible routes, metrics and a chat page, as an ASGI application over one model.

body -> json_body -> requests (conversation) -> job -> engine (intake) -> the model
pieces of the answer -> job -> responses -> answering -> whole JSON or a stream
"""

from __future__ import annotations

from dovetail_ort.server.app import make_app
from dovetail_ort.server.settings import ServerSettings

__all__ = ["ServerSettings", "make_app"]
