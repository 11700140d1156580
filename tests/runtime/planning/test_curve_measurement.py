"""What a round costs is timed as decoding runs it."""

from __future__ import annotations

import dataclasses
import itertools
import shutil

import pytest

from dovetail_ort_export.heads.taps import Taps
from dovetail_ort_export.writing.taps import write_taps
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.drafting.drafter import ModelDrafter
from dovetail_ort_runtime.drafting.proposal import NOTHING
from dovetail_ort_runtime.drafting.shapes import ChainShape, TreeShape
from dovetail_ort_runtime.engine import forward_times
from dovetail_ort_runtime.loading.drafters import make_drafter
from dovetail_ort_runtime.loading.load_options import LoadOptions
from dovetail_ort_runtime.planning import curve_measurement
from dovetail_ort_runtime.planning.curve_measurement import Effort, measure_curves

EFFORT = Effort(contexts=(16, 64), verify_rows=(4, 8), catch_up_rows=(1, 3), rounds=4, seconds=60.0)


class Clock:
    """A clock that stands still but for what is added to it."""

    def __init__(self):
        self.ms = 0.0

    def perf_counter(self):
        return self.ms / 1e3


class Timed:
    """A target and its drafter, whose work takes a known time.

    A forward takes 1 ms for each row. A draft takes 0.5 ms, 0.1 ms more for each unread token, 0.25 ms more for each
    further token of a chain, and 0.05 ms more for each further node that a tree expands.

    Attributes:
        calls: rows of each forward, `chain` for each chain, `tree` for each tree.
    """

    def __init__(self, target, drafter, monkeypatch):
        self.target = target
        self.drafter = drafter
        self.calls = []
        self.unread = 0
        self.clock = Clock()
        self.originals = {"forward": target.forward, "observe": drafter.observe, "draft": drafter.draft}
        monkeypatch.setattr(target, "forward", self.forward)
        monkeypatch.setattr(drafter, "observe", self.observe)
        monkeypatch.setattr(drafter, "draft", self.draft)
        for module in (curve_measurement, forward_times):
            monkeypatch.setattr(module, "time", self.clock)

    def forward(self, rows, **settings):
        self.calls.append(len(rows.token_ids))
        self.clock.ms += len(rows.token_ids)
        return self.originals["forward"](rows, **settings)

    def observe(self, token_ids, hidden_states):
        self.unread = len(token_ids)
        self.originals["observe"](token_ids, hidden_states)

    def draft(self, next_token_id, max_draft_tokens, shape):
        self.clock.ms += 0.5 + 0.1 * self.unread
        if isinstance(shape, TreeShape):
            self.calls.append("tree")
            self.clock.ms += 0.25 + 0.05 * (shape.width - 1)
        else:
            self.calls.append("chain")
            self.clock.ms += 0.25 * (shape.num_tokens - 1)
        return self.originals["draft"](next_token_id, max_draft_tokens, shape)


@pytest.fixture
def timed(target_of, tiny_drafting_bundle, monkeypatch):
    """`timed(bundle=tiny_drafting_bundle)`: a target and its drafter on a clock of their own."""

    def make(bundle=tiny_drafting_bundle):
        target = target_of(bundle)
        drafter = make_drafter(Bundle(bundle), target, LoadOptions(drafter="dgf", draft_shape=ChainShape.fixed(4)))
        return Timed(target, drafter, monkeypatch)

    return make


def test_the_curves_are_the_times_of_forwards_and_drafts(timed):
    work = timed()
    curves = measure_curves(work.target, work.drafter, EFFORT)
    assert curves.contexts == (16, 64)
    assert curves.verify_rows == (work.target.least_rows, 4, 8)
    assert curves.verify_ms == ((work.target.least_rows, 4, 8),) * 2
    assert curves.catch_up_rows == (1, 3)
    assert curves.catch_up_ms == pytest.approx((0.6, 0.8))
    assert curves.step_ms == pytest.approx(0.25)
    assert curves.branch_ms == pytest.approx(0.05)


def test_rounds_end_when_the_time_is_up(timed):
    work = timed()
    measure_curves(work.target, None, dataclasses.replace(EFFORT, rounds=100, seconds=0.1))
    forwards_of_eight_rows = work.calls.count(8)
    round_ms = work.target.least_rows * (1 + 3 * 2) + 4 + 8
    assert forwards_of_eight_rows == 2 * (100 // round_ms + 1)


def test_several_rows_follow_a_draft_and_a_single_row_follows_others(timed):
    work = timed()
    measure_curves(work.target, work.drafter, EFFORT)
    verification = work.calls[1 : 1 + 2 * EFFORT.rounds * (3 + 2 * 2)]
    before_of = list(itertools.pairwise(verification))
    assert [before for before, call in before_of if call == 8] == ["chain"] * 2 * EFFORT.rounds
    assert [before for before, call in before_of if call == 4] == ["chain"] * 2 * EFFORT.rounds
    singles = [before for before, call in before_of if call == work.target.least_rows]
    assert singles.count(work.target.least_rows) == 2 * 2 * EFFORT.rounds


def test_a_timed_draft_follows_a_forward(timed):
    work = timed()
    measure_curves(work.target, work.drafter, EFFORT)
    chains = [4, "chain"] * 2 * len(EFFORT.catch_up_rows) * EFFORT.rounds
    trees = [4, "tree"] * 2 * EFFORT.rounds
    assert work.calls[-len(chains + trees) :] == chains + trees


def test_no_tree_is_timed_for_a_target_that_keeps_no_side_branch(timed, tiny_drafting_bundle_portable):
    work = timed(tiny_drafting_bundle_portable)
    curves = measure_curves(work.target, work.drafter, EFFORT)
    assert curves.branch_ms == 0
    assert "tree" not in work.calls


def test_both_caches_are_empty_afterwards(timed):
    work = timed()
    measure_curves(work.target, work.drafter, EFFORT)
    assert work.target.cache.length == 0
    assert work.drafter.model.cache.length == 0


def test_without_a_drafter_rows_follow_single_rows(timed):
    work = timed()
    curves = measure_curves(work.target, None, EFFORT)
    assert curves.catch_up_rows == ()
    assert set(work.calls) == {work.target.least_rows, 4, 8}
    before_of = itertools.pairwise(work.calls)
    assert {before for before, call in before_of if call == 8} == {work.target.least_rows}


class Wide(ModelDrafter):
    """Notes how wide its features are.

    Attributes:
        widths: number of features of each row that it observed.
    """

    reads = "drafter_features"

    def __init__(self):
        super().__init__()
        self.widths = set()

    def rewind(self, length):
        pass

    def observe(self, token_ids, hidden_states):
        self.widths.add(hidden_states.shape[1])

    def draft(self, next_token_id, max_draft_tokens, shape):
        return NOTHING


def test_a_drafter_of_features_is_timed_with_rows_of_their_width(tiny_bundle, target_of, tmp_path):
    copy = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    taps = write_taps(Bundle(copy), copy, Taps(levels=(0, 1, 2)))
    drafter = Wide()
    measure_curves(target_of(copy, taps=taps), drafter, EFFORT)
    assert drafter.widths == {3 * 64}
