"""The vocabulary of a GGUF file: its tokens, what kind each is, and the fields beside them. It builds no tokenizer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dovetail_ort_export.source.gguf_ends import END_NAMES
from dovetail_ort_runtime.errors import SourceError

BYTE_LEVEL, SENTENCEPIECE = "gpt2", "llama"  # values of tokenizer.ggml.model
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4  # values of tokenizer.ggml.token_type
TEMPLATE: Final = "tokenizer.chat_template"
# Fields with a token's id, by the name that a chat template may use.
SPECIAL_FIELDS: Final = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "sep_token": "seperator_token_id",  # as the format spells it
    "pad_token": "padding_token_id",
    "cls_token": "cls_token_id",
    "mask_token": "mask_token_id",
}

_PREFIX: Final = "tokenizer.ggml."
# What sentencepiece's tokenizers have where a file does not say.
_SENTENCEPIECE_DEFAULTS: Final = {"unknown_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_USED_IDS: Final = ("bos_token_id", "eos_token_id", "eot_token_id", "eom_token_id", "unknown_token_id")
_INFILLING: Final = ("fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep", "prefix", "suffix", "middle")
_ELEMENTS: Final[Mapping[str, tuple[type, ...]]] = {
    "tokens": (str,),
    "merges": (str,),
    "token_type": (int,),
    "scores": (int, float),
    "eos_token_ids": (int,),
}
_KNOWN: Final = frozenset(
    {
        *("model", "pre", "tokens", "token_type", "token_type_count", "scores", "merges"),
        *SPECIAL_FIELDS.values(),
        *("eot_token_id", "eom_token_id", "eos_token_ids"),
        *(f"{name}_token_id" for name in _INFILLING),
        *("add_bos_token", "add_eos_token", "add_sep_token", "add_space_prefix", "remove_extra_whitespaces"),
    }
)
# The second is a list of names of templates, the third another writing of the tokenizer.
_KNOWN_ELSEWHERE: Final = (TEMPLATE, "tokenizer.chat_templates", "tokenizer.huggingface.json")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Vocabulary:
    """Tokens by id.

    Attributes:
        fields: metadata behind `tokenizer.ggml.`, with the defaults of the kind.
        tokens: text of each.
        kinds: `token_type` of each.
    """

    fields: Mapping[str, Any]
    tokens: list[str]
    kinds: list[int]

    def of_kind(self, *kinds: int) -> list[str]:
        """Tokens of one of `kinds`."""
        return [token for token, kind in zip(self.tokens, self.kinds, strict=True) if kind in kinds]

    def ids(self) -> dict[str, int]:
        """Id by text."""
        return {token: token_id for token_id, token in enumerate(self.tokens)}

    def special_tokens(self) -> dict[str, str]:
        """Text by the name that a chat template may use; ids that are none stand for "no such token"."""
        named = {name: self.fields.get(field) for name, field in SPECIAL_FIELDS.items()}
        count = len(self.tokens)
        return {name: self.tokens[id_] for name, id_ in named.items() if id_ is not None and 0 <= id_ < count}


def is_vocabulary_key(key: str) -> bool:
    """Whether a metadata key is one of the vocabulary's, and known."""
    if key.startswith(_PREFIX):
        return key.removeprefix(_PREFIX) in _KNOWN
    return key in _KNOWN_ELSEWHERE or key.startswith(f"{TEMPLATE}.")


def read_vocabulary(metadata: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary in the metadata of a file.

    Raises:
        SourceError: the tokenizer is of a kind that is not covered, or damaged.
    """
    fields = {key.removeprefix(_PREFIX): value for key, value in metadata.items() if key.startswith(_PREFIX)}
    model = fields.get("model")
    if model not in (BYTE_LEVEL, SENTENCEPIECE):
        raise SourceError(
            f"tokenizer.ggml.model must be {BYTE_LEVEL} or {SENTENCEPIECE}, got {model!r}; export the model from its "
            "Hugging Face directory instead"
        )
    _check_types(fields)
    if not fields.get("tokens"):
        raise SourceError("a GGUF file must have the list tokenizer.ggml.tokens, got none; give the file of the model")
    tokens = [token or f"[EMPTY_{token_id}]" for token_id, token in enumerate(fields["tokens"])]
    if model == SENTENCEPIECE:
        fields = {**_SENTENCEPIECE_DEFAULTS, **fields}
    _check_lists(fields, tokens)
    _check_scores(fields.get("scores", []))
    _check_ids(fields, len(tokens))
    # A token that ends a turn is never text, whatever its type says.
    kinds = fields.get("token_type", [NORMAL] * len(tokens))
    kinds = [CONTROL if token in END_NAMES else kind for token, kind in zip(tokens, kinds, strict=True)]
    return Vocabulary(fields=fields, tokens=tokens, kinds=kinds)


def _check_types(fields: Mapping[str, Any]) -> None:
    for key, value in fields.items():
        elements = _ELEMENTS.get(key)
        if elements is not None:
            good = isinstance(value, list) and all(isinstance(entry, elements) for entry in value)
        else:
            good = isinstance(value, int) or not key.endswith("_token_id")
        if not good:
            rule = "a number" if elements is None else f"a list of {'text' if str in elements else 'numbers'}"
            raise SourceError(f"tokenizer.ggml.{key} must be {rule}, got {value!r:.60}; convert the model again")


def _check_lists(fields: Mapping[str, Any], tokens: list[str]) -> None:
    token, times = Counter(tokens).most_common(1)[0]
    if times > 1:
        raise SourceError(
            f"tokenizer.ggml.tokens must hold each token once, got {token!r} {times} times; convert the model again"
        )
    for key in ("token_type", "scores"):
        if len(fields.get(key, tokens)) != len(tokens):
            raise SourceError(
                f"tokenizer.ggml.{key} must have one entry for each of {len(tokens)} tokens, got {len(fields[key])}; "
                "convert the model again"
            )


def _check_scores(scores: list[float]) -> None:
    if not all(map(math.isfinite, scores)):
        raise SourceError(
            "tokenizer.ggml.scores must be finite, got NaN or infinity among them; convert the model again"
        )


def _check_ids(fields: Mapping[str, Any], count: int) -> None:
    ids = [(key, fields[key]) for key in _USED_IDS if key in fields]
    ids += [("eos_token_ids", token_id) for token_id in fields.get("eos_token_ids", [])]
    for key, token_id in ids:
        if not 0 <= token_id < count:
            raise SourceError(
                f"tokenizer.ggml.{key} must be below the number of tokens, {count}, got {token_id}; "
                "convert the model again"
            )
