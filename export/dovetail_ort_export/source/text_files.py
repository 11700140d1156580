"""How a model directory's text becomes token ids: `tokenizer.json` defines it, and other files name its tokens.

The ids are those of `AutoTokenizer.from_pretrained(directory)` of transformers. None of its tokenizer classes is used,
because they rebuild the file's content differently from release to release.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from dovetail_ort_export.source.answer_ends import answer_ends
from dovetail_ort_export.source.checkpoint import TextParts
from dovetail_ort_export.source.template_files import read_template
from dovetail_ort_export.source.text_ends import ends_told_apart, text_ends
from dovetail_ort_export.source.token_names import TokenNames, add_named_tokens
from dovetail_ort_runtime.errors import SourceError
from dovetail_ort_runtime.text.tokenizer import tokenizer_failures

# Files from which a tokenizer.json can be made.
_OTHER_VOCABULARIES: Final = (
    "tokenizer.model",
    "vocab.json",
    "tekken.json",
    "tiktoken.model",
    "spiece.model",
    "vocab.txt",
)


def read_text_files(path: Path, config: dict[str, Any], generation: dict[str, Any]) -> TextParts:
    """Read tokenizer, chat template, special tokens and ends of an answer from a model directory.

    Args:
        path: the directory.
        config: content of its `config.json`.
        generation: content of its `generation_config.json`; empty if there is none.

    Raises:
        SourceError: there is no `tokenizer.json`, a file is damaged, an id is beyond the model's vocabulary, or no
            token ends an answer.
    """
    tokenizer = read_tokenizer(path)
    names = TokenNames.read(path)
    notes = [*names.notes]
    add_named_tokens(tokenizer, names)
    check_ids(tokenizer, config.get("vocab_size"))
    special_tokens, unknown = names.special_tokens(tokenizer, config)
    notes += unknown
    notes += ends_told_apart(tokenizer, names.settings, special_tokens)
    template, told = read_template(path, names.settings, special_tokens)
    notes += told
    ends, told = answer_ends(tokenizer, generation, config, special_tokens, template)
    notes += told
    if not ends:
        raise SourceError(
            f"{str(path)!r} must name an end-of-text token, got none in its generation settings or tokenizer; "
            "add eos_token_id to its generation_config.json"
        )
    return TextParts(
        tokenizer=tokenizer,
        chat_template=template,
        special_tokens=special_tokens,
        eos_token_ids=ends,
        notes=tuple(notes),
    )


def read_tokenizer(path: Path) -> Tokenizer:
    """Read the tokenizer in `tokenizer.json`, which neither cuts nor pads texts.

    Args:
        path: the directory of the model.

    Raises:
        SourceError: the file is missing or damaged.
    """
    file = path / "tokenizer.json"
    if not file.is_file():
        raise SourceError(_missing(path))
    with tokenizer_failures(file, SourceError, advice="download it again, or update tokenizers"):
        tokenizer = Tokenizer.from_file(str(file))
    # A file may carry the settings of its last training run.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def check_ids(tokenizer: Tokenizer, vocabulary_size: Any) -> None:
    """Refuse a tokenizer that has an id without a row in the model's embedding.

    Args:
        tokenizer: tokenizer of the model.
        vocabulary_size: V in the configuration; another module refuses a value that is not an integer.

    Raises:
        SourceError: an id is V or more; the message names the first and its token.
    """
    if not isinstance(vocabulary_size, int):
        return
    before, after = text_ends(tokenizer)  # ids that the file puts around a text need not be in its vocabulary
    tokens = {number: token for token, number in tokenizer.get_vocab().items()}
    beyond = [number for number in (*tokens, *before, *after) if number >= vocabulary_size]
    if not beyond:
        return
    number = min(beyond)
    token = tokens.get(number, "the end of a text")
    raise SourceError(
        f"the tokenizer's ids must be below the model's vocabulary of {vocabulary_size}, got {number} for {token!r}; "
        "take the tokenizer that belongs to the model, or remove the added token from tokenizer.json"
    )


def _missing(path: Path) -> str:
    """The error message for a directory without tokenizer.json."""
    found = [name for name in _OTHER_VOCABULARIES if (path / name).is_file()]
    if not found:
        return f"{str(path)!r} must have a tokenizer.json, which is missing; download it with the model's other files"
    call = f"T.from_pretrained({str(path)!r}).save_pretrained({str(path)!r})"
    return (
        f"{str(path)!r} must have a tokenizer.json, got {found[0]} alone; make one with: "
        f'python -c "from transformers import AutoTokenizer as T; {call}"'
    )
