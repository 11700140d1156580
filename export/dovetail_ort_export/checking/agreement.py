"""How far an exported graph is from the model it came from: the text, what the original says of it, the divergence."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch.nn import functional

from dovetail_ort_export.source import Source
from dovetail_ort_export.source.weights import float32_leaves
from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.bundle.measurements import Agreement, Measurements
from dovetail_ort_runtime.engine.row_invariance import (
    ROWS_AT_EXPORT,
    TOKENS_AT_EXPORT,
    measure_row_invariance,
    run_in_chunks,
)
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.text.user_text import read_text_file

# Nats: room above what an INT8 format costs (the formats in docs/kernels.md).
LARGEST_MEAN_KL: Final = 0.02
_MAX_TOKENS: Final = 512


def checked_tokens(source: Source, path: Path | None, max_context: int) -> TokenArray:
    """Tokens of the check text.

    Args:
        source: whose tokenizer reads the text.
        path: a UTF-8 file, or None for the built-in text.
        max_context: of the export.

    Returns:
        (T,) int64, at most 512, and one fewer than the context has room for; two at least.

    Raises:
        InputError: the file cannot be read, or is too short.
    """
    ids = source.text.tokenizer.encode(read_check_text(path), add_special_tokens=False).ids
    tokens = ids[: min(_MAX_TOKENS, max(max_context - 1, 2))]
    if len(tokens) < 2:
        raise InputError(f"the check text must have 2 tokens or more, got {len(tokens)}; give a longer file")
    return np.asarray(tokens, dtype=np.int64)


def read_check_text(path: Path | None) -> str:
    """The text of a UTF-8 file, or the built-in one.

    Raises:
        InputError: it cannot be read.
    """
    if path is not None:
        return read_text_file(path, "the check text")
    return (files("dovetail_ort_export.checking") / "check_text.txt").read_text(encoding="utf-8")


@torch.no_grad()
def reference_logits(model: Any, token_ids: TokenArray, positions: TokenArray | None = None) -> FloatArray:
    """Logits of a transformers causal LM in float32, whatever the type of its parameters.

    Args:
        model: in evaluation mode.
        token_ids: (T,) int64.
        positions: (T,) int64, where the tokens stand; from 0 on if None.

    Returns:
        (T, V) float32.
    """
    rows = torch.from_numpy(token_ids)[None]
    places = torch.arange(len(token_ids)) if positions is None else torch.from_numpy(positions)
    # Without a mask transformers takes a gap between positions for the border of two texts.
    mask = torch.ones_like(rows)
    with float32_leaves(model):
        result = model(rows, position_ids=places[None], attention_mask=mask, use_cache=False)
    logits: FloatArray = result.logits[0].float().numpy()
    return logits


def measure_target(target: Target, token_ids: TokenArray, reference: FloatArray) -> Measurements:
    """Whether a target is batch-invariant, and its distance from an original's logits.

    Those are (T, V) float32, at the same tokens (T,) int64. The target's cache is overwritten.
    """
    num_tokens = min(TOKENS_AT_EXPORT, target.cache.capacity - 1)  # a single row at the end may be padded to two
    row_invariance = measure_row_invariance(target, token_ids[:num_tokens], ROWS_AT_EXPORT)
    logits, _ = run_in_chunks(target, token_ids, target.max_rows)
    return Measurements(row_invariance=row_invariance, agreement=divergence(logits, reference))


def divergence(logits: FloatArray, reference: FloatArray) -> Agreement:
    """Compare next-token distributions (T, V) with those of `reference`, logits or log-probabilities in float32."""
    top1 = float((logits.argmax(axis=-1) == reference.argmax(axis=-1)).mean())
    divergences = [_kl(expected, got) for expected, got in zip(reference, logits, strict=True)]
    return Agreement(num_tokens=len(logits), top1=top1, mean_kl=float(np.mean(divergences)))


def _kl(expected: FloatArray, got: FloatArray) -> float:
    """KL(softmax(expected) || softmax(got)) in nats."""
    log_p, log_q = (torch.tensor(row, dtype=torch.float64).log_softmax(-1) for row in (expected, got))
    return float(functional.kl_div(log_q, log_p, reduction="sum", log_target=True))
