"""An answer as OpenAI's JSON objects, whole or in the chunks of a stream. It knows no connection."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from dovetail_ort.server.job import Job
from dovetail_ort_runtime.model import Model
from dovetail_ort_runtime.results import Piece, TokenLogprobs
from dovetail_ort_runtime.text.text_stream import TokenOffsets


class AnswerWriter(ABC):
    """Writes one answer in the form of its route.

    Beside OpenAI's fields there is `dovetail`: whether a chunk's token was drafted, and at the end what the rounds did.

    Args:
        job: the answer and its request.
        model: model that answers.
        model_name: name of the model in responses.

    Attributes:
        id_prefix: beginning of the answer's id.
        object_name: name of a whole answer's type.
        chunk_name: name of a chunk's type.
    """

    id_prefix: ClassVar[str]
    object_name: ClassVar[str]
    chunk_name: ClassVar[str]

    def __init__(self, job: Job, model: Model, model_name: str) -> None:
        self._head = {"id": f"{self.id_prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model_name}
        self._job = job
        self._tokenizer = model.tokenizer
        self._end_token_ids = model.manifest.generation.eos_token_ids

    def opening(self) -> list[dict[str, Any]]:
        """Chunks before those of the first piece."""
        return []

    def chunks(self, piece: Piece) -> list[dict[str, Any]]:
        """Chunks for a piece; none for a piece without text and log-probabilities."""
        if not piece.text and piece.logprobs is None:
            return []
        return [self._chunk(self._part(piece.text), [piece], dovetail={"drafted": piece.drafted})]

    def closing(self) -> list[dict[str, Any]]:
        """Chunks after those of the last piece."""
        chunks = [self._chunk(self._part(""), [], self._job.finish_reason, dovetail=_rounds(self._job))]
        if self._job.request.include_usage:
            chunks.append({**self._head, "object": self.chunk_name, "choices": [], "usage": _usage(self._job)})
        return chunks

    def whole(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """The whole answer as one object."""
        text = "".join(piece.text for piece in pieces)
        choice = self._choice(self._whole(text), pieces, self._job.finish_reason)
        return {
            **self._head,
            "object": self.object_name,
            "choices": [choice],
            "usage": _usage(self._job),
            "dovetail": _rounds(self._job),
        }

    def _chunk(
        self, content: dict[str, Any], pieces: Sequence[Piece], finish_reason: str | None = None, **extension: Any
    ) -> dict[str, Any]:
        choice = self._choice(content, pieces, finish_reason)
        # In a stream that ends with the usage, every other chunk has a null there, as OpenAI's have.
        no_usage = {"usage": None} if self._job.request.include_usage else {}
        return {**self._head, "object": self.chunk_name, "choices": [choice], **no_usage, **extension}

    def _choice(self, content: dict[str, Any], pieces: Sequence[Piece], finish_reason: str | None) -> dict[str, Any]:
        measured = [piece.logprobs for piece in pieces if piece.logprobs is not None]
        # An end-of-text token is no part of the text.
        tokens = [token for token in measured if token.token_id not in self._end_token_ids]
        logprobs = self._logprobs(tokens) if measured else None
        return {"index": 0, **content, "logprobs": logprobs, "finish_reason": finish_reason}

    def _spelling(self, token_id: int) -> str:
        r"""A token as OpenAI spells it: its text with spaces; `bytes:\xe2\x82` if it ends within a character."""
        written = self._tokenizer.token_bytes(token_id)
        try:
            return written.decode()
        except UnicodeDecodeError:
            return "bytes:" + written.decode(errors="backslashreplace")

    @abstractmethod
    def _part(self, text: str) -> dict[str, Any]:
        """Part of a chunk's choice that carries a text."""

    @abstractmethod
    def _whole(self, text: str) -> dict[str, Any]:
        """Part of a whole answer's choice that carries its text."""

    @abstractmethod
    def _logprobs(self, tokens: Sequence[TokenLogprobs]) -> dict[str, Any]:
        """A choice's `logprobs`, with one entry for each token."""


class ChatWriter(AnswerWriter):
    """Writes answers of `/v1/chat/completions`."""

    id_prefix = "chatcmpl"
    object_name = "chat.completion"
    chunk_name = "chat.completion.chunk"

    def opening(self) -> list[dict[str, Any]]:
        """The chunk that names the speaker."""
        return [self._chunk({"delta": {"role": "assistant", "content": ""}}, [])]

    def _part(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text} if text else {}}

    def _whole(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _logprobs(self, tokens: Sequence[TokenLogprobs]) -> dict[str, Any]:
        return {"content": [self._entry_with_top(token) for token in tokens], "refusal": None}

    def _entry_with_top(self, token: TokenLogprobs) -> dict[str, Any]:
        top = [self._entry(token_id, logprob) for token_id, logprob in token.top]
        return {**self._entry(token.token_id, token.logprob), "top_logprobs": top}

    def _entry(self, token_id: int, logprob: float) -> dict[str, Any]:
        written = self._tokenizer.token_bytes(token_id)
        return {"token": self._spelling(token_id), "logprob": logprob, "bytes": list(written)}


class CompletionWriter(AnswerWriter):
    """Writes answers of `/v1/completions`."""

    id_prefix = "cmpl"
    object_name = "text_completion"
    chunk_name = "text_completion"

    def __init__(self, job: Job, model: Model, model_name: str) -> None:
        super().__init__(job, model, model_name)
        self._offsets = TokenOffsets(model.tokenizer)

    def _part(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def _whole(self, text: str) -> dict[str, Any]:
        return self._part(text)

    def _logprobs(self, tokens: Sequence[TokenLogprobs]) -> dict[str, Any]:
        return {
            "tokens": [self._spelling(token.token_id) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [self._alternatives(token) for token in tokens],
            "text_offset": [self._offsets.push(token.token_id) for token in tokens],
        }

    def _alternatives(self, token: TokenLogprobs) -> dict[str, float]:
        """Log-probabilities of the likeliest tokens by spelling.

        Of several tokens with one spelling only one is named by it: the answer's own, or else the likeliest. The others
        are named by their ids.
        """
        owners = {self._spelling(token.token_id): token.token_id}
        found = {}
        for token_id, logprob in token.top:
            spelling = self._spelling(token_id)
            is_owner = owners.setdefault(spelling, token_id) == token_id
            found[spelling if is_owner else f"token_id:{token_id}"] = logprob
        return found


def _usage(job: Job) -> dict[str, Any]:
    """Numbers of tokens, as OpenAI names them; draft tokens are its predictions."""
    statistics = job.statistics
    cached = None if statistics is None else statistics.cached_tokens
    rejected = None if statistics is None else statistics.drafted_tokens - job.num_accepted
    return {
        "prompt_tokens": job.prompt_tokens,
        "completion_tokens": job.num_tokens,
        "total_tokens": job.prompt_tokens + job.num_tokens,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {
            "accepted_prediction_tokens": job.num_accepted,
            "rejected_prediction_tokens": rejected,
        },
    }


def _rounds(job: Job) -> dict[str, Any]:
    """What the rounds of an answer did; empty for an answer that the time limit ended."""
    statistics = job.statistics
    if statistics is None:
        return {}
    return {
        "rounds": statistics.rounds,
        "accepted_length": statistics.accepted_length,
        "decode_tokens_per_second": statistics.decode_tokens_per_second,
        "time_to_first_token_seconds": statistics.time_to_first_token_seconds,
    }
