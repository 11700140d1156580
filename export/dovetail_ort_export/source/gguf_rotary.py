"""The rotary settings of a GGUF file, as `rope_theta` and `rope_scaling` of a `config.json`. It knows no family.

A file states a scaling in one of three ways: by a type and a factor, by the older key `rope.scale_linear`, or by a
tensor of factors that divide the frequencies. Converters compute such a tensor for Llama 3.1 and its descendants.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dovetail_ort_export.source.gguf_file import USE_DIRECTORY
from dovetail_ort_runtime.checks import must_be_one_of
from dovetail_ort_runtime.errors import SourceError

Factors = NDArray[np.float32]

# Keys under `ARCHITECTURE.` that this module reads.
ROTARY_KEYS: Final = (
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.attn_factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",  # says that the model was trained with the scaling, and changes nothing
    "rope.scaling.yarn_log_multiplier",
    "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
)
FACTORS: Final = "rope_freqs.weight"
SHORT_FACTORS: Final = "rope_factors_short.weight"
LONG_FACTORS: Final = "rope_factors_long.weight"

_TYPES: Final = ("none", "linear", "yarn", "longrope")
_DEFAULT_THETA: Final = 10_000.0
# Llama 3.1 to 3.3 have these in common. They differ in the factor, 8 or 32, and in the original context.
_LOW_FREQUENCY: Final = 1.0
_HIGH_FREQUENCY: Final = 4.0
# Relative error. Converters compute factors in float32, and near the lowest frequency rounding grows with the factor,
# which is at most 32.
_FACTOR_TOLERANCE: Final = 1e-4
# Relative error. The file has the value in float32.
_ATTENTION_TOLERANCE: Final = 1e-6


def rotary_settings(
    settings: Mapping[str, Any], factors: Mapping[str, Factors], head_size: int, context_length: int
) -> dict[str, Any]:
    """`rope_theta` and, if positions are scaled, `rope_scaling`.

    Args:
        settings: metadata under `ARCHITECTURE.`, without that prefix.
        factors: those of the tensors `FACTORS`, `SHORT_FACTORS` and `LONG_FACTORS` that the file has, by name.
        head_size: D; all of a head is rotated.
        context_length: number of tokens that the model was trained for.

    Raises:
        SourceError: a setting means something that config.json cannot say, or that programs read in different ways.
    """
    theta = float(settings.get("rope.freq_base", _DEFAULT_THETA))
    if not (math.isfinite(theta) and theta > 0):
        raise SourceError(f"rope.freq_base must be a number above 0, got {theta}; convert the model again")
    for name, values in factors.items():
        if len(values) != head_size // 2:
            raise SourceError(
                f"{name} must have one factor for each of {head_size // 2} frequencies, got {len(values)}; "
                "convert the model again"
            )
    kind = _kind(settings)
    if kind == "longrope":
        scaling: dict[str, Any] | None = _longrope(settings, factors, context_length)
    elif kind == "yarn":
        scaling = _yarn(settings, factors, context_length)
    else:
        scaling = _divided(settings, kind, factors.get(FACTORS), theta, context_length, head_size)
    return {"rope_theta": theta} if scaling is None else {"rope_theta": theta, "rope_scaling": scaling}


def _kind(settings: Mapping[str, Any]) -> str:
    """The kind of scaling, without settings that belong to another kind."""
    kind = settings.get("rope.scaling.type", "linear")  # llama.cpp's default; without a factor it scales nothing
    must_be_one_of("rope.scaling.type", kind, _TYPES, advice=USE_DIRECTORY, error=SourceError)
    _require(settings, "rope.scaling.yarn_log_multiplier", 0.0)
    if kind != "yarn":
        for key in ("ext_factor", "attn_factor", "beta_fast", "beta_slow"):
            _refuse(settings, f"rope.scaling.yarn_{key}", kind)
    if kind not in ("yarn", "longrope"):
        _require(settings, "rope.scaling.attn_factor", 1.0)
    return str(kind)


def _factor(settings: Mapping[str, Any]) -> float:
    """The number that positions are divided by; in a file 0 means 1."""
    stated = settings.get("rope.scaling.factor", settings.get("rope.scale_linear", 1.0))
    factor = float(stated or 1.0)
    if not (math.isfinite(factor) and factor >= 1):
        raise SourceError(f"rope.scaling.factor must be a number of 1 or more, got {factor}; {USE_DIRECTORY}")
    return factor


def _yarn(settings: Mapping[str, Any], factors: Mapping[str, Factors], context_length: int) -> dict[str, Any]:
    """YaRN (arXiv 2309.00071). llama.cpp multiplies the paper's attention factor by `attn_factor`."""
    _refuse_factors(factors, (FACTORS, SHORT_FACTORS, LONG_FACTORS), "yarn")
    _require(settings, "rope.scaling.yarn_ext_factor", 1.0)
    factor = _factor(settings)
    scaling = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": settings.get("rope.scaling.original_context_length") or context_length,
    }
    for key in ("beta_fast", "beta_slow"):
        if f"rope.scaling.yarn_{key}" in settings:
            scaling[key] = float(settings[f"rope.scaling.yarn_{key}"])
    attention = 0.1 * math.log(factor) + 1.0
    # Converters store the publisher's attention factor here, but llama.cpp computes the paper's instead.
    stored = float(settings.get("rope.scaling.yarn_attn_factor", attention))
    if not math.isclose(stored, attention, rel_tol=_ATTENTION_TOLERANCE):
        raise SourceError(
            f"rope.scaling.yarn_attn_factor must be {attention:.6g} for factor {factor:g}, got {stored:.6g}, which "
            f"programs read in two ways; {USE_DIRECTORY}"
        )
    multiplier = float(settings.get("rope.scaling.attn_factor", 1.0))
    if multiplier != 1.0:
        scaling["attention_factor"] = attention * multiplier
    return scaling


