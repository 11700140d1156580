"""The rotary settings of a configuration: the kind of rotation, and its options within their rules.

It knows no family and computes no angles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from dovetail_ort_export.source.rotary_spellings import rotary_parameters
from dovetail_ort_export.source.rules import Number, Numbers, Rule, Truth
from dovetail_ort_runtime.checks import must_be_one_of
from dovetail_ort_runtime.errors import SourceError

# Keys of a configuration that this module reads.
ROTARY_KEYS: Final = (
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "partial_rotary_factor",
    "original_max_position_embeddings",
)

_ORIGINAL: Final = "original_max_position_embeddings"
_DEFAULT_THETA: Final = 10_000.0
_ALIASES: Final = {"su": "longrope"}
_FACTOR: Final = Number(least=1)
_POSITIONS: Final = Number(whole=True, least=1)
_POSITIVE: Final = Number(above=0)

# Kinds whose angles depend on the position alone, or do so within limits, with their options.
KINDS: Final[Mapping[str, Mapping[str, Rule]]] = MappingProxyType(
    {
        "default": {},
        "linear": {"factor": _FACTOR},
        "llama3": {
            "factor": _FACTOR,
            "low_freq_factor": _POSITIVE,
            "high_freq_factor": _POSITIVE,
            "original_max_position_embeddings": _POSITIONS,
        },
        "yarn": {
            "factor": _FACTOR,
            "original_max_position_embeddings": _POSITIONS,
            "attention_factor": _POSITIVE,
            "beta_fast": _POSITIVE,
            "beta_slow": _POSITIVE,
            "mscale": Number(least=0),
            "mscale_all_dim": Number(least=0),
            "truncate": Truth(),
        },
        "dynamic": {"factor": _FACTOR},
        "longrope": {
            "factor": _FACTOR,
            "original_max_position_embeddings": _POSITIONS,
            "attention_factor": _POSITIVE,
            "short_factor": Numbers(),
            "long_factor": Numbers(),
        },
    }
)
_NEEDED: Final = {
    "linear": ("factor",),
    "llama3": tuple(KINDS["llama3"]),
    "yarn": ("factor",),
    "dynamic": ("factor",),
    "longrope": ("short_factor", "long_factor", "original_max_position_embeddings"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Rotary:
    """How positions turn queries and keys.

    Attributes:
        kind: one of `KINDS`.
        theta: base of the frequencies.
        options: options of the kind, as far as the source sets them.
    """

    kind: str
    theta: float
    options: Mapping[str, Any]

    def longest_context(self, max_positions: int) -> int:
        """Number of positions that the settings reach.

        YaRN reaches its factor times the original context: publishers who add it to a finished model leave
        `max_position_embeddings` as it was.

        Args:
            max_positions: `max_position_embeddings` of the configuration.
        """
        if self.kind != "yarn":
            return max_positions
        original = self.options.get("original_max_position_embeddings", max_positions)
        return max(max_positions, int(self.options["factor"] * original))

    def table(self, max_context: int) -> str | None:
        """The table of longrope for a bundle of `max_context` positions, `short` or `long`; None for other kinds."""
        if self.kind != "longrope":
            return None
        return "long" if max_context > self.options["original_max_position_embeddings"] else "short"

    def scaling(self, max_context: int, max_positions: int) -> dict[str, Any] | None:
        """`rope_scaling` for transformers, with one meaning for every position below `max_context`.

        Dynamic scaling does nothing up to `max_position_embeddings`, and a longer context is refused elsewhere. Of
        longrope's two tables, the one for `max_context` is put in both places, so that no text switches between them.
        Values that different releases of transformers compute in different ways are stated explicitly.

        Args:
            max_context: largest number of tokens of prompt and answer.
            max_positions: `max_position_embeddings` of the configuration.
        """
        if self.kind in ("default", "dynamic"):
            return None
        options = dict(self.options)
        if self.kind == "yarn":
            options.setdefault("original_max_position_embeddings", max_positions)
        if self.kind == "longrope":
            chosen = options[f"{self.table(max_context)}_factor"]
            options |= {"short_factor": chosen, "long_factor": chosen}
            options.setdefault("attention_factor", self._longrope_attention_factor(max_positions))
            options.pop("factor", None)
        return {"rope_type": self.kind, **options}

    def _longrope_attention_factor(self, max_positions: int) -> float:
        """Factor of cosine and sine, by how far the context was stretched (LongRoPE, arXiv 2402.13753)."""
        original = self.options["original_max_position_embeddings"]
        factor = self.options.get("factor", max_positions / original)
        return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))


def read_rotary(config: Mapping[str, Any], head_size: int) -> Rotary:
    """Read the rotary settings of a configuration.

    Args:
        config: content of `config.json`.
        head_size: D; longrope must have D / 2 factors.

    Raises:
        SourceError: the spellings contradict each other, or a kind or option is not understood.
    """
    found = rotary_parameters(config)
    theta = found.pop("rope_theta", _DEFAULT_THETA)
    if not _POSITIVE.allows(theta):
        raise SourceError(f"rope_theta must be {_POSITIVE.words}, got {theta!r}; is config.json damaged?")
    _check_whole_rotation(config, found)
    kind = _kind(found)
    options = {key: value for key, value in found.items() if value is not None}
    _read_original_context(config, kind, options)
    _check_multiplier(kind, options)
    _check_options(kind, options, head_size)
    return Rotary(kind=kind, theta=float(theta), options=MappingProxyType(options))


def _read_original_context(config: Mapping[str, Any], kind: str, options: dict[str, Any]) -> None:
    """Put the original context into the options of kinds that compute with it, and remove it from all others."""
    if _ORIGINAL not in KINDS[kind]:
        options.pop(_ORIGINAL, None)
        return
    beside = config.get(_ORIGINAL)
    inside = options.get(_ORIGINAL)
    if None not in (beside, inside) and beside != inside:  # releases of transformers take one or the other
        raise SourceError(
            f"{_ORIGINAL} must be the same in config.json and in its rotary settings, got {beside!r} and {inside!r}; "
            "keep the one that is meant"
        )
    if beside is not None:
        options[_ORIGINAL] = beside


def _check_multiplier(kind: str, options: dict[str, Any]) -> None:
    """Refuse YaRN's `attn_factor`: the code of its authors multiplies by it, and transformers ignores it."""
    if kind != "yarn":
        return
    multiplier = options.pop("attn_factor", 1.0)
    if multiplier == 1:
        return
    factor: Any = options.get("factor")
    if not _POSITIVE.allows(multiplier) or not _FACTOR.allows(factor):
        raise SourceError(f"attn_factor and factor of yarn must be numbers, got {multiplier!r:.60} and {factor!r:.60}")
    product = multiplier * (0.1 * math.log(float(factor)) + 1)
    raise SourceError(
        f"attn_factor of the rotation yarn must be 1, got {multiplier}, which programs read in two ways: in its place "
        f'write "attention_factor": {product:.6g}, as the code of YaRN\'s authors and vLLM have it, or remove it, as '
        "transformers does"
    )


