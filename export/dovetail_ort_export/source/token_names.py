"""What the files beside a `tokenizer.json` say about its tokens: their names, and which of them are special."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer

from dovetail_ort_export.source.json_file import read_json
from dovetail_ort_runtime.errors import SourceError

_CONFIG: Final = "tokenizer_config.json"
_FLAGS: Final = ("single_word", "lstrip", "rstrip", "normalized")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TokenNames:
    """Names of tokens, in the spellings of transformers 4 and 5.

    Attributes:
        settings: content of `tokenizer_config.json`. Where transformers reads `special_tokens_map.json` too, that file
            has precedence.
        stated: whether either of these files is there.
        listed: tokens that the files list, by their ids, in the order of ids.
        notes: remarks that the user should read, a line each.
    """

    settings: dict[str, Any]
    stated: bool
    listed: dict[int, AddedToken]
    notes: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> TokenNames:
        """Read the names in a model directory.

        Raises:
            SourceError: a file is damaged.
        """
        settings = read_json(path / _CONFIG)
        legacy = {}
        listed = settings.get("added_tokens_decoder")
        if listed is None:  # files from before transformers 4.34
            legacy = read_json(path / "added_tokens.json")
            settings |= read_json(path / "special_tokens_map.json")
        special = set(_further_tokens(settings)) | set(_named(settings).values())
        tokens = [*_listed(listed or {}), *_listed_in_legacy_file(legacy, special)]
        return cls(
            settings=settings,
            stated=bool(settings),
            listed=dict(sorted(tokens, key=lambda item: item[0])),
            notes=_notes(settings),
        )

    def special_tokens(self, tokenizer: Tokenizer, config: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
        """Text of special tokens by the names that a chat template may use, and notes on names without a token.

        A name without a token has an empty text, because a template may still join it to other text.

        Args:
            tokenizer: tokenizer of the model.
            config: content of `config.json`.
        """
        if not self.stated:
            return _named_by_ids(tokenizer, config), []
        named = _named(self.settings)
        notes = []
        for name, text in named.items():
            if text and tokenizer.token_to_id(text) is None:
                notes.append(f"the {name} {text!r} of {_CONFIG} is no token of tokenizer.json, so it is left out")
                named[name] = ""
        return named, notes


def add_named_tokens(tokenizer: Tokenizer, names: TokenNames) -> None:
    """Add the tokens that the files list or name as special, so that they are found in any text, as transformers does.

    Raises:
        SourceError: a token that the files list is missing from the tokenizer, and would get another id.
    """
    known = tokenizer.get_added_tokens_decoder().values()
    missing = {number: token for number, token in names.listed.items() if tokenizer.token_to_id(token.content) is None}
    # Listed tokens that the tokenizer does not have with the same flags.
    spelled = {repr(token) for token in known}
    listed = [token for token in names.listed.values() if repr(token) not in spelled]
    # Words of the vocabulary that the files name as special.
    contents = {token.content for token in (*known, *names.listed.values())}
    texts = dict.fromkeys((*_named(names.settings).values(), *_further_tokens(names.settings)))
    words = [text for text in texts if text and text not in contents and tokenizer.token_to_id(text) is not None]
    tokenizer.add_tokens([*listed, *(AddedToken(text, special=True) for text in words)])
    for number, token in missing.items():
        found = tokenizer.token_to_id(token.content)
        if found != number:
            raise SourceError(
                f"the token {token.content!r} must have the id {number} that {_CONFIG} lists, got {found}, as "
                "tokenizer.json lacks tokens; save the tokenizer again, or download tokenizer.json again"
            )


def _named(settings: Mapping[str, Any]) -> dict[str, str]:
    """Text of tokens by names such as `bos_token`, with names that only this model has."""
    entries = {name: value for name, value in settings.items() if name.endswith("_token")}
    for key in ("extra_special_tokens", "model_specific_special_tokens"):
        values = settings.get(key)
        if isinstance(values, dict):
            entries |= values
    texts = {name: _text(value) for name, value in entries.items()}
    return {name: text for name, text in texts.items() if text is not None}


def _further_tokens(settings: Mapping[str, Any]) -> Iterator[str]:
    """Special tokens without a name."""
    for key in ("additional_special_tokens", "extra_special_tokens"):
        values = settings.get(key)
        if not isinstance(values, list):
            continue
        for value in values:
            text = _text(value)
            if text is not None:
                yield text


def _named_by_ids(tokenizer: Tokenizer, config: Mapping[str, Any]) -> dict[str, str]:
    """Begin and end token by the ids of `config.json`, for a directory without names."""
    found = {}
    for name in ("bos_token", "eos_token"):
        number = config.get(f"{name}_id")
        text = tokenizer.id_to_token(number) if isinstance(number, int) and number >= 0 else None
        if text is not None:
            found[name] = text
    return found


def _text(value: Any) -> str | None:
    """Text of a token that is written as a string or as an object; None if it is neither."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _listed(entries: Any) -> Iterator[tuple[int, AddedToken]]:
    if not isinstance(entries, dict):
        raise SourceError(
            f"added_tokens_decoder of {_CONFIG} must be an object, got {type(entries).__name__}; download it again"
        )
    for number, entry in entries.items():
        text = _text(entry)
        if text is None or not isinstance(entry, dict) or not number.isdecimal():
            raise SourceError(
                f"added_tokens_decoder of {_CONFIG} must give tokens by id, got {number!r}: {entry!r:.80}; "
                "download it again"
            )
        flags = {name: entry[name] for name in _FLAGS if isinstance(entry.get(name), bool)}
        yield int(number), AddedToken(text, special=entry.get("special") is True, **flags)


def _listed_in_legacy_file(entries: Mapping[str, Any], special: set[str]) -> Iterator[tuple[int, AddedToken]]:
    for text, number in entries.items():
        if isinstance(number, int):
            yield number, AddedToken(text, special=text in special, normalized=text not in special)


def _notes(settings: Mapping[str, Any]) -> tuple[str, ...]:
    if not settings:
        return (f"there is no {_CONFIG}: begin and end token are those of config.json, added as tokenizer.json says",)
    if "auto_map" in settings:
        return (f"{_CONFIG} names code of its own, which is never run; tokenizer.json alone is read",)
    return ()
