"""Figures of a benchmark, from answers whose times are chosen."""

from __future__ import annotations

import pytest

from dovetail_ort.benchmark import BASELINE, SPECULATIVE, PromptRecord, summarise
from dovetail_ort_runtime import InputError, Statistics


def answer(seconds, *, new_tokens=11, histogram=(0,)):
    """An answer whose tokens after the first took so many seconds."""
    rounds = sum(histogram)
    return Statistics(
        prompt_tokens=20,
        cached_tokens=0,
        new_tokens=new_tokens,
        rounds=rounds,
        drafted_tokens=2 * rounds,
        accepted_tokens=sum(accepted * number for accepted, number in enumerate(histogram)),
        accepted_histogram=histogram,
        prefill_seconds=0.5,
        draft_seconds=0.25 * seconds,
        verify_seconds=0.5 * seconds,
        other_seconds=0.25 * seconds,
        time_to_first_token_seconds=0.6,
    )


def record(name, speculative, baseline, *, identical=True):
    return PromptRecord(name=name, identical=identical, statistics={BASELINE: baseline, SPECULATIVE: speculative})


def test_figures_are_over_all_prompts_together():
    records = [
        record("one", answer(1.0, histogram=(2, 0, 4)), answer(2.0, histogram=(10,))),
        record("other", answer(3.0, histogram=(1, 3)), answer(4.0, histogram=(10,)), identical=False),
    ]
    found = summarise(records)
    assert (found.num_prompts, found.num_identical) == (2, 1)
    assert found.speedup == pytest.approx(6.0 / 4.0)
    assert found.median_speedup == pytest.approx((2.0 + 4 / 3) / 2)
    assert found.accepted_histogram == (3, 3, 4)
    assert found.accepted_length == pytest.approx(1 + 11 / 10)
    assert found.drafted_per_round == 2
    assert found.shares == {"draft": 0.25, "verify": 0.5, "other": 0.25}


def test_the_quartiles_of_one_prompt_are_its_speedup():
    found = summarise([record("one", answer(1.0, histogram=(5, 5)), answer(3.0, histogram=(10,)))])
    assert found.speedup_quartiles == (found.median_speedup, found.median_speedup)
    assert found.median_speedup == pytest.approx(3.0)


def test_a_prompt_with_an_answer_of_one_token_has_no_speedup_of_its_own():
    short = answer(0.0, new_tokens=1, histogram=())
    found = summarise(
        [record("short", short, short), record("one", answer(1.0, histogram=(10,)), answer(2.0, histogram=(10,)))]
    )
    assert found.median_speedup == pytest.approx(2.0)


def test_answers_of_one_token_alone_are_refused():
    short = answer(0.0, new_tokens=1, histogram=())
    with pytest.raises(InputError, match="no decoding was timed"):
        summarise([record("short", short, short)])
