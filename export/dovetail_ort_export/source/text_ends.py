"""What is put before and after a text: by `tokenizer.json`, unless `tokenizer_config.json` says otherwise."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tokenizers import Tokenizer, processors

_WORD: Final = "a"


@dataclass(frozen=True, slots=True)
class _Ends:
    """Token ids before and after a text."""

    before: tuple[int, ...]
    after: tuple[int, ...]


def set_text_ends(tokenizer: Tokenizer, settings: Mapping[str, Any], special_tokens: Mapping[str, str]) -> list[str]:
    """Put begin and end token where `add_bos_token` and `add_eos_token` ask for them, as transformers 5 does.

    Each key that is there rules over what `tokenizer.json` does at its end of the text. Transformers 4 heeds the keys
    in the classes that are named for Llama only; llama.cpp's converter always does.

    Args:
        tokenizer: changed where the keys disagree with it.
        settings: `tokenizer_config.json`.
        special_tokens: text of `bos_token` and `eos_token`.

    Returns:
        A note if the tokenizer was changed.
    """
    own = _ends(tokenizer)
    before = _asked(tokenizer, settings, special_tokens, "bos")
    after = _asked(tokenizer, settings, special_tokens, "eos")
    wanted = _Ends(own.before if before is None else before, own.after if after is None else after)
    if wanted == own:
        return []
    ids = (*wanted.before, *wanted.after)
    tokens = {number: tokenizer.id_to_token(number) for number in ids}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*map(str, wanted.before), "$A", *map(str, wanted.after)],
        special_tokens=[{"id": str(number), "ids": [number], "tokens": [token]} for number, token in tokens.items()],
    )
    shown = [_shown(tokenizer, part) for part in (wanted.before, wanted.after)]
    return [
        f"tokenizer_config.json is followed where tokenizer.json disagrees: {shown[0]} goes before a text, "
        f"{shown[1]} after it"
    ]


def _shown(tokenizer: Tokenizer, ids: tuple[int, ...]) -> str:
    return repr("".join(str(tokenizer.id_to_token(number)) for number in ids)) if ids else "nothing"


def _asked(
    tokenizer: Tokenizer, settings: Mapping[str, Any], special_tokens: Mapping[str, str], end: str
) -> tuple[int, ...] | None:
    """Ids that the key of one end asks for; None if there is no key."""
    key = f"add_{end}_token"
    if key not in settings:
        return None
    number = tokenizer.token_to_id(special_tokens.get(f"{end}_token", ""))
    return (number,) if settings[key] and number is not None else ()


def _ends(tokenizer: Tokenizer) -> _Ends:
    """What the tokenizer adds to a text, found by adding it."""
    plain = tokenizer.encode(_WORD, add_special_tokens=False).ids
    full = tokenizer.encode(_WORD, add_special_tokens=True).ids
    num_added = len(full) - len(plain)
    start = next(start for start in range(num_added + 1) if full[start : start + len(plain)] == plain)
    return _Ends(tuple(full[:start]), tuple(full[start + len(plain) :]))
