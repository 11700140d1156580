"""Texts that a target writes, with the levels of its residual stream or its hidden states. It knows no head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from dovetail_ort_export.heads.taps import Taps
from dovetail_ort_export.probing.probe_texts import ProbeText, write_probe_texts
from dovetail_ort_export.writing.taps import write_taps
from dovetail_ort_runtime.arrays import FloatArray
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.graph_entries import TapsEntry
from dovetail_ort_runtime.engine.target import Target

_RAW_SUFFIX: Final = "_levels"
# The longest prompt and its answer.
_MOST_TOKENS: Final = 4096


def texts_with_levels(bundle: Bundle, directory: Path, levels: Sequence[int]) -> tuple[ProbeText, ...]:
    """Texts that a target writes, whose features are levels side by side.

    Args:
        bundle: bundle of the target.
        directory: folder with the target's graphs and weights; graphs are written there and removed again.
        levels: numbers of the levels, without repetition; none for the hidden states instead.
    """
    if not levels:
        return write_probe_texts(bundle, _open(bundle, directory, None))
    taps = write_taps(bundle, directory, Taps(levels=tuple(levels)), _RAW_SUFFIX)
    try:
        return write_probe_texts(bundle, _open(bundle, directory, taps))
    finally:
        remove_taps(bundle, directory, taps)


def levels_of(text: ProbeText, levels: Sequence[int]) -> Mapping[int, FloatArray]:
    """Levels of a text that was written with these levels, by number, (T - 1, E) each."""
    return dict(zip(levels, np.split(text.features, len(levels), axis=-1), strict=True))


def read_features(bundle: Bundle, directory: Path, texts: Sequence[ProbeText], taps: TapsEntry) -> list[FloatArray]:
    """Features by other taps for each text, all tokens but the last, (T - 1, F) float32.

    Args:
        bundle: bundle of the target.
        directory: folder with the target's graphs and weights.
        texts: texts to read.
        taps: graphs there that give the features.
    """
    target = _open(bundle, directory, taps)
    return [_features(target, text) for text in texts]


def remove_taps(bundle: Bundle, directory: Path, taps: TapsEntry) -> None:
    """Remove tapped graphs and their weights from a folder."""
    folder = (directory / bundle.manifest.target.graph).parent
    for name in (taps.graph, taps.portable_graph):
        if name is not None:
            (folder / name).unlink()
            (folder / f"{name}_data").unlink(missing_ok=True)


def _open(bundle: Bundle, directory: Path, taps: TapsEntry | None) -> Target:
    entry = bundle.manifest.target
    return Target(directory / entry.graph, entry, max_context=min(entry.max_context, _MOST_TOKENS), taps=taps)


def _features(target: Target, text: ProbeText) -> FloatArray:
    target.cache.rewind(0)
    chunks = target.chunks(text.token_ids[:-1], num_scored=1)
    return np.concatenate([output.features.copy() for _, output in chunks])
