"""Log-probabilities of tokens as OpenAI's two routes write them. It knows no stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from dovetail_ort_runtime.generation import Piece, TokenLogprobs
from dovetail_ort_runtime.model import Model

_REPLACEMENT: Final = "\ufffd"


class LogprobsWriter:
    """Words the log-probabilities of pieces; the end-of-text token, which is no part of the text, has no entry.

    Args:
        model: whose tokens they are; it is not asked for any.
    """

    def __init__(self, model: Model) -> None:
        self._tokenizer = model.tokenizer
        self._end_token_ids = frozenset(model.manifest.generation.eos_token_ids)

    def chat(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """The `logprobs` of a chat completion's choice, one entry a token."""
        return {"content": [self._chat_entry(token) for token in self._measured(pieces)], "refusal": None}

    def completion(self, pieces: Sequence[Piece], offset: int) -> dict[str, Any]:
        """The `logprobs` of a completion's choice, lists with one entry a token.

        Args:
            pieces: those of the choice.
            offset: characters of the answer's tokens before these.
        """
        measured = self._measured(pieces)
        texts = [self._text(token.token_id) for token in measured]
        return {
            "tokens": texts,
            "token_logprobs": [token.logprob for token in measured],
            "top_logprobs": [{self._text(token_id): logprob for token_id, logprob in token.top} for token in measured],
            "text_offset": [offset + sum(map(len, texts[:index])) for index in range(len(texts))],
        }

    def _measured(self, pieces: Sequence[Piece]) -> list[TokenLogprobs]:
        return [piece.logprobs for piece in pieces if piece.logprobs and piece.token_id not in self._end_token_ids]

    def _text(self, token_id: int) -> str:
        """A token's text by itself, special tokens as they are spelt; U+FFFD where it is a part of a character."""
        return self._tokenizer.decode([token_id], skip_special_tokens=False)

    def _chat_entry(self, token: TokenLogprobs) -> dict[str, Any]:
        alternatives = [self._entry(token_id, logprob) for token_id, logprob in token.top]
        return {**self._entry(token.token_id, token.logprob), "top_logprobs": alternatives}

    def _entry(self, token_id: int, logprob: float) -> dict[str, Any]:
        text = self._text(token_id)
        # The text does not tell which bytes a part of a character has; OpenAI's null says so.
        return {"token": text, "logprob": logprob, "bytes": None if _REPLACEMENT in text else list(text.encode())}