def _check_whole_rotation(config: Mapping[str, Any], found: dict[str, Any]) -> None:
    """Refuse a rotation of a part of each head."""
    for share in (config.get("partial_rotary_factor"), found.pop("partial_rotary_factor", None)):
        if share not in (None, 1, 1.0):
            raise SourceError(
                f"partial_rotary_factor of {config.get('model_type')} must be 1, got {share}; "
                "no covered family rotates a part of a head"
            )


def _kind(found: dict[str, Any]) -> str:
    """The kind of rotation, taken out of the parameters."""
    named = [found.pop(key, None) for key in ("rope_type", "type")]
    names = [str(name) for name in named if name is not None]
    kinds = list(dict.fromkeys(_ALIASES.get(name, name) for name in names))
    if len(kinds) > 1:
        raise SourceError(f"rope_type and type must name one kind of rotation, got {kinds[0]!r} and {kinds[1]!r}")
    kind = kinds[0] if kinds else "default"
    must_be_one_of("rope_type", kind, KINDS, advice="this rotation is not covered", error=SourceError)
    return kind


def _check_options(kind: str, options: Mapping[str, Any], head_size: int) -> None:
    """Refuse options that the kind does not have, values that break a rule, and missing options."""
    rules = KINDS[kind]
    for key, value in options.items():
        if key not in rules:
            raise SourceError(
                f"the rotation {kind} must have no other options than {', '.join(rules) or 'none'}, got {key!r}"
            )
        if not rules[key].allows(value):
            raise SourceError(f"{key} of the rotation {kind} must be {rules[key].words}, got {value!r:.60}")
    for key in _NEEDED.get(kind, ()):
        if key not in options:
            raise SourceError(f"the rotation {kind} must have the option {key}, which is missing from config.json")
    for key in ("short_factor", "long_factor"):
        if key in options and len(options[key]) != head_size // 2:
            raise SourceError(
                f"{key} must have one factor for each of {head_size // 2} frequencies, got {len(options[key])}"
            )
