"""Tokens that a tokenizer puts around a text, and whether `tokenizer_config.json` says the same.

`tokenizer.json` is followed, as by transformers 5 and by every program that reads this file alone. The Llama classes of
transformers 4 follow `add_bos_token` and `add_eos_token` of `tokenizer_config.json` instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tokenizers import Tokenizer

_WORD: Final = "a"
_PLACES: Final = {"bos": "before", "eos": "after"}


def ends_told_apart(tokenizer: Tokenizer, settings: Mapping[str, Any], special_tokens: Mapping[str, str]) -> list[str]:
    """A note for each end of a text about which the two files say different things.

    Args:
        tokenizer: tokenizer in `tokenizer.json`.
        settings: content of `tokenizer_config.json`.
        special_tokens: text of special tokens by name, `bos_token` and `eos_token` among them.
    """
    before, after = text_ends(tokenizer)
    notes = []
    for end, ids in (("bos", before), ("eos", after)):
        token = special_tokens.get(f"{end}_token")
        asked = _asked(settings, end)
        if not token or asked is None:
            continue
        if asked != (tokenizer.token_to_id(token) in ids):
            does = "does not put" if asked else "puts"
            notes.append(
                f"tokenizer.json {does} {token!r} {_PLACES[end]} a text, and is followed, as by transformers 5; "
                f"tokenizer_config.json says otherwise (add_{end}_token), and transformers 4 may follow that"
            )
    return notes


def _asked(settings: Mapping[str, Any], end: str) -> bool | None:
    """Whether `tokenizer_config.json` asks for the token of one end; None if it does not say."""
    asked = settings.get(f"add_{end}_token")
    if isinstance(asked, bool):
        return asked
    if end == "bos" and str(settings.get("tokenizer_class")).startswith("Llama"):
        return True  # the default of these classes in transformers 4
    return None


def text_ends(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids that a tokenizer puts before and after a text, found by encoding one word with them and without."""
    plain = tokenizer.encode(_WORD, add_special_tokens=False).ids
    full = tokenizer.encode(_WORD, add_special_tokens=True).ids
    num_added = len(full) - len(plain)
    start = num_added
    for candidate in range(num_added):
        if full[candidate : candidate + len(plain)] == plain:
            start = candidate
            break
    return tuple(full[:start]), tuple(full[start + len(plain) :])
