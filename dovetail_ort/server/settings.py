"""Limits and defaults of the server. It knows no request's content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dovetail_ort.server.errors import RequestError
from dovetail_ort_runtime.checks import must_be, must_be_at_least
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.options import GenerationOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSettings:
    """Limits and defaults of all requests.

    Attributes:
        model_name: name of the model in requests, one character or more.
        answer: options of an answer where the request sets none.
        api_key: key that every request must bring, except for the page and `/health`; None for no key.
        allowed_hosts: names that the Host header may have beside IP addresses, in lower case, without port; None
            allows all names.
        max_queue: largest number of requests that wait, 1 or more; further ones are refused.
        max_new_tokens: largest number of tokens of an answer, 1 or more, whatever `answer` says; None for as many as
            the model's context holds.
        max_prompt_tokens: largest number of tokens of a prompt, 1 or more; None for as many as the model's context
            holds.
        max_request_bytes: largest size of a request's body in bytes, 1 or more.
        time_limit_seconds: seconds after which an answer ends, above 0, counted from its turn on.
        strict: whether a request with a field that the server does not know is refused.
    """

    model_name: str
    answer: GenerationOptions = field(default_factory=GenerationOptions)
    api_key: str | None = field(default=None, repr=False)
    allowed_hosts: tuple[str, ...] | None = ("localhost",)
    max_queue: int = 32
    max_new_tokens: int | None = None
    max_prompt_tokens: int | None = None
    max_request_bytes: int = 1 << 20
    time_limit_seconds: float = 300.0
    strict: bool = False

    def __post_init__(self) -> None:
        must_be("model_name", "one character or more", self.model_name, holds=self.model_name != "")
        must_be_at_least("max_queue", self.max_queue, 1)
        must_be_at_least("max_new_tokens", self.max_new_tokens, 1)
        must_be_at_least("max_prompt_tokens", self.max_prompt_tokens, 1)
        must_be_at_least("max_request_bytes", self.max_request_bytes, 1)
        must_be("time_limit_seconds", "above 0", self.time_limit_seconds, holds=self.time_limit_seconds > 0)
        if self.api_key is not None and (not self.api_key or not self.api_key.isascii()):
            raise InputError("api_key must be one ASCII character or more; leave it out to ask for none")

    @property
    def usual_new_tokens(self) -> int:
        """Largest number of tokens of an answer if the request does not say."""
        usual = self.answer.max_new_tokens
        return usual if self.max_new_tokens is None else min(usual, self.max_new_tokens)

    def check_fields(self, ignored: Sequence[str]) -> None:
        """Raise a RequestError if fields are ignored and the server is strict."""
        if self.strict and ignored:
            message = f"this server knows no field {ignored[0]!a:.80}; leave it out"
            raise RequestError(message, param=ignored[0][:100])

    def check_model(self, name: str | None) -> None:
        """Raise a RequestError for the name of another model; None names no model."""
        if name not in (None, self.model_name):
            raise RequestError(
                f"model must be {self.model_name}, got {name!a:.60}", status=404, code="model_not_found", param="model"
            )
