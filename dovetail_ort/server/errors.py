"""A request that is not answered, and how OpenAI's clients are told. It knows no model."""

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
        status: of the HTTP response.
        code: OpenAI's short name of the reason, or None.
        param: the field of the request that is at fault, or None.
    """

    def __init__(self, message: str, *, status: int = 400, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param


def refusal(error: Exception) -> RequestError:
    """What a client may know of any error: what is wrong with its request, else that the server's log says more."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, (InputError, ChatTemplateError)):
        return RequestError(str(error))
    _LOG.error("a request failed", exc_info=error)
    return RequestError("the server failed on this request; its log says why", status=_SERVER_ERROR)


def error_body(error: RequestError) -> dict[str, Any]:
    """OpenAI's error object."""
    kind = "server_error" if error.status >= _SERVER_ERROR else "invalid_request_error"
    kind = "rate_limit_error" if error.code == "rate_limit_exceeded" else kind
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}


def error_response(error: RequestError) -> Response:
    """The error as the answer to its request."""
    headers = {"retry-after": "1"} if error.status in (429, 503) else {}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error_body(error), status_code=error.status, headers=headers)
