"""Decide by measurement how a head is to be read, and whether it drafts for a target at all.

Publishers differ in which states of the target a head reads, and in where its residual begins. A wrong reading drafts
without an error and is hardly ever accepted, so every reading that a configuration leaves open is tried on text that
the target wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final, Literal

from dovetail_ort_export.heads.published import PublishedHead, Reading
from dovetail_ort_export.options import Report
from dovetail_ort_export.probing.agreement import acceptance_by_depth, num_drafts
from dovetail_ort_export.probing.candidates import Candidate, make_candidate
from dovetail_ort_export.probing.probe_texts import SHORT_PROMPTS, ProbeText
from dovetail_ort_export.probing.target_states import read_features, remove_taps, texts_with_levels
from dovetail_ort_export.writing.taps import write_taps
from dovetail_ort_export.writing.target_ends import TargetEnds
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.formats import FP32, INT8
from dovetail_ort_runtime.bundle.graph_entries import LEAST_ACCEPTANCE, AcceptanceRow, TapsEntry
from dovetail_ort_runtime.errors import InputError

_DEPTH: Final = 5
_COMPARED_STEPS: Final = 2
# The product of levels is in INT8 unless that costs so large a share of first tokens.
_MOST_LOST: Final = 0.005


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Probe:
    """What was measured.

    Attributes:
        reading: the reading that is right.
        taps: graphs that give the head's features, written; None for a head that reads hidden states.
        acceptance: acceptance by depth for each kind of text, short prompts first.
    """

    reading: Reading
    taps: TapsEntry | None
    acceptance: tuple[AcceptanceRow, ...]


def probe_head(
    bundle: Bundle,
    directory: Path,
    head: PublishedHead,
    ends: TargetEnds,
    report: Report,
    *,
    force: bool,
) -> Probe:
    """Find the reading of a head that is right, measure what it brings, and write the taps that it needs.

    Args:
        bundle: bundle of the target.
        directory: folder with the target's graphs and weights, where the taps are written.
        head: head as its publisher made it.
        ends: embedding and head of the target.
        report: function that is given a line for each finding.
        force: whether a head that is hardly ever right is taken all the same.

    Raises:
        InputError: the head is hardly ever right, and `force` is not set; or the target cannot have taps.
        SourceError: the head is one of another target.
    """
    target = bundle.manifest.target
    readings = head.readings(target.num_layers)
    levels = sorted({level for reading in readings for level in reading.levels})
    report("the target writes text to measure the head on")
    texts = texts_with_levels(bundle, directory, levels)
    candidates = (make_candidate(head, reading, target, ends) for reading in readings)
    reading = readings[kept_reading(candidates, texts, levels, report)]
    candidate = make_candidate(head, reading, target, ends)
    rows = acceptance_rows(candidate, _short(texts), levels)
    report(describe_acceptance(rows[0]))
    if not force:
        check_acceptance(rows)
    further = acceptance_rows(candidate, [text for text in texts if text.name != SHORT_PROMPTS], levels)
    for row in further:
        report(describe_acceptance(row))
    taps = _write_taps(bundle, directory, head, candidate, texts, rows[0].first, report)
    return Probe(reading=reading, taps=taps, acceptance=rows + further)


def kept_reading(
    candidates: Iterable[Candidate], texts: Sequence[ProbeText], levels: Sequence[int], report: Report
) -> int:
    """Index of the reading whose first drafted token agrees most often with the target.

    Of readings with equal first tokens it is the one with the better second tokens, and then the first one.

    Args:
        candidates: the readings, the likeliest first, one or more.
        texts: prompts with the target's answers.
        levels: numbers of the levels that the texts were written with.
        report: function that is given a line for each reading.
    """
    short = _short(texts)
    measured = []
    for candidate in candidates:
        features = [candidate.features(text, levels) for text in short]
        by_depth = acceptance_by_depth(candidate.head, short, features, num_steps=_COMPARED_STEPS)
        report(f"{candidate.name}: {by_depth[0]:.1%} of first and {by_depth[1]:.1%} of second tokens are the target's")
        measured.append(by_depth)
    return measured.index(max(measured))


def acceptance_rows(
    candidate: Candidate, texts: Sequence[ProbeText], levels: Sequence[int]
) -> tuple[AcceptanceRow, ...]:
    """Acceptance by depth for each kind of text.

    Args:
        candidate: head that drafts.
        texts: prompts with the target's answers; texts of one name stand side by side.
        levels: numbers of the levels that the texts were written with.
    """
    rows = []
    for name, group in groupby(texts, key=lambda text: text.name):
        members = list(group)
        features = [candidate.features(text, levels) for text in members]
        by_depth = acceptance_by_depth(candidate.head, members, features, _DEPTH)
        rows.append(AcceptanceRow(text=name, num_tokens=num_drafts(members), by_depth=by_depth))
    return tuple(rows)


def describe_acceptance(row: AcceptanceRow) -> str:
    """One line about what was accepted on one kind of text."""
    shares = ", ".join(f"{share:.1%}" for share in row.by_depth)
    return f"{row.text}: {shares} accepted by depth, from {row.num_tokens} positions"


def check_acceptance(rows: Sequence[AcceptanceRow]) -> None:
    """Refuse a head that hardly ever drafts what the target writes.

    Args:
        rows: acceptance by depth, that on short prompts first.

    Raises:
        InputError: less than `LEAST_ACCEPTANCE` of first tokens are the target's own.
    """
    share = rows[0].first
    if share < LEAST_ACCEPTANCE:
        raise InputError(
            f"the head's first token must be the target's own in {LEAST_ACCEPTANCE:.0%} of cases, got {share:.1%}; it "
            "was probably trained for another target, with another chat template or in another language, and --force "
            "attaches it anyway"
        )


def _write_taps(
    bundle: Bundle,
    directory: Path,
    head: PublishedHead,
    candidate: Candidate,
    texts: Sequence[ProbeText],
    share: float,
    report: Report,
) -> TapsEntry | None:
    """Taps whose product is in INT8 if that changes little, and else in float32."""
    if candidate.fusion is None:
        return None
    if bundle.manifest.target.precision != FP32:
        taps = _taps_in(INT8, bundle, directory, head, candidate)
        short = _short(texts)
        features = read_features(bundle, directory, short, taps)
        found = acceptance_by_depth(candidate.head, short, features, num_steps=1)[0]
        report(f"with the product of levels in int8: {found:.1%} of first tokens are the target's")
        if found >= share - _MOST_LOST:
            return taps
        remove_taps(bundle, directory, taps)
    return _taps_in(FP32, bundle, directory, head, candidate)


def _taps_in(
    precision: Literal["int8", "fp32"], bundle: Bundle, directory: Path, head: PublishedHead, candidate: Candidate
) -> TapsEntry:
    taps = head.taps(candidate.reading, precision)
    assert taps is not None, "a head that fuses levels has taps"
    return write_taps(bundle, directory, taps)


def _short(texts: Sequence[ProbeText]) -> list[ProbeText]:
    return [text for text in texts if text.name == SHORT_PROMPTS]
