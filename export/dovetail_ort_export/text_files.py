"""The tokenizer, the chat template and the generation settings of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from dovetail_ort_export.source import Source
from dovetail_ort_runtime.manifest import GenerationEntry, TokenizerEntry

TOKENIZER_NAME: Final = "tokenizer.json"
CHAT_TEMPLATE_NAME: Final = "chat_template.jinja"


def write_text_files(source: Source, directory: Path) -> TokenizerEntry:
    """Write the tokenizer and the chat template into `directory`."""
    # Its own writing has no OSError for a full disk.
    (directory / TOKENIZER_NAME).write_text(source.tokenizer.to_str(pretty=True), encoding="utf-8")
    if source.chat_template is not None:
        (directory / CHAT_TEMPLATE_NAME).write_text(source.chat_template, encoding="utf-8")
    return TokenizerEntry(
        file=TOKENIZER_NAME,
        chat_template=None if source.chat_template is None else CHAT_TEMPLATE_NAME,
        special_tokens=source.special_tokens,
    )


def generation_entry(source: Source) -> GenerationEntry:
    """The model's own generation settings; greedy unless they ask for sampling."""
    config: Any = source.model.generation_config
    penalty = float(config.repetition_penalty or 1.0)
    if not config.do_sample:
        return GenerationEntry(eos_token_ids=source.eos_token_ids, repetition_penalty=penalty)
    return GenerationEntry(
        eos_token_ids=source.eos_token_ids,
        repetition_penalty=penalty,
        temperature=1.0 if config.temperature is None else float(config.temperature),
        top_k=int(config.top_k or 0),
        top_p=float(config.top_p or 1.0),
        min_p=float(config.min_p or 0.0),
    )
