"""The vocabulary of a GGUF file: its tokens, the kind of each, and the fields beside them. It builds no tokenizer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dovetail_ort_export.source.gguf_ends import END_NAMES
from dovetail_ort_export.source.gguf_file import USE_DIRECTORY
from dovetail_ort_runtime.errors import SourceError

# Values of tokenizer.ggml.model.
BYTE_LEVEL: Final = "gpt2"
SENTENCEPIECE: Final = "llama"
# Values of tokenizer.ggml.token_type.
NORMAL: Final = 1
UNKNOWN: Final = 2
CONTROL: Final = 3
USER_DEFINED: Final = 4
TEMPLATE: Final = "tokenizer.chat_template"
# Fields that hold a token's id, by the name that a chat template may use.
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
# Defaults of sentencepiece's tokenizers.
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
        "model",
        "pre",
        "tokens",
        "token_type",
        "token_type_count",
        "scores",
        "merges",
        *SPECIAL_FIELDS.values(),
        "eot_token_id",
        "eom_token_id",
        "eos_token_ids",
        *(f"{name}_token_id" for name in _INFILLING),
        "add_bos_token",
        "add_eos_token",
        "add_sep_token",
        "add_space_prefix",
        "remove_extra_whitespaces",
    }
)
_KNOWN_ELSEWHERE: Final = (
    TEMPLATE,
    "tokenizer.chat_templates",  # names of templates
    "tokenizer.huggingface.json",  # the tokenizer in another form
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Vocabulary:
    """The tokens of a file, by id, and its other fields.

    Attributes:
        fields: metadata under `tokenizer.ggml.`, without that prefix, and with the defaults of the tokenizer's kind.
        tokens: text of each token.
        kinds: `token_type` of each token.
    """

    fields: Mapping[str, Any]
    tokens: list[str]
    kinds: list[int]

    def of_kind(self, *kinds: int) -> list[str]:
        """Text of all tokens of some kinds."""
        return [token for token, kind in zip(self.tokens, self.kinds, strict=True) if kind in kinds]

    def ids(self) -> dict[str, int]:
        """Ids by the text of tokens."""
        return {token: token_id for token_id, token in enumerate(self.tokens)}

    def special_tokens(self) -> dict[str, str]:
        """Text of special tokens by the name that a chat template may use.

        In a file, an id outside of the vocabulary means that there is no such token.
        """
        found = {}
        for name, field in SPECIAL_FIELDS.items():
            token_id = self.fields.get(field)
            if token_id is not None and 0 <= token_id < len(self.tokens):
                found[name] = self.tokens[token_id]
        return found


def is_vocabulary_key(key: str) -> bool:
    """Whether a key of the metadata is known and belongs to the vocabulary."""
    if key.startswith(_PREFIX):
        return key.removeprefix(_PREFIX) in _KNOWN
    return key in _KNOWN_ELSEWHERE or key.startswith(f"{TEMPLATE}.")


def read_vocabulary(metadata: Mapping[str, Any]) -> Vocabulary:
    """Read the vocabulary in the metadata of a file.

    Args:
        metadata: metadata of the file by full key.

    Raises:
        SourceError: the tokenizer is of a kind that is not covered, or damaged.
    """
    fields = {key.removeprefix(_PREFIX): value for key, value in metadata.items() if key.startswith(_PREFIX)}
    model = fields.get("model")
    if model not in (BYTE_LEVEL, SENTENCEPIECE):
        raise SourceError(
            f"tokenizer.ggml.model must be {BYTE_LEVEL} or {SENTENCEPIECE}, got {model!r}; {USE_DIRECTORY}"
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
    stated = fields.get("token_type", [NORMAL] * len(tokens))
    # A token that ends a turn is never text, whatever its type says.
    kinds = [CONTROL if token in END_NAMES else kind for token, kind in zip(tokens, stated, strict=True)]
    return Vocabulary(fields=fields, tokens=tokens, kinds=kinds)


def _check_types(fields: Mapping[str, Any]) -> None:
    """Refuse fields that have the wrong type."""
    for key, value in fields.items():
        elements = _ELEMENTS.get(key)
        if elements is not None:
            rule = "a list of text" if str in elements else "a list of numbers"
            holds = isinstance(value, list) and all(isinstance(entry, elements) for entry in value)
        else:
            rule = "a number"
            holds = isinstance(value, int) or not key.endswith("_token_id")
        if not holds:
            raise SourceError(f"tokenizer.ggml.{key} must be {rule}, got {value!r:.60}; convert the model again")


def _check_lists(fields: Mapping[str, Any], tokens: list[str]) -> None:
    """Refuse tokens that occur twice, and lists that do not have one entry for each token."""
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
    """Refuse ids that belong to no token."""
    ids = [(key, fields[key]) for key in _USED_IDS if key in fields]
    ids += [("eos_token_ids", token_id) for token_id in fields.get("eos_token_ids", [])]
    for key, token_id in ids:
        if not 0 <= token_id < count:
            raise SourceError(
                f"tokenizer.ggml.{key} must be below the number of tokens, {count}, got {token_id}; "
                "convert the model again"
            )
