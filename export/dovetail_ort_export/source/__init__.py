"""Load a causal LM and its tokenizer from a Hugging Face directory, the hub, or a GGUF file, if it can be exported."""

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

from dovetail_ort_export.gguf_tokenizer import eos_token_ids, read_metadata, repair_tokenizer, special_tokens
from dovetail_ort_export.weights import head_size
from dovetail_ort_runtime.errors import SourceError

# Pre-norm decoders of the same build: RMSNorm, rotary positions, a gated MLP with SiLU. `equalization` counts on it.
FAMILIES: Final = ("llama", "mistral", "qwen2", "qwen3")

# Rotary scalings whose angles depend on the position alone; "dynamic" and "longrope" change with the length.
ROPE_TYPES: Final = ("default", "linear", "llama3", "yarn")

_HEAD_SIZE_STEP: Final = 16  # GroupQueryAttention's, where it rotates


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
    """Read a directory, a `.gguf` file or a hub repository, after its configuration has been found to be exportable.

    Raises:
        SourceError: there is no such model, or its family or a setting of it is not covered.
    """
    path = Path(source)
    location, gguf_file = source, None
    if path.suffix == ".gguf":
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
        named = {name: text for name, text in tokenizer.special_tokens_map.items() if isinstance(text, str)}
        ends = _eos_token_ids(model, tokenizer)
    template = tokenizer.chat_template
    if not ends:
        raise SourceError(
            f"{source!r} must name an end-of-text token, got none in its generation settings or tokenizer"
        )
    return Source(
        name=path.name if path.exists() else source,
        model=model.eval(),
        tokenizer=tokenizer.backend_tokenizer,
        chat_template=template.get("default") if isinstance(template, dict) else template,
        special_tokens=named,
        eos_token_ids=ends,
    )


def check_family(config: Any) -> None:
    """Accept a transformers configuration that the exporter covers.

    Raises:
        SourceError: the family or a setting of it is not covered; the message names both and what is.
    """
    family = config.model_type
    if family not in FAMILIES:
        raise SourceError(f"the model family must be one of {', '.join(FAMILIES)}, got {family!r}")
    if (rope_type := _rope_type(config)) not in ROPE_TYPES:
        raise SourceError(f"rope_type of {family} must be one of {', '.join(ROPE_TYPES)}, got {rope_type!r}")
    if config.hidden_act not in ("silu", "swish"):
        raise SourceError(f"hidden_act of {family} must be silu, got {config.hidden_act!r}")
    if getattr(config, "partial_rotary_factor", 1.0) != 1.0:
        raise SourceError(f"partial_rotary_factor of {family} must be 1, got {config.partial_rotary_factor}")
    if head_size(config) % _HEAD_SIZE_STEP:
        raise SourceError(f"the head size of {family} must be a multiple of {_HEAD_SIZE_STEP}, got {head_size(config)}")


def check_window(config: Any, max_context: int) -> None:
    """Accept a sliding window that no text of `max_context` tokens outgrows.

    Raises:
        SourceError: the window is smaller; the message says with which limit the model can be exported.
    """
    # GroupQueryAttention's local window counts slots of the cache: right for chains, wrong for trees, where siblings
    # take slots between a draft token and its ancestors.
    window = _sliding_window(config)
    if window is not None and window < max_context:
        raise SourceError(
            f"max_context must be at most the sliding window of {window} tokens, got {max_context}; "
            f"export with --max-context {window}"
        )


def _rope_type(config: Any) -> str:
    scaling = getattr(config, "rope_scaling", None) or {}
    return str(scaling.get("rope_type", scaling.get("type", "default")))  # older configurations say "type"


def _sliding_window(config: Any) -> int | None:
    """The window of the blocks that have one, or None if all see everything."""
    slides = "sliding_attention" in (getattr(config, "layer_types", None) or ["sliding_attention"])
    return getattr(config, "sliding_window", None) if slides else None


def _eos_token_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    ids = model.generation_config.eos_token_id
    if ids is None:
        ids = tokenizer.eos_token_id
    return tuple(ids) if isinstance(ids, (list, tuple)) else () if ids is None else (ids,)


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
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise SourceError(
            f"{source!r} must be a readable model directory, hub name or GGUF file, got: {reason}"
        ) from error