def _longrope(settings: Mapping[str, Any], factors: Mapping[str, Factors], context_length: int) -> dict[str, Any]:
    """LongRoPE (arXiv 2402.13753), whose two tables are tensors of the file."""
    _refuse_factors(factors, (FACTORS,), "longrope")
    missing = [name for name in (SHORT_FACTORS, LONG_FACTORS) if name not in factors]
    if missing:
        raise SourceError(f"a GGUF file with rope.scaling.type longrope must have the tensor {missing[0]}, got none")
    if _factor(settings) != 1:
        raise SourceError(
            f"rope.scaling.factor must be 1 where rope.scaling.type is longrope, got {_factor(settings):g}; "
            f"{USE_DIRECTORY}"
        )
    return {
        "rope_type": "longrope",
        "short_factor": [float(factor) for factor in factors[SHORT_FACTORS]],
        "long_factor": [float(factor) for factor in factors[LONG_FACTORS]],
        "original_max_position_embeddings": settings.get("rope.scaling.original_context_length") or context_length,
        "attention_factor": float(settings.get("rope.scaling.attn_factor", 1.0)),
    }


def _divided(
    settings: Mapping[str, Any],
    kind: str,
    factors: Factors | None,
    theta: float,
    context_length: int,
    head_size: int,
) -> dict[str, Any] | None:
    """Frequencies that are all divided by one factor, each by its own factor, or not at all."""
    factor = 1.0 if kind == "none" else _factor(settings)
    if factors is None or (factors == 1).all():
        return None if factor == 1 else {"rope_type": "linear", "factor": factor}
    if factor == 1:
        found = _llama3(factors, theta, head_size)
        if found is not None:
            return found
    # Longrope with two equal tables divides by these factors, however long a text is.
    table = [float(value) * factor for value in factors]
    return {
        "rope_type": "longrope",
        "short_factor": table,
        "long_factor": table,
        "original_max_position_embeddings": context_length,
        "attention_factor": 1.0,
    }


def _llama3(factors: Factors, theta: float, head_size: int) -> dict[str, Any] | None:
    """The settings of Llama 3's scaling that give these factors, or None if there are none.

    The lowest frequency is divided by the whole factor. Between the bands a frequency of wavelength w is divided by
    1 / ((1 - s) / factor + s) with s = (original / w - low) / (high - low), which gives the original context.
    """
    exact = factors.astype(np.float64)
    wavelengths = 2 * math.pi * theta ** (np.arange(0, head_size, 2) / head_size)
    factor = round(float(exact[-1]), 3)
    between = np.flatnonzero((exact > 1 + _FACTOR_TOLERANCE) & (exact < factor * (1 - _FACTOR_TOLERANCE)))
    if not between.size:
        return None
    place = between[0]
    share = (1 / exact[place] - 1 / factor) / (1 - 1 / factor)
    band = _HIGH_FREQUENCY - _LOW_FREQUENCY
    original = round(float(wavelengths[place] * (_LOW_FREQUENCY + share * band)))
    shares = np.clip((original / wavelengths - _LOW_FREQUENCY) / band, 0, 1)
    expected = 1 / ((1 - shares) / factor + shares)
    if not np.allclose(exact, expected, rtol=_FACTOR_TOLERANCE, atol=0):
        return None
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": _LOW_FREQUENCY,
        "high_freq_factor": _HIGH_FREQUENCY,
        "original_max_position_embeddings": original,
    }


def _require(settings: Mapping[str, Any], key: str, value: float) -> None:
    """Refuse any value but `value` under a key, if the key is there."""
    found = settings.get(key, value)
    if found != value:
        raise SourceError(f"{key} must be {value:g}, got {found:g}; {USE_DIRECTORY}")


def _refuse(settings: Mapping[str, Any], key: str, kind: str) -> None:
    if key in settings:
        raise SourceError(f"{key} must not stand beside rope.scaling.type {kind}, got {settings[key]}; {USE_DIRECTORY}")


def _refuse_factors(factors: Mapping[str, Factors], names: tuple[str, ...], kind: str) -> None:
    for name in names:
        if name in factors:
            raise SourceError(f"a GGUF file with rope.scaling.type {kind} must have no tensor {name}; {USE_DIRECTORY}")
