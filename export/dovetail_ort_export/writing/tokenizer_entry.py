"""The tokenizer and the chat template of a bundle. It knows no model."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from dovetail_ort_export.source import TextParts
from dovetail_ort_runtime.bundle.manifest import TokenizerEntry

_TOKENIZER_NAME: Final = "tokenizer.json"
_CHAT_TEMPLATE_NAME: Final = "chat_template.jinja"


def write_text_files(text: TextParts, directory: Path) -> TokenizerEntry:
    """Write the tokenizer and the chat template into a directory.

    Returns:
        What the manifest says of them.

    Raises:
        OSError: they cannot be written.
    """
    # The tokenizer's own writing has no OSError for a full disk.
    (directory / _TOKENIZER_NAME).write_text(text.tokenizer.to_str(pretty=True), encoding="utf-8")
    if text.chat_template is not None:
        (directory / _CHAT_TEMPLATE_NAME).write_text(text.chat_template, encoding="utf-8")
    return TokenizerEntry(
        file=_TOKENIZER_NAME,
        chat_template=None if text.chat_template is None else _CHAT_TEMPLATE_NAME,
        special_tokens=text.special_tokens,
    )
