"""Text is split as the publishers' `tokenizer.json` files do it; another regular-expression engine is the reference."""

from __future__ import annotations

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from dovetail_ort_export.source.gguf_splitting import splitting
from dovetail_ort_runtime.errors import SourceError

# Patterns as published, by a name of `tokenizer.ggml.pre`; each splits what the ones before it left.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {
    "llama-bpe": (LLAMA3,),
    "smaug-bpe": (LLAMA3,),
    "qwen2": (QWEN2,),
    "megrez": (QWEN2,),
    "tekken": (TEKKEN,),
    "gpt-4o": (GPT4O,),
    "gpt-2": (GPT2,),
    "smollm": (r"\p{N}", GPT2),
    "deepseek-coder": (
        "[\r\n]",
        r"\s?\p{L}+",
        r"\s?\p{P}+",
        "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
        r"\p{N}",
    ),
    "deepseek-v3": (
        r"\p{N}{1,3}",
        "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    "seed-coder": (
        LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}{1}").replace(r" ?[^\s\p{L}\p{N}]+[\r\n]*", r" ?[^\s\p{L}\p{N}\r\n]+"),
    ),
    "default": (r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
}
ONE_RULE = (
    ("llama-bpe", ("llama3", "llama-v3", "falcon3", "pixtral", "midm-2.0")),
    ("qwen2", ("deepseek-r1-qwen",)),
    ("smaug-bpe", ("dbrx", "chatglm-bpe")),
    ("smollm", ("starcoder", "refact", "command-r", "codeshell", "minerva-7b")),
    ("gpt-2", ("phi-2", "olmo", "mpt", "exaone4", "trillion")),
)
TRICKY = (
    "Don't DON'T we'LL I'd've",
    "1 12 123 1234 12345.678 \u0663\u0664 \u00bd \u2167",
    "  two\n\n  lines\r\n\ttab   end  ",
    "caf\u00e9 cafe\u0301 XMLHttpRequest iPhone15Pro \u01c5ungla",
    "\u65e5\u672c\u8a9e\u304b\u306a \ud55c\uad6d\uc5b4 \u0e20\u0e32\u0e29\u0e32 \u0939\u093f\u0928\u094d\u0926\u0940",
    "a/b//c \\d $x+y=z; <tag attr='v'>|~^`",
    "\U0001f600\U0001f44d\U0001f3fd!? \u2014 \u201cquote\u201d\u2026",
    "x\u00a0y\u2003z\u200b",
    "'s 's's '",
    "",
)


def pieces(patterns, text):
    """Splits at each pattern in turn; what matches and what lies between are pieces."""
    found = [text]
    for pattern in patterns:
        found = [piece for part in found for piece in isolated(pattern, part)]
    return found


def isolated(pattern, text):
    found, place = [], 0
    for match in regex.finditer(pattern, text):
        found += [text[place : match.start()], match.group()]
        place = match.end()
    return [piece for piece in (*found, text[place:]) if piece]


def split(name, text):
    """The rule's pieces, bytes as text again."""
    encoded = splitting(name).pre_tokenizer.pre_tokenize_str(text)
    return [decoders.ByteLevel().decode([piece]) for piece, _ in encoded]


@pytest.mark.parametrize("name", PATTERNS)
def test_tricky_text_is_split_as_the_published_pattern_does(name):
    for text in TRICKY:
        assert split(name, text) == pieces(PATTERNS[name], text)


# Engines differ in the case folding of two letters, in unassigned characters, and in what a newer Unicode added.
LETTERS = st.characters(max_codepoint=0x2FFF, exclude_categories=("Cs", "Cn", "Co"), exclude_characters="\u017f\u212a")


@pytest.mark.parametrize("name", ["llama-bpe", "qwen2", "tekken", "gpt-4o", "gpt-2", "smollm", "default"])
@given(text=st.text(st.one_of(LETTERS, st.sampled_from(" \n\r\t'sStTdD019.,A"))))
def test_any_text_is_split_as_the_published_pattern_does(name, text):
    assert split(name, text) == pieces(PATTERNS[name], text)


@pytest.mark.parametrize(("name", "others"), ONE_RULE)
def test_a_rule_goes_by_many_names(name, others):
    for other in others:
        assert splitting(other) is splitting(name)


def test_deepseek_llm_splits_by_script():
    text = "Hello world 123 \u4e2d\u6587 \u03c9\u0436, \uff01\n"
    expected = ["Hello", " world", " ", "123", " ", "\u4e2d\u6587", " \u03c9\u0436", ",", " \uff01", "\n"]
    assert split("deepseek-llm", text) == expected


def test_viking_splits_at_punctuation_and_digits():
    assert split("viking", "Hei, maailma 12|x") == ["Hei", ",", " maailma", " ", "1", "2", "|", "x"]


@pytest.mark.parametrize(
    ("name", "ignores", "begins", "composes"),
    [
        ("llama-bpe", True, True, False),
        ("tekken", True, True, False),
        ("smaug-bpe", False, False, False),
        ("qwen2", False, False, True),
        ("deepseek-r1-qwen", False, False, True),
        ("smollm", False, False, False),
        ("default", False, False, False),
    ],
)
def test_what_goes_with_a_rule(name, ignores, begins, composes):
    rule = splitting(name)
    assert (rule.ignore_merges, rule.add_bos, rule.composes) == (ignores, begins, composes)


def test_a_rule_can_be_saved_in_a_tokenizer_file():
    for name in PATTERNS:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = splitting(name).pre_tokenizer
        again = Tokenizer.from_str(tokenizer.to_str())
        assert again.to_str() == tokenizer.to_str()


def test_an_unknown_rule_is_refused_with_those_that_are_known():
    with pytest.raises(SourceError, match=r"one of .*llama-bpe.*tekken.*, got 'kimi-k2'"):
        splitting("kimi-k2")
