"""The vocabulary of a GGUF file as a tokenizer of the `tokenizers` package, and all else that a model's text needs.

Two kinds are built: byte-level BPE (`gpt2`), whose merges the file lists, and sentencepiece's BPE (`llama`), whose
merges follow from the scores of its pieces. A text is encoded as llama.cpp encodes it with special tokens recognised.
If the original `tokenizer.json` composes characters first, this tokenizer does so, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from dovetail_ort_export.source.answer_ends import end_of_turn
from dovetail_ort_export.source.checkpoint import TextParts
from dovetail_ort_export.source.gguf_ends import end_ids
from dovetail_ort_export.source.gguf_file import USE_DIRECTORY
from dovetail_ort_export.source.gguf_splitting import UNNAMED, splitting
from dovetail_ort_export.source.gguf_vocabulary import (
    BYTE_LEVEL,
    CONTROL,
    NORMAL,
    TEMPLATE,
    UNKNOWN,
    USER_DEFINED,
    Vocabulary,
    read_vocabulary,
)
from dovetail_ort_export.source.template_files import usable_template
from dovetail_ort_runtime.errors import SourceError

_SPACE: Final = "▁"
_DEFAULT: Final = "default"  # name of the template that is used


def read_gguf_text(metadata: Mapping[str, Any]) -> TextParts:
    """Build the tokenizer, and find the chat template, the special tokens and the ends of an answer.

    Args:
        metadata: metadata of the file by full key.

    Raises:
        SourceError: the kind of the tokenizer or its splitting rule is not covered, or the vocabulary is damaged.
    """
    vocabulary = read_vocabulary(metadata)
    notes: list[str] = []
    if vocabulary.fields["model"] == BYTE_LEVEL:
        tokenizer = _byte_level(vocabulary, notes)
    else:
        tokenizer = _sentencepiece(vocabulary)
    _add_tokens(tokenizer, vocabulary)
    special = vocabulary.special_tokens()
    template = _chat_template(metadata, special, notes)
    written = None if template is None else end_of_turn(tokenizer, template, special)
    return TextParts(
        tokenizer=tokenizer,
        chat_template=template,
        special_tokens=special,
        eos_token_ids=_ends(vocabulary, written),
        notes=tuple(notes),
    )


def _ends(vocabulary: Vocabulary, written: str | None) -> tuple[int, ...]:
    """Ends of an answer: those by field, those by name, and the token that the chat template writes."""
    ends = end_ids(vocabulary.fields, vocabulary.tokens)
    if written is not None:
        ends = tuple(dict.fromkeys((*ends, vocabulary.tokens.index(written))))
    if not ends:
        raise SourceError(
            "a GGUF file must name a token that ends an answer, got none; write it with: gguf_new_metadata.py "
            "--special-token eos TOKEN"
        )
    return ends


def _byte_level(vocabulary: Vocabulary, notes: list[str]) -> Tokenizer:
    fields = vocabulary.fields
    if fields.get("add_space_prefix"):
        raise SourceError(
            "tokenizer.ggml.add_space_prefix must be false where tokenizer.ggml.model is gpt2, got true, which "
            f"programs read in two ways; {USE_DIRECTORY}"
        )
    if "merges" not in fields:
        raise SourceError("a GGUF file must have the list tokenizer.ggml.merges, got none; convert the model again")
    if "pre" not in fields:
        notes.append(
            "the GGUF file does not say how its tokenizer splits text (tokenizer.ggml.pre): numbers and punctuation "
            "may become other tokens than in training. A file that is converted today says it"
        )
    rule = splitting(fields.get("pre", UNNAMED))
    tokenizer = Tokenizer(_bpe(vocabulary.ids(), _listed_merges(fields["merges"]), ignore_merges=rule.ignore_merges))
    if rule.composes:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = rule.pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = _begin_and_end(vocabulary, rule.add_bos) or processors.ByteLevel(trim_offsets=False)
    return tokenizer


def _listed_merges(merges: list[str]) -> list[tuple[str, str]]:
    """The merges as pairs. A merge is two tokens with a space between them, and the first may itself begin with one."""
    pairs = []
    for merge in merges:
        middle = merge.find(" ", 1)
        if middle < 0:
            raise SourceError(f"an entry of tokenizer.ggml.merges must be two tokens, got {merge!r}; convert it again")
        pairs.append((merge[:middle], merge[middle + 1 :]))
    return pairs


def _bpe(vocabulary: dict[str, int], merges: list[tuple[str, str]], **options: Any) -> models.BPE:
    try:
        return models.BPE(vocab=vocabulary, merges=merges, **options)
    except Exception as error:  # the package raises the bare class
        raise SourceError(
            f"the tokenizer's merges must join tokens into tokens, got: {error}; convert it again"
        ) from error


def _sentencepiece(vocabulary: Vocabulary) -> Tokenizer:
    fields = vocabulary.fields
    if "scores" not in fields:
        raise SourceError("a GGUF file must have the list tokenizer.ggml.scores, got none; convert the model again")
    if fields.get("remove_extra_whitespaces"):
        raise SourceError(
            "tokenizer.ggml.remove_extra_whitespaces must be false where tokenizer.ggml.model is llama, got true, "
            f"which programs read in two ways; {USE_DIRECTORY}"
        )
    unknown = vocabulary.tokens[fields["unknown_token_id"]]
    merges = _scored_merges(vocabulary)
    tokenizer = Tokenizer(_bpe(vocabulary.ids(), merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    prefixed = fields.get("add_space_prefix", True)
    spaces = normalizers.Replace(" ", _SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if prefixed else spaces
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefixed else steps)
    post_processor = _begin_and_end(vocabulary, add_bos=True)
    if post_processor is not None:
        tokenizer.post_processor = post_processor
    return tokenizer


def _scored_merges(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Pairs of pieces that make a piece, in the order in which sentencepiece joins them: the highest score first."""
    entries = zip(vocabulary.tokens, vocabulary.fields["scores"], vocabulary.kinds, strict=True)
    pieces = {token: score for token, score, kind in entries if kind in (NORMAL, USER_DEFINED)}
    merges = []
    for piece, score in pieces.items():
        for place in range(1, len(piece)):
            left = piece[:place]
            right = piece[place:]
            if left in pieces and right in pieces:
                merges.append((score, left, right))
    scores = {score for score, _, _ in merges}
    if len(merges) > 1 and len(scores) == 1:
        raise SourceError(
            f"tokenizer.ggml.scores must rank the pieces, got {merges[0][0]:g} for all; convert the model again "
            "with its tokenizer.model"
        )
    # Sentencepiece joins from the left, so of two ways to one piece the longer left side comes first.
    merges.sort(key=lambda merge: (-merge[0], -len(merge[1])))
    return [(left, right) for _, left, right in merges]


