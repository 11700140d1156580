"""Which tokens end an answer, by the three ways in which a GGUF file tells: fields, names, and the chat template."""

from collections.abc import Mapping
from typing import Any, Final

from tokenizers import Tokenizer

from dovetail_ort_runtime.chat_template import ChatTemplate
from dovetail_ort_runtime.errors import DovetailError
from dovetail_ort_runtime.prompt import Message

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
_PLACEHOLDER: Final = "what the assistant says"


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


def turn_end(template: str | None, special_tokens: Mapping[str, str], tokenizer: Tokenizer) -> int | None:
    """The token that the chat template writes behind an assistant's words; None if it is no token of its own.

    Args:
        template: Jinja source, or None.
        special_tokens: names that the template may use, and their text.
        tokenizer: with its added tokens.
    """
    if template is None:
        return None
    conversation: list[Message] = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _PLACEHOLDER}]
    try:
        text = ChatTemplate(template, special_tokens).render(conversation, add_generation_prompt=False)
    except DovetailError:  # the check of templates warns of one that cannot be read
        return None
    _, found, behind = text.rpartition(_PLACEHOLDER)
    ids = tokenizer.encode(behind.lstrip(), add_special_tokens=False).ids if found else []
    return ids[0] if ids and ids[0] in tokenizer.get_added_tokens_decoder() else None
