"""Which tokens end an answer, by the fields of a GGUF file and by the names of its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_FIELDS: Final = ("eos_token_id", "eot_token_id", "eom_token_id")
# Names that llama.cpp always takes for the end of a turn or a text, as far as the covered families have them.
END_NAMES: Final = frozenset(
    {
        "<|im_end|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|end|>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<｜end▁of▁sentence｜>",  # noqa: RUF001  # DeepSeek's bars are wide
        "<end_of_turn>",
        "<end_of_utterance>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<eos>",
        "</s>",
    }
)


def end_ids(fields: Mapping[str, Any], tokens: list[str]) -> tuple[int, ...]:
    """Ids of the tokens that end an answer, each once: first those of the fields, then those by their names.

    Args:
        fields: metadata under `tokenizer.ggml.`, without that prefix.
        tokens: text of each token, in the order of ids.
    """
    stated = [fields[field] for field in _FIELDS if field in fields]
    listed = fields.get("eos_token_ids", [])
    named = [token_id for token_id, token in enumerate(tokens) if token in END_NAMES]
    return tuple(dict.fromkeys((*stated, *listed, *named)))
