"""What a target's graph gives for a text: hidden states, or the features of taps. It knows no head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from dovetail_ort_export.heads.taps import Taps
from dovetail_ort_export.probing.probe_texts import ProbeText
from dovetail_ort_export.writing.taps import write_taps
from dovetail_ort_runtime.arrays import FloatArray
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.graph_entries import TapsEntry
from dovetail_ort_runtime.engine.target import Target

_RAW_SUFFIX: Final = "_levels"


def read_levels(
    bundle: Bundle, directory: Path, levels: Sequence[int], texts: Sequence[ProbeText]
) -> list[Mapping[int, FloatArray]]:
    """Levels of a target for each text.

    Args:
        bundle: bundle of the target.
        directory: folder with the target's graphs and weights; graphs are written there and removed again.
        levels: numbers of the levels, without repetition.
        texts: texts to read.

    Returns:
        For each text its levels by number, (T - 1, E) float32 each.
    """
    taps = write_taps(bundle, directory, Taps(levels=tuple(levels)), _RAW_SUFFIX)
    try:
        features = read_features(bundle, directory, texts, taps)
    finally:
        remove_taps(bundle, directory, taps)
    parts = [np.split(values, len(levels), axis=-1) for values in features]
    return [dict(zip(levels, of_text, strict=True)) for of_text in parts]


def read_features(
    bundle: Bundle, directory: Path, texts: Sequence[ProbeText], taps: TapsEntry | None = None
) -> list[FloatArray]:
    """Features of a target for each text, all tokens but the last, (T - 1, F) float32.

    Args:
        bundle: bundle of the target.
        directory: folder with the target's graphs and weights.
        texts: texts to read.
        taps: graphs there that give the features; None for the hidden states of the plain ones.
    """
    entry = bundle.manifest.target
    longest = max(len(text.token_ids) for text in texts)
    target = Target(directory / entry.graph, entry, max_context=longest, taps=taps)
    return [_features(target, text) for text in texts]


def remove_taps(bundle: Bundle, directory: Path, taps: TapsEntry) -> None:
    """Remove tapped graphs and their weights from a folder."""
    folder = (directory / bundle.manifest.target.graph).parent
    for name in (taps.graph, taps.portable_graph):
        if name is not None:
            (folder / name).unlink()
            (folder / f"{name}_data").unlink(missing_ok=True)


def _features(target: Target, text: ProbeText) -> FloatArray:
    target.cache.rewind(0)
    chunks = target.chunks(text.token_ids[:-1], num_scored=1)
    return np.concatenate([output.features.copy() for _, output in chunks])
