"""The drafter on CUDA drafts ahead while the target verifies on the CPU; the device's numbers are all zeros."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.long


def test_drafts_that_are_all_wrong_leave_the_answer_as_it_is(drafting, on_stand_in):
    found = on_stand_in("draft_ahead", drafting)
    assert found["speculative"] == found["baseline"]
    assert len(set(found["baseline"])) > 10
    assert found["num_drafts"] > 30
    assert found["num_accepted"] == found["num_ready"] == 0


def test_drafts_that_are_all_right_are_ready_when_they_are_asked_for(writing_zeros, on_stand_in):
    found = on_stand_in("draft_ahead", writing_zeros)
    assert found["speculative"] == found["baseline"]
    assert set(found["baseline"]) == {0}
    assert found["num_accepted"] == len(found["baseline"]) - 1 - found["num_drafts"]  # a bonus token each round
    assert found["num_ready"] == found["num_drafts"] - 1  # nothing is drafted ahead of the first
