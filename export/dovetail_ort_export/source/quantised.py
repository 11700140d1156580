"""Quantised checkpoints, which are not read, recognised by their settings, their files or their tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from dovetail_ort_export.source.checkpoint import StoredTensor
from dovetail_ort_runtime.errors import SourceError

# Names of methods by `quant_method` of `quantization_config`.
METHODS: Final[Mapping[str, str]] = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "fp8": "FP8",
    "fbgemm_fp8": "fbgemm FP8",
    "torchao": "torchao",
    "mxfp4": "MXFP4",
    "modelopt": "NVIDIA ModelOpt",
}

# Names of methods by the file of a quantiser that writes nothing into config.json.
_FILES: Final[Mapping[str, str]] = {
    "quantize_config.json": "GPTQ",
    "quant_config.json": "AWQ",
    "hf_quant_config.json": "NVIDIA ModelOpt",
}

_GPTQ_OR_AWQ: Final = "GPTQ or AWQ"
# Names of methods by the last part of tensors' names. The first one that fits counts: the clearest come first.
_SUFFIXES: Final[Mapping[str, str]] = {
    "g_idx": "GPTQ",
    "qweight": _GPTQ_OR_AWQ,
    "qzeros": _GPTQ_OR_AWQ,
    "SCB": "bitsandbytes, 8 bits",
    "absmax": "bitsandbytes, 4 bits",
    "quant_map": "bitsandbytes, 4 bits",
    "weight_packed": "compressed-tensors",
    "weight_scale_inv": "FP8",
    "weight_scale": "FP8 or INT8",
    "input_scale": "FP8 or INT8",
}

_MXFP4_SUFFIX: Final = "_blocks"
_FLOAT8: Final = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu)


def refuse_quantised(path: Path, config: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> None:
    """Refuse a checkpoint whose weights are quantised.

    Args:
        path: directory of the checkpoint.
        config: content of its `config.json`.
        tensors: its tensors by name.

    Raises:
        SourceError: settings, files or tensors are those of a quantiser; the message names the method.
    """
    stored = _by_tensors(path, tensors)
    stated = _by_settings(config)
    if stored is not None:
        raise SourceError(
            f"the weights must be floating-point numbers, got a quantised checkpoint ({stated or stored}); "
            "give the model that it was made from, as export quantises by itself"
        )
    if stated is not None:
        raise SourceError(
            f"quantised checkpoints are not read, and config.json says that this is one ({stated}); give the model "
            "that it was made from, or remove the setting from config.json if the weights are not quantised"
        )


def _by_settings(config: Mapping[str, Any]) -> str | None:
    """The method that a configuration names, or None."""
    settings = config.get("quantization_config") or config.get("compression_config")
    if isinstance(settings, Mapping):
        method = str(settings.get("quant_method", "unknown method"))
        if settings.get("load_in_8bit") is True:
            return "bitsandbytes, 8 bits"
        if settings.get("load_in_4bit") is True:
            return "bitsandbytes, 4 bits"
        return _with_bits(METHODS.get(method, method), settings.get("bits"))
    settings = config.get("quantization")
    if isinstance(settings, Mapping):
        return _with_bits("MLX", settings.get("bits"))
    return None


def _by_tensors(path: Path, tensors: Mapping[str, StoredTensor]) -> str | None:
    """The method that wrote the tensors, or None if they are floating-point numbers."""
    suffixes = {name.rpartition(".")[2] for name in tensors}
    known = next((method for suffix, method in _SUFFIXES.items() if suffix in suffixes), None)
    if known == _GPTQ_OR_AWQ:
        return next((method for file, method in _FILES.items() if (path / file).is_file()), known)
    if known is not None:
        return known
    if any(".quant_state." in name for name in tensors):
        return "bitsandbytes, 4 bits"
    if any(name.endswith(_MXFP4_SUFFIX) for name in tensors):
        return "MXFP4"
    weights = {tensor.dtype for name, tensor in tensors.items() if name.endswith(".weight")}
    if torch.uint32 in weights:
        return "MLX"
    if weights.intersection(_FLOAT8):
        return "FP8"
    for dtype in weights:
        if not dtype.is_floating_point:
            return f"weights in {str(dtype).removeprefix('torch.')}"
    return None


def _with_bits(method: str, bits: Any) -> str:
    return f"{method}, {bits} bits" if isinstance(bits, int) else method
