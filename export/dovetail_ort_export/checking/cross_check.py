"""The original model and the bundle's graph, compared with the witness's logits of a few tokens.

`agreement` compares the graph with what transformers made of the files. If transformers already made another model than
the files hold, only code that reads the files without transformers can show it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from dovetail_ort_export.checking.agreement import divergence
from dovetail_ort_export.checking.reference import reference_logits
from dovetail_ort_export.checking.witness import testify, witness_positions
from dovetail_ort_export.source import Source
from dovetail_ort_runtime.arrays import FloatArray, TokenArray
from dovetail_ort_runtime.bundle.measurements import WitnessReport
from dovetail_ort_runtime.engine.forward_rows import ForwardRows
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.errors import SourceError

# Share of the logits' spread. Float32 stays near 1e-6 over two blocks (docs/sources.md); the rest is room for depth.
LARGEST_DIFFERENCE: Final = 1e-4


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WitnessedRows:
    """A text whose logits the witness gave, and the model confirmed.

    Attributes:
        token_ids: (T,) int64.
        positions: (T,) int64, ascending, in groups without gaps.
        logits: (T, V) float32, logits that the witness computed.
        model_difference: largest difference of the original model's logits, as a share of the spread.
        seconds: time that the witness took.
    """

    token_ids: TokenArray
    positions: TokenArray
    logits: FloatArray
    model_difference: float
    seconds: float

    def compare(self, target: Target, *, quantised: bool) -> WitnessReport:
        """Compare a target's logits of the same text.

        Args:
            target: target of the bundle; its cache is overwritten.
            quantised: whether any part of the target computes in fewer bits than float32.

        Raises:
            SourceError: a graph that is not quantised gives other logits.
        """
        logits = self._logits_of(target)
        found = divergence(logits, self.logits)
        difference = relative_difference(logits, self.logits)
        if not quantised and not difference <= LARGEST_DIFFERENCE:
            raise SourceError(
                f"the graph must give the logits that the model's files give when they are read by themselves, within "
                f"{LARGEST_DIFFERENCE:g} of their spread, got {difference:.2g}; please report this model"
            )
        return WitnessReport(
            positions=tuple(self.positions.tolist()),
            model_difference=self.model_difference,
            graph_difference=difference,
            graph_top1=found.top1,
            graph_mean_kl=found.mean_kl,
            seconds=round(self.seconds, 3),
        )

    def _logits_of(self, target: Target) -> FloatArray:
        """(T, V) float32, from one forward for each group of positions without gaps.

        Attention reads one position of a forward that begins a text, and counts on from there.
        """
        target.cache.rewind(0)
        starts = np.flatnonzero(np.diff(self.positions, prepend=-2) != 1)
        groups_of_tokens = np.split(self.token_ids, starts[1:])
        groups_of_positions = np.split(self.positions, starts[1:])
        logits = []
        for token_ids, positions in zip(groups_of_tokens, groups_of_positions, strict=True):
            logits.append(target.forward(ForwardRows(token_ids, positions)).logits.copy())
            target.cache.keep(range(len(token_ids)))
        target.cache.rewind(0)
        return np.concatenate(logits)


def witnessed_rows(source: Source, token_ids: TokenArray) -> WitnessedRows:
    """Let the witness compute logits of the first tokens of a text, at positions all over the context.

    Args:
        source: loaded model and its files.
        token_ids: (T,) int64, repeated if there are too few.

    Raises:
        SourceError: the model that was made of the files is not the one that they hold.
    """
    max_context = source.settings.max_context
    positions = witness_positions(max_context)
    chosen = np.resize(token_ids, len(positions))
    testimony = testify(source.checkpoint.path, chosen, positions, max_context=max_context)
    expected = testimony.logits.astype(np.float32)
    difference = relative_difference(reference_logits(source.model, chosen, positions), expected)
    if not difference <= LARGEST_DIFFERENCE:
        raise SourceError(
            f"the model must give the logits that its files give when they are read apart from transformers, within "
            f"{LARGEST_DIFFERENCE:g} of their spread, got {difference:.2g}; please report this model"
        )
    return WitnessedRows(
        token_ids=chosen,
        positions=positions,
        logits=expected,
        model_difference=difference,
        seconds=testimony.seconds,
    )


def relative_difference(logits: FloatArray, expected: FloatArray) -> float:
    """Largest difference of two arrays, in each row as a share of the spread of `expected`.

    The spread is the distance from the smallest logit of a row to the largest. Equal rows differ by nothing, also where
    all logits are one number.

    Args:
        logits: (T, V).
        expected: (T, V).

    Returns:
        0 or more; NaN where either array is not finite.
    """
    difference = np.abs(logits - expected).max(axis=-1)
    spread = np.maximum(np.ptp(expected, axis=-1), np.finfo(np.float32).tiny)
    return float((difference / spread).max())
