"""Which tokens end an answer, by the fields of a GGUF file and by their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_FIELDS: Final = ("eos_token_id", "eot_token_id", "eom_token_id")
# Names that llama.cpp takes for the end of a turn or a text wherever they occur, of the families that are covered.
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
    """Ends by field and by name, those by field first; each once.

    Args:
        fields: metadata behind `tokenizer.ggml.`.
        tokens: by id.
    """
    stated = [fields[field] for field in _FIELDS if field in fields]
    listed = fields.get("eos_token_ids", [])
    named = [token_id for token_id, token in enumerate(tokens) if token in END_NAMES]
    return tuple(dict.fromkeys((*stated, *listed, *named)))
