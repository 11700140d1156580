"""Errors of requests, and their responses in OpenAI's form. It knows no model."""

from __future__ import annotations

import logging
from typing import Any, Final

from starlette.responses import JSONResponse, Response

from dovetail_ort_runtime.errors import ChatTemplateError, DovetailError, InputError

_LOG: Final = logging.getLogger(__name__)
_SERVER_ERROR: Final = 500


class RequestError(DovetailError, ValueError):
    """A request is refused.

    Attributes:
        status: HTTP status of the response.
        code: OpenAI's short name of the reason, or None.
        param: field of the request that is wrong, or None.
    """

    def __init__(self, message: str, *, status: int = 400, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param


def refusal(error: Exception) -> RequestError:
    """The part of any error that a client may see: what is wrong with its request, or only that the server failed.

    What the client does not see is logged.
    """
    if isinstance(error, RequestError):
        return error
    if isinstance(error, (InputError, ChatTemplateError)):
        return RequestError(str(error))
    _LOG.error("a request failed", exc_info=error)
    return RequestError("the server failed on this request; its log says why", status=_SERVER_ERROR)


def error_body(error: RequestError) -> dict[str, Any]:
    """OpenAI's error object."""
    if error.code == "rate_limit_exceeded":
        kind = "rate_limit_error"
    elif error.status >= _SERVER_ERROR:
        kind = "server_error"
    else:
        kind = "invalid_request_error"
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}


def error_response(error: RequestError) -> Response:
    """The response to a request that is refused."""
    headers = {"retry-after": "1"} if error.status in (429, 503) else {}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error_body(error), status_code=error.status, headers=headers)
