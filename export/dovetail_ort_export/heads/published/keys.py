"""Settings of a configuration, taken one by one. What is left in the end is not understood."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dovetail_ort_export.source.harmless_settings import HARMLESS_KEYS
from dovetail_ort_export.source.rules import Rule
from dovetail_ort_runtime.errors import SourceError

# Keys of heads that change nothing of what a head computes, beside those of every model.
_HARMLESS: Final = frozenset(
    (
        # how the head was trained
        "ttt_length",
        "ttt_steps",
        "step_loss_decay",
        "embed_requires_grad",
        "enable_sp_ulysses",
        # names and versions
        "target_model_name_or_path",
        "speculators_version",
        "speculators_model_type",
        "auto_map",  # names code that is never run
        # of parallel heads, where there are none
        "parallel_draft_heads_num_layers",
        # how many tokens to draft
        "num_speculative_tokens",
        # whether the head has its own lm_head, which its tensors show
        "has_lm_head",
    )
)


class Keys:
    """The keys of a configuration that nobody has taken yet.

    Args:
        values: the configuration; what is null says nothing.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._left = {key: value for key, value in values.items() if value is not None}

    def __contains__(self, key: str) -> bool:
        """Whether the configuration states the key, and nobody has taken it."""
        return key in self._left

    def take(self, key: str, rule: Rule, default: Any = None) -> Any:
        """The value of a key, or the default if it is not stated.

        Raises:
            SourceError: the value is against the rule.
        """
        if key not in self._left:
            return default
        value = self._left.pop(key)
        if not rule.allows(value):
            raise SourceError(f"{key} of a draft head must be {rule.words}, got {value!r:.60}")
        return value

    def need(self, key: str, rule: Rule, default: Any = None) -> Any:
        """The value of a key.

        Raises:
            SourceError: the value is against the rule, or the key is missing and there is no default.
        """
        value = self.take(key, rule, default)
        if value is None:
            raise SourceError(f"config.json must have the key {key!r}, which is missing; is this a whole draft head?")
        return value

    def drop(self, *keys: str) -> None:
        """Take keys whose values somebody else reads."""
        for key in keys:
            self._left.pop(key, None)

    def refuse_rest(self) -> None:
        """Refuse keys that nobody took.

        Raises:
            SourceError: there are some that could change what the head computes; the message names three.
        """
        unknown = [
            key
            for key, value in self._left.items()
            if value not in ({}, []) and key not in _HARMLESS and key not in HARMLESS_KEYS
        ]
        if unknown:
            shown = ", ".join(f"{key} = {self._left[key]!r:.40}" for key in unknown[:3])
            others = " and others" if len(unknown) > 3 else ""
            raise SourceError(f"every setting of a draft head must be one that is understood, got {shown}{others}")
