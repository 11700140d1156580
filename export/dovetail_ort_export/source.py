"""Load a causal LM and its tokenizer from a Hugging Face directory, the hub, or a GGUF file."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from tokenizers import Tokenizer

from dovetail_ort_export.families import check_family
from dovetail_ort_export.gguf_tokenizer import eos_token_ids, read_metadata, repair_tokenizer, special_tokens
from dovetail_ort_runtime.errors import SourceError

_GGUF_SUFFIX: Final = ".gguf"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Source:
    """A loaded model.

    Attributes:
        name: the last part of the path, or the hub repository; it goes into the manifest.
        model: transformers causal LM, in evaluation mode, in the number type of its checkpoint.
        tokenizer: of the `tokenizers` package.
        chat_template: Jinja source, or None.
        special_tokens: names that the chat template may use, such as `bos_token`, to their text.
        eos_token_ids: tokens that end an answer, one or more.
    """

    name: str
    model: Any
    tokenizer: Tokenizer
    chat_template: str | None
    special_tokens: dict[str, str]
    eos_token_ids: tuple[int, ...]


def load_source(source: str) -> Source:
    """Read the model, after its configuration has been found to be exportable.

    Args:
        source: path of a directory or of a `.gguf` file, or a hub repository name.

    Raises:
        SourceError: there is no such model, or its family or a setting of it is not covered.
    """
    path = Path(source)
    location, gguf_file = source, None
    if path.suffix == _GGUF_SUFFIX:
        if not path.is_file():
            raise SourceError(f"a GGUF source must be a file, got {source!r}, which is not there")
        location, gguf_file = str(path.parent), path.name
    elif not path.exists() and (path.is_absolute() or source.startswith((".", "~"))):
        raise SourceError(
            f"a source must be a directory, a .gguf file or a hub name, got {source!r}, which is not there"
        )
    elif path.exists() and not (path / "config.json").is_file():
        raise SourceError(f"a source directory must have a config.json, got {source!r}; or give a .gguf file")
    with _quiet():
        read = partial(_from_pretrained, source, location, gguf_file=gguf_file)
        config = read(transformers.AutoConfig)
        check_family(config)
        tokenizer = read(transformers.AutoTokenizer, config=config)
        dtype = "auto" if gguf_file is None else torch.float32
        model = read(transformers.AutoModelForCausalLM, config=config, dtype=dtype)
    if not tokenizer.is_fast:
        raise SourceError(f"the tokenizer of {source} must have a tokenizer.json, got a Python-only tokenizer")
    if gguf_file is not None:
        metadata = read_metadata(path)
        repair_tokenizer(tokenizer.backend_tokenizer, metadata)
        named, ends = special_tokens(metadata), eos_token_ids(metadata)
    else:
        named, ends = _special_tokens(tokenizer), _eos_token_ids(model, tokenizer)
    if not ends:
        raise SourceError(
            f"{source!r} must name an end-of-text token, got none in its generation settings or tokenizer"
        )
    return Source(
        name=path.name if path.exists() else source,
        model=model.eval(),
        tokenizer=tokenizer.backend_tokenizer,
        chat_template=_chat_template(tokenizer),
        special_tokens=named,
        eos_token_ids=ends,
    )


def _special_tokens(tokenizer: Any) -> dict[str, str]:
    return {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}


def _eos_token_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    ids = model.generation_config.eos_token_id
    if ids is None:
        ids = tokenizer.eos_token_id
    if ids is None:
        return ()
    return tuple(ids) if isinstance(ids, (list, tuple)) else (ids,)


def _chat_template(tokenizer: Any) -> str | None:
    template = tokenizer.chat_template
    return template.get("default") if isinstance(template, dict) else template


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' notes on its own tokenizer classes, which this module repairs or refuses."""
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(level)


def _from_pretrained(source: str, location: str, loader: Any, **arguments: Any) -> Any:
    try:
        return loader.from_pretrained(location, **arguments)
    except Exception as error:  # damaged files end in a dozen packages' own exceptions
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SourceError(
            f"{source!r} must be a readable model directory, hub name or GGUF file, got: {reason}"
        ) from error
