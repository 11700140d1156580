"""What a round costs is timed as decoding runs it."""

from __future__ import annotations

import itertools

import pytest

from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.drafting.shapes import ChainShape
from dovetail_ort_runtime.loading.drafters import make_drafter
from dovetail_ort_runtime.loading.load_options import LoadOptions
from dovetail_ort_runtime.planning.curve_measurement import Effort, measure_curves

EFFORT = Effort(contexts=(16, 64), verify_rows=(4, 8), catch_up_rows=(1, 3), rounds=4, seconds=60.0)


@pytest.fixture
def logged(target_of, tiny_drafting_bundle, monkeypatch):
    """A target, its drafter, and the calls of both: rows of a forward, or the word draft."""
    target = target_of(tiny_drafting_bundle)
    drafter = make_drafter(
        Bundle(tiny_drafting_bundle), target, LoadOptions(drafter="dgf", draft_shape=ChainShape.fixed(4))
    )
    calls = []

    def logging(function, name_of):
        def run(*arguments, **settings):
            calls.append(name_of(*arguments))
            return function(*arguments, **settings)

        return run

    monkeypatch.setattr(target, "forward", logging(target.forward, lambda rows, *_: len(rows.token_ids)))
    monkeypatch.setattr(drafter, "draft", logging(drafter.draft, lambda *_: "draft"))
    return target, drafter, calls


def test_several_rows_follow_a_draft_and_a_single_row_follows_others(logged):
    target, drafter, calls = logged
    curves = measure_curves(target, drafter, None, EFFORT)
    assert curves.contexts == (16, 64)
    assert curves.verify_rows == (target.least_rows, 4, 8)
    assert all(ms > 0 for times in (*curves.verify_ms, curves.catch_up_ms) for ms in times)
    verification = calls[1 : 1 + 2 * EFFORT.rounds * (3 + 2 * 2)]
    before_of = list(itertools.pairwise(verification))
    assert [before for before, call in before_of if call == 8] == ["draft"] * 2 * EFFORT.rounds
    assert [before for before, call in before_of if call == 4] == ["draft"] * 2 * EFFORT.rounds
    singles = [before for before, call in before_of if call == target.least_rows]
    assert singles.count(target.least_rows) == 2 * 2 * EFFORT.rounds


def test_a_timed_draft_follows_a_forward(logged):
    target, drafter, calls = logged
    measure_curves(target, drafter, None, EFFORT)
    drafts = calls[-2 * len(EFFORT.catch_up_rows) * 2 * EFFORT.rounds :]
    assert drafts == [4, "draft"] * 2 * len(EFFORT.catch_up_rows) * EFFORT.rounds


def test_both_caches_are_empty_afterwards(logged):
    target, drafter, _ = logged
    measure_curves(target, drafter, None, EFFORT)
    assert target.cache.length == 0
    assert drafter.model.cache.length == 0


def test_without_a_drafter_rows_follow_single_rows(logged):
    target, _, calls = logged
    curves = measure_curves(target, None, None, EFFORT)
    assert curves.catch_up_rows == ()
    assert "draft" not in calls
    before_of = itertools.pairwise(calls)
    assert {before for before, call in before_of if call == 8} == {target.least_rows}
