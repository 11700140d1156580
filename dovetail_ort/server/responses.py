"""An answer as OpenAI's objects, whole or in the chunks of a stream. It knows no connection."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from dovetail_ort.server.job import Outcome
from dovetail_ort.server.logprobs import LogprobsWriter
from dovetail_ort.server.requests import AnswerRequest
from dovetail_ort_runtime.generation import Piece


class AnswerWriter(ABC):
    """Words one answer as one of the routes does.

    Beside OpenAI's fields there is `dovetail`: whether a chunk's token was drafted, and at the end what the rounds did.

    Args:
        request: what was asked for.
        model_name: of the model.
        logprobs: words log-probabilities.
    """

    id_prefix: ClassVar[str]
    object_name: ClassVar[str]
    chunk_name: ClassVar[str]

    def __init__(self, request: AnswerRequest, model_name: str, logprobs: LogprobsWriter) -> None:
        self._head = {"id": f"{self.id_prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model_name}
        self._request, self._logprobs_writer = request, logprobs

    def opening(self) -> list[dict[str, Any]]:
        """Chunks before the first piece."""
        return []

    def chunks(self, piece: Piece) -> list[dict[str, Any]]:
        """What a stream sends for a piece; nothing where that decides no text."""
        if not piece.text and piece.logprobs is None:
            return []
        return [self._chunk(self._part(piece.text), [piece], dovetail={"drafted": piece.drafted})]

    def closing(self, outcome: Outcome) -> list[dict[str, Any]]:
        """Chunks after the last piece."""
        chunks = [self._chunk(self._part(""), [], outcome.finish_reason, dovetail=rounds(outcome))]
        if self._request.include_usage:
            chunks.append({**self._head, "object": self.chunk_name, "choices": [], "usage": usage(outcome)})
        return chunks

    def whole(self, pieces: Sequence[Piece], outcome: Outcome) -> dict[str, Any]:
        """The answer at once."""
        text = "".join(piece.text for piece in pieces)
        choice = self._choice(self._whole(text), pieces, outcome.finish_reason)
        return {
            **self._head,
            "object": self.object_name,
            "choices": [choice],
            "usage": usage(outcome),
            "dovetail": rounds(outcome),
        }

    def _chunk(
        self, content: dict[str, Any], pieces: Sequence[Piece], finish_reason: str | None = None, **extension: Any
    ) -> dict[str, Any]:
        choice = self._choice(content, pieces, finish_reason)
        # OpenAI's streams that end with the usage have a null in every other chunk.
        no_usage = {"usage": None} if self._request.include_usage else {}
        return {**self._head, "object": self.chunk_name, "choices": [choice], **no_usage, **extension}

    def _choice(self, content: dict[str, Any], pieces: Sequence[Piece], finish_reason: str | None) -> dict[str, Any]:
        logprobs = self._logprobs(pieces) if self._request.logprobs is not None and pieces else None
        return {"index": 0, **content, "logprobs": logprobs, "finish_reason": finish_reason}

    @abstractmethod
    def _part(self, text: str) -> dict[str, Any]:
        """How a chunk's choice carries a text."""

    @abstractmethod
    def _whole(self, text: str) -> dict[str, Any]:
        """How a whole answer's choice carries its text."""

    @abstractmethod
    def _logprobs(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """Log-probabilities of the pieces' tokens."""


class ChatWriter(AnswerWriter):
    """`/v1/chat/completions`."""

    id_prefix = "chatcmpl"
    object_name = "chat.completion"
    chunk_name = "chat.completion.chunk"

    def opening(self) -> list[dict[str, Any]]:
        """The chunk that says who speaks."""
        return [self._chunk({"delta": {"role": "assistant", "content": ""}}, [])]

    def _part(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text} if text else {}}

    def _whole(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _logprobs(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        return self._logprobs_writer.chat(pieces)


class CompletionWriter(AnswerWriter):
    """`/v1/completions`."""

    id_prefix = "cmpl"
    object_name = chunk_name = "text_completion"

    def __init__(self, request: AnswerRequest, model_name: str, logprobs: LogprobsWriter) -> None:
        super().__init__(request, model_name, logprobs)
        self._num_characters = 0

    def _part(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def _whole(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def _logprobs(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        found = self._logprobs_writer.completion(pieces, self._num_characters)
        self._num_characters += sum(map(len, found["tokens"]))
        return found


def usage(outcome: Outcome) -> dict[str, Any]:
    """OpenAI's numbers of tokens; accepted and rejected drafts are its predictions."""
    statistics = outcome.statistics
    cached = None if statistics is None else statistics.cached_tokens
    rejected = None if statistics is None else statistics.drafted_tokens - outcome.accepted_tokens
    return {
        "prompt_tokens": outcome.prompt_tokens,
        "completion_tokens": outcome.new_tokens,
        "total_tokens": outcome.prompt_tokens + outcome.new_tokens,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {
            "accepted_prediction_tokens": outcome.accepted_tokens,
            "rejected_prediction_tokens": rejected,
        },
    }


def rounds(outcome: Outcome) -> dict[str, Any]:
    """What the rounds of an answer did; empty where the time limit ended it."""
    statistics = outcome.statistics
    if statistics is None:
        return {}
    return {
        "rounds": statistics.rounds,
        "accepted_length": statistics.accepted_length,
        "decode_tokens_per_second": statistics.decode_tokens_per_second,
        "time_to_first_token_seconds": statistics.time_to_first_token_seconds,
    }
