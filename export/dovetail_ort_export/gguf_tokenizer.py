"""Repair what transformers loses when it converts the byte-level BPE tokenizer of a GGUF file.

Its conversion always splits text as GPT-2 does, takes the end-of-text token from the wrong field, adds a first token
that the file does not ask for, and leaves control tokens beyond a few known names as plain text. The file has the
right answers; the splitting rules are those of the original `tokenizer.json` files, as llama.cpp lists them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors

from dovetail_ort_runtime.errors import SourceError

_CONTROL, _USER_DEFINED = 3, 4  # values of tokenizer.ggml.token_type


def read_metadata(path: Path) -> dict[str, Any]:
    """The `tokenizer.*` fields of a GGUF file."""
    fields = gguf.GGUFReader(path).fields
    return {name: field.contents() for name, field in fields.items() if name.startswith("tokenizer.")}


def special_tokens(metadata: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token` and `eos_token` as text, where the file names them."""
    ids = {name: metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos")}
    tokens = metadata["tokenizer.ggml.tokens"]
    return {f"{name}_token": tokens[token_id] for name, token_id in ids.items() if token_id is not None}


def eos_token_ids(metadata: Mapping[str, Any]) -> tuple[int, ...]:
    """Tokens that end an answer: end of text and end of turn."""
    ids = (metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot"))
    return tuple(dict.fromkeys(token_id for token_id in ids if token_id is not None))


def repair_tokenizer(tokenizer: Tokenizer, metadata: Mapping[str, Any]) -> None:
    """Set splitting, special tokens and decoding of a converted tokenizer to what the file says.

    Sentencepiece tokenizers (`tokenizer.ggml.model` other than gpt2) are left as converted.

    Raises:
        SourceError: the file names a splitting rule that is not known here.
    """
    if metadata["tokenizer.ggml.model"] != "gpt2":
        return
    rule = metadata.get("tokenizer.ggml.pre", "gpt-2")
    if rule not in _PRE_TOKENIZERS:
        raise SourceError(f"tokenizer.ggml.pre must be one of {', '.join(_PRE_TOKENIZERS)}, got {rule!r}")
    tokenizer.pre_tokenizer = _PRE_TOKENIZERS[rule]
    tokenizer.normalizer = normalizers.NFC() if rule == "qwen2" else None
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.model.unk_token, tokenizer.model.fuse_unk, tokenizer.model.byte_fallback = None, False, False
    tokenizer.model.ignore_merges = rule == "llama-bpe"
    tokens, kinds = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    for kind, add in ((_CONTROL, tokenizer.add_special_tokens), (_USER_DEFINED, tokenizer.add_tokens)):
        special = kind == _CONTROL
        found = (token for token, token_kind in zip(tokens, kinds, strict=True) if token_kind == kind)
        add([AddedToken(token, normalized=False, special=special) for token in found])
    tokenizer.post_processor = _post_processor(metadata, tokens, rule)


def _post_processor(metadata: Mapping[str, Any], tokens: list[str], rule: str) -> Any:
    begin = metadata.get("tokenizer.ggml.bos_token_id")
    if begin is None or not metadata.get("tokenizer.ggml.add_bos_token", rule == "llama-bpe"):
        return processors.ByteLevel(trim_offsets=False)  # adds nothing
    token = tokens[begin]
    return processors.TemplateProcessing(
        single=[token, "$A"], pair=[token, "$A", token, "$B"], special_tokens=[(token, begin)]
    )


def _words(numbers: str) -> Any:
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
        + numbers
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


_GPT2: Final = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
# By tokenizer.ggml.pre.
_PRE_TOKENIZERS: Final = {
    "gpt-2": _GPT2,
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _GPT2]),
    "llama-bpe": _words(r"\p{N}{1,3}"),
    "qwen2": _words(r"\p{N}"),
}
