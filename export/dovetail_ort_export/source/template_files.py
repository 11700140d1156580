"""The chat template of a model directory, from all places where releases of transformers keep it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from dovetail_ort_export.source.json_file import read_json
from dovetail_ort_runtime.errors import BundleError, split_advice
from dovetail_ort_runtime.text.chat_template import ChatTemplate

_FILE: Final = "chat_template.jinja"
_FOLDER: Final = "additional_chat_templates"
_CONFIG: Final = "tokenizer_config.json"
_PROCESSOR: Final = "chat_template.json"
_DEFAULT: Final = "default"


def read_template(
    path: Path, settings: Mapping[str, Any], special_tokens: Mapping[str, str]
) -> tuple[str | None, list[str]]:
    """The default chat template, or None if none can be used; and notes on what was chosen or left out.

    A file of its own has precedence over `tokenizer_config.json`, as in transformers.

    Args:
        path: directory of the model.
        settings: content of its `tokenizer_config.json`.
        special_tokens: text of special tokens by the names that a template may use.

    Raises:
        SourceError: `chat_template.json` is damaged.
    """
    stated, notes = _by_name(settings.get("chat_template"))
    files, told = _in_files(path)
    notes += told
    if _DEFAULT in files and _DEFAULT in stated and files[_DEFAULT] != stated[_DEFAULT]:
        notes.append(f"the chat template is that of {_FILE}; {_CONFIG} has a different one, which is not used")
    templates = stated | files
    if not templates:
        templates, told = _by_name(read_json(path / _PROCESSOR).get("chat_template"))
        notes += told
    others = ", ".join(sorted(templates.keys() - {_DEFAULT}))
    if _DEFAULT not in templates:
        if others:
            notes.append(f"no chat template is called {_DEFAULT}, only {others}: the bundle has none")
        return None, notes
    if others:
        notes.append(f"the chat template is the one called {_DEFAULT}; {others} is left out")
    return usable_template(templates[_DEFAULT], special_tokens, notes), notes


def usable_template(template: str, special_tokens: Mapping[str, str], notes: list[str]) -> str | None:
    """The template, or None if it cannot be used; then a note says why.

    Args:
        template: text of the template.
        special_tokens: text of special tokens by the names that a template may use.
        notes: remarks for the user, to which the note is added.
    """
    try:
        ChatTemplate(template, special_tokens)
    except BundleError as error:
        fault, _ = split_advice(error)
        notes.append(f"the bundle has no chat template: {fault}")
        return None
    return template


def _by_name(value: Any) -> tuple[dict[str, str], list[str]]:
    """Templates in a setting, which holds one, several by name, or a list; and notes on all other entries."""
    if isinstance(value, list):
        entries = [entry if isinstance(entry, dict) else {} for entry in value]
        named = {entry.get("name"): entry.get("template") for entry in entries}
    elif isinstance(value, dict):
        named = dict(value)
    else:
        named = {} if value is None else {_DEFAULT: value}
    found = {str(name): text for name, text in named.items() if isinstance(text, str) and text.strip()}
    left_out = [str(name) for name in named if str(name) not in found]
    return found, [f"the chat template called {name} in the settings is empty or no text" for name in left_out]


def _in_files(path: Path) -> tuple[dict[str, str], list[str]]:
    """Templates in files of their own, and notes on files that are empty or hold no text."""
    files = {_DEFAULT: path / _FILE} if (path / _FILE).is_file() else {}
    files |= {file.stem: file for file in sorted((path / _FOLDER).glob("*.jinja"))}
    found = {}
    notes = []
    for name, file in files.items():
        try:
            text = file.read_text(encoding="utf-8-sig")  # a byte order mark is no part of a prompt
        except (OSError, UnicodeDecodeError) as error:
            notes.append(f"the chat template {file.name} cannot be read: {error}")
            continue
        if text.strip():
            found[name] = text
        else:
            notes.append(f"the chat template {file.name} is empty")
    return found, notes
