"""How a byte-level BPE tokenizer splits text before it merges bytes: the rules that `tokenizer.ggml.pre` names.

The names, and what else llama.cpp does for each, are from its `llama-vocab.cpp`. The patterns are from the original
`tokenizer.json` files, which are made for the engine of `tokenizers`. It knows no vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from tokenizers import Regex, pre_tokenizers

from dovetail_ort_export.source.gguf_file import USE_DIRECTORY
from dovetail_ort_runtime.errors import SourceError

UNNAMED: Final = "default"  # the rule of a file that names none


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Splitting:
    """A rule for splitting, and the settings that belong to it.

    Attributes:
        names: values of `tokenizer.ggml.pre` that stand for the rule.
        pre_tokenizer: pre-tokenizer that splits text, and writes each byte as one character.
        ignore_merges: whether a word that is a token becomes that token, whatever the merges say.
        add_bos: whether a text begins with the begin token if the file does not say so.
        composes: whether text is first brought to the composed form of Unicode, NFC.
    """

    names: tuple[str, ...]
    pre_tokenizer: Any
    ignore_merges: bool = False
    add_bos: bool = False
    composes: bool = False


def splitting(name: str) -> Splitting:
    """The rule that a name stands for.

    Raises:
        SourceError: the name is not known; the message lists the known ones.
    """
    for rule in RULES:
        if name in rule.names:
            return rule
    known = ", ".join(sorted(name for rule in RULES for name in rule.names))
    raise SourceError(f"tokenizer.ggml.pre must be one of {known}, got {name!r}; {USE_DIRECTORY}")


def _character_class(code_points: str) -> str:
    """Ranges of code points in hexadecimal, such as `41-5A`, as a pattern."""
    ranges = [span.partition("-") for span in code_points.split()]
    return "".join(rf"\x{{{first}}}-\x{{{last or first}}}" for first, _, last in ranges)


def _split(patterns: Sequence[str]) -> Any:
    """Split by each pattern in turn: a match is one piece, and what is between two matches is another."""
    steps = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in patterns]
    return pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


_CONTRACTIONS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES: Final = r"\s*[\r\n]+|\s+(?!\S)|\s+"


def _words(numbers: str) -> str:
    """The pattern of Llama 3 and Qwen2, which differ in how digits are grouped."""
    letters = r"[^\r\n\p{L}\p{N}]?\p{L}+"
    return rf"{_CONTRACTIONS}|{letters}|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"


def _cased_words(ending: str, numbers: str) -> str:
    """The pattern of GPT-4o and Tekken: a word is capitals, then small letters."""
    upper = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
    lower = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    start = r"[^\r\n\p{L}\p{N}]?"
    words = f"{start}{upper}*{lower}+{ending}|{start}{upper}+{lower}*{ending}"
    return rf"{words}|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"


_GPT2_WORDS: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_GPT2: Final = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
_LLAMA3: Final = _split([_words(r"\p{N}{1,3}")])
_QWEN2: Final = _split([_words(r"\p{N}")])
_IDEOGRAPHS: Final = r"[\x{800}-\x{9FA5}\x{AC00}-\x{D7FF}]+"
_DEEPSEEK_V3_WORDS: Final = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"
    + _SPACES
)
# Code points of letters with case, as DeepSeek lists them. The property of Unicode has small Georgian ones, too.
_CASED_LETTERS: Final = (
    "41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376-377 37B-37D 37F 386 388-38A 38C "
    "38E-3A1 3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B "
    "1D6B-1D77 1D79-1D9A 1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 "
    "1FB6-1FBC 1FBE 1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 "
    "2115 2119-211D 2124 2126 2128 212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183-2184 2C00-2C7B "
    "2C7E-2CE4 2CEB-2CEE 2CF2-2CF3 A640-A66D A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 "
    "FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3 104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF "
    "1E900-1E943"
)

RULES: Final = (
    Splitting(
        names=("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "midm-2.0"),
        pre_tokenizer=_LLAMA3,
        ignore_merges=True,
        add_bos=True,
    ),
    Splitting(names=("smaug-bpe", "dbrx", "chatglm-bpe"), pre_tokenizer=_LLAMA3),
    Splitting(names=("qwen2", "deepseek-r1-qwen"), pre_tokenizer=_QWEN2, composes=True),
    Splitting(names=("megrez", "kormo", "f2llmv2"), pre_tokenizer=_QWEN2),
    Splitting(
        names=("tekken",),
        pre_tokenizer=_split([_cased_words("", r"\p{N}")]),
        ignore_merges=True,
        add_bos=True,
    ),
    Splitting(
        names=("gpt-4o", "llama4"),
        pre_tokenizer=_split([_cased_words(f"{_CONTRACTIONS}?", r"\p{N}{1,3}")]),
    ),
    Splitting(
        names=("gpt-2", "phi-2", "olmo", "mpt", "exaone4", "trillion", "gigachat", "a.x-4.0", "mellum"),
        pre_tokenizer=_GPT2,
    ),
    Splitting(
        names=("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"),
        pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _GPT2]),
    ),
    Splitting(
        names=("deepseek-llm",),
        pre_tokenizer=_split(
            [
                r"[\r\n]",
                rf"\s?[{_character_class(_CASED_LETTERS)}]+",
                r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+",
                r"\s+$",
                _IDEOGRAPHS,
                r"\p{N}+",
            ]
        ),
    ),
    Splitting(
        names=("deepseek-coder",),
        pre_tokenizer=_split([r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _IDEOGRAPHS, r"\p{N}"]),
    ),
    Splitting(
        names=("deepseek-v3",),
        pre_tokenizer=_split([r"\p{N}{1,3}", r"[\x{4E00}-\x{9FA5}\x{3040}-\x{30FF}]+", _DEEPSEEK_V3_WORDS]),
    ),
    Splitting(
        names=("seed-coder",),
        pre_tokenizer=_split(
            [rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}"]
        ),
    ),
    Splitting(
        names=("viking",),
        pre_tokenizer=_split([r" ?[^(\s|.,!?\x{2026}\x{3002}\x{FF0C}\x{3001}\x{964}\x{6D4}\x{60C})]+", r"\p{N}"]),
    ),
    Splitting(
        names=(UNNAMED,),
        pre_tokenizer=_split([r"[\p{P}$+<=>^~|]+", _GPT2_WORDS, r"\p{N}+", r"[0-9][0-9][0-9]"]),
    ),
)
