"""Log-probabilities of tokens as OpenAI's two routes write them. It knows no stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from dovetail_ort_runtime.token_logprobs import TokenLogprobs
from dovetail_ort_runtime.tokenizer import Tokenizer

_REPLACEMENT: Final = "\ufffd"


def chat_logprobs(measured: Sequence[TokenLogprobs], tokenizer: Tokenizer) -> dict[str, Any]:
    """The `logprobs` of a chat completion's choice, one entry a token."""
    return {"content": [_chat_entry(token, tokenizer) for token in measured], "refusal": None}


def completion_logprobs(measured: Sequence[TokenLogprobs], tokenizer: Tokenizer, offset: int) -> dict[str, Any]:
    """The `logprobs` of a completion's choice, lists with one entry a token.

    Args:
        measured: of each token.
        tokenizer: gives the tokens' texts.
        offset: characters of the answer's tokens before these.
    """
    texts = [token_text(token.token_id, tokenizer) for token in measured]
    offsets = [offset + sum(map(len, texts[:index])) for index in range(len(texts))]
    return {
        "tokens": texts,
        "token_logprobs": [token.logprob for token in measured],
        "top_logprobs": [
            {token_text(token_id, tokenizer): logprob for token_id, logprob in token.top} for token in measured
        ],
        "text_offset": offsets,
    }


def token_text(token_id: int, tokenizer: Tokenizer) -> str:
    """A token's text by itself, special tokens as they are spelt; U+FFFD where it is a part of a character."""
    return tokenizer.decode([token_id], skip_special_tokens=False)


def _chat_entry(token: TokenLogprobs, tokenizer: Tokenizer) -> dict[str, Any]:
    alternatives = [_entry(token_id, logprob, tokenizer) for token_id, logprob in token.top]
    return {**_entry(token.token_id, token.logprob, tokenizer), "top_logprobs": alternatives}


def _entry(token_id: int, logprob: float, tokenizer: Tokenizer) -> dict[str, Any]:
    text = token_text(token_id, tokenizer)
    # The text does not tell which bytes a part of a character has; OpenAI's null says so.
    return {"token": text, "logprob": logprob, "bytes": None if _REPLACEMENT in text else list(text.encode())}