def _add_tokens(tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    """Add the tokens that text is searched for before anything else. Special ones are left out of decoded text."""
    special = vocabulary.of_kind(CONTROL, UNKNOWN)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    defined = vocabulary.of_kind(USER_DEFINED)
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in defined])


def _begin_and_end(vocabulary: Vocabulary, add_bos: bool) -> Any:
    """The post-processor that puts the begin and the end token around a text, or None if the file wants neither.

    Args:
        vocabulary: tokens and flags.
        add_bos: whether a text begins with the begin token if the file does not say so.
    """
    fields = vocabulary.fields
    tokens = vocabulary.tokens
    if fields.get("add_sep_token"):
        raise SourceError("tokenizer.ggml.add_sep_token must be false, got true; no covered family has separators")
    for name in ("bos", "eos"):
        if fields.get(f"add_{name}_token") and f"{name}_token_id" not in fields:
            raise SourceError(
                f"a GGUF file with tokenizer.ggml.add_{name}_token must have {name}_token_id, got none; "
                "convert the model again"
            )
    begins = fields.get("add_bos_token", add_bos) and "bos_token_id" in fields
    begin = [fields["bos_token_id"]] if begins else []
    end = [fields["eos_token_id"]] if fields.get("add_eos_token") else []
    if not begin and not end:
        return None
    before = [tokens[token_id] for token_id in begin]
    after = [tokens[token_id] for token_id in end]
    first = [*before, "$A", *after]
    second = [*before, "$B", *after]
    return processors.TemplateProcessing(
        single=first,
        pair=[*first, *second],
        special_tokens=[(tokens[token_id], token_id) for token_id in dict.fromkeys((*begin, *end))],
    )


def _chat_template(metadata: Mapping[str, Any], special_tokens: Mapping[str, str], notes: list[str]) -> str | None:
    """The default template, or None if it cannot be used. The notes name the others, and say why it cannot."""
    prefix = f"{TEMPLATE}."
    named = {key.removeprefix(prefix): text for key, text in metadata.items() if key.startswith(prefix)}
    default = named.pop(_DEFAULT, None)
    template = metadata.get(TEMPLATE) or default or None
    if named:
        others = ", ".join(sorted(named))
        chosen = f"the one called {_DEFAULT} is used" if template else f"none is called {_DEFAULT}: the bundle has none"
        notes.append(f"the GGUF file has other chat templates, {others}; {chosen}")
    if template is None:
        return None
    if not isinstance(template, str):
        raise SourceError(f"{TEMPLATE} must be text, got {template!r:.60}; convert the model again")
    if not template.strip():
        notes.append("the chat template of the GGUF file is empty")
        return None
    return usable_template(template, special_tokens, notes)
