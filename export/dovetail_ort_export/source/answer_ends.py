"""Which tokens end an answer: those that the files name, and the one that the chat template writes after an answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tokenizers import Tokenizer

from dovetail_ort_runtime.errors import DovetailError, SourceError
from dovetail_ort_runtime.text.chat_template import ChatTemplate
from dovetail_ort_runtime.text.messages import Message

_QUESTION: Final = "What the user asks."
_ANSWER: Final = "What the assistant answers."


def answer_ends(
    tokenizer: Tokenizer,
    generation: Mapping[str, Any],
    config: Mapping[str, Any],
    special_tokens: Mapping[str, str],
    template: str | None,
) -> tuple[tuple[int, ...], list[str]]:
    """Ids of the tokens that end an answer, and notes on those that `generate` of transformers would not stop at.

    The ends are those of `generation_config.json`, or else those of `config.json`, as in transformers. The tokenizer's
    end token and the template's end of a turn are added: publishers forget them, and an answer would never end.

    Args:
        tokenizer: tokenizer of the model.
        generation: content of `generation_config.json`; empty if there is none.
        config: content of `config.json`.
        special_tokens: text of special tokens by name.
        template: Jinja source of the chat template, or None.

    Raises:
        SourceError: an `eos_token_id` is no token id.
    """
    notes: list[str] = []
    ends = _stated(generation, "generation_config.json") or _stated(config, "config.json")
    ends, beyond = _with_token(tokenizer, ends)
    notes += [f"the end token {number} is no token of the tokenizer, so it is left out" for number in beyond]
    further = {"eos_token of the tokenizer": special_tokens.get("eos_token")}
    if template is not None:
        further["end of a turn in the chat template"] = end_of_turn(tokenizer, template, special_tokens)
    for what, text in further.items():
        number = tokenizer.token_to_id(text) if text else None
        if number is None or number in ends:
            continue
        if ends:
            notes.append(f"{text!r}, the {what}, ends an answer too, though the generation settings do not say so")
        ends = (*ends, number)
    return ends, notes


def end_of_turn(tokenizer: Tokenizer, template: str, special_tokens: Mapping[str, str]) -> str | None:
    """The added token that a chat template writes after the assistant's words, or None if it writes none.

    Example: `<|im_end|>` for a template that renders an answer as `<|im_start|>assistant Words<|im_end|>`.

    Args:
        tokenizer: tokenizer of the model.
        template: Jinja source of the chat template.
        special_tokens: text of special tokens by name.
    """
    messages: list[Message] = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
    try:
        text = ChatTemplate(template, special_tokens).render(messages, add_generation_prompt=False)
    except DovetailError:
        return None
    before, found, after = text.rpartition(_ANSWER)
    after = after.strip()
    if not found or before.rstrip().endswith(after):  # nothing, or the opening of another answer
        return None
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    fitting = [token for token in added if token and after.startswith(token)]
    return max(fitting, key=len, default=None)


def _stated(settings: Mapping[str, Any], file: str) -> tuple[int, ...]:
    value = settings.get("eos_token_id")
    if value is None:
        return ()
    numbers = value if isinstance(value, list) else [value]
    if any(isinstance(number, bool) or not isinstance(number, int) for number in numbers):
        raise SourceError(f"eos_token_id of {file} must be a token id or a list of them, got {value!r}; correct it")
    return tuple(dict.fromkeys(numbers))


def _with_token(tokenizer: Tokenizer, ids: tuple[int, ...]) -> tuple[tuple[int, ...], list[int]]:
    """Ids that stand for a token, and those that do not, such as the -1 of configurations without an end."""
    known = tuple(number for number in ids if number >= 0 and tokenizer.id_to_token(number) is not None)
    return known, [number for number in ids if number not in known]
