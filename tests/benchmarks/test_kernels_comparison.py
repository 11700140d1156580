"""The comparison with an older commit: its journal, its turns, its figures; and a worker over a tiny bundle."""

from __future__ import annotations

import sys

import pytest

from benchmarks.kernels_comparison.forwards import ROWS, Forwards
from benchmarks.kernels_comparison.journal import Journal
from benchmarks.kernels_comparison.sides import AFTER, BEFORE, Side, SideProcess
from benchmarks.kernels_comparison.suites import Suite
from benchmarks.kernels_comparison.worker import PLACES, find


def test_a_journal_keeps_whole_steps_of_the_same_measurement(tmp_path):
    path = tmp_path / "journals" / "part.jsonl"
    Journal(path, {"bundle": 1}).add("first", [1.5])
    with path.open("a") as file:
        file.write('["second", [2.')  # stopped while it wrote
    assert Journal(path, {"bundle": 1}).steps == {"first": [1.5]}
    assert Journal(path, {"bundle": 2}).steps == {}
    assert Journal(path, {"bundle": 1}).steps == {}


def test_ratios_are_of_the_rounds_and_then_of_the_processes():
    def process(before: list[float], after: list[float]) -> dict:
        ms = {BEFORE: {str(rows): before for rows in ROWS}, AFTER: {str(rows): after for rows in ROWS}}
        opened = {AFTER: {"threads": 2, "weight_bytes": 100_000_000}}
        return {"opened": opened, "ms": ms, "read_gigabytes_per_second": [20.0] * 3}

    found = Forwards().summary([process([10, 20, 40], [5, 10, 10]), process([8, 8, 8], [2, 2, 2])])
    assert found["rows"]["1"]["after_over_before"]["processes"] == [0.5, 0.25]
    # 100 MB in 10 ms are 10 GB/s, in 2 ms 50.
    assert found["rows"]["1"]["share_of_read_pace"]["processes"] == [0.5, 2.5]


def test_a_prompt_counts_with_the_median_of_its_runs():
    def answer(name: str, seconds: float) -> dict:
        modes = {
            "baseline": {"tokens": 10, "seconds": 1.0, "rounds": 10},
            "speculative": {"tokens": 10, "seconds": seconds, "rounds": 5},
            "identical": True,
        }
        return {"name": name, "sides": {BEFORE: modes, AFTER: modes}}

    runs = [[answer("a", 0.5), answer("b", slow)] for slow in (0.8, 4.0, 1.0)]
    found = Suite("humaneval").summary(runs)
    assert found["slowest_prompt"] == {"name": "b", "speedup": 1.0}
    assert (found["prompts"], found["answers"]) == (2, 6)


@pytest.fixture
def worker(tiny_drafting_bundle):
    process = SideProcess(Side(interpreter=sys.executable, bundle=tiny_drafting_bundle))
    yield process
    process.close()


def test_a_worker_runs_forwards_drafts_and_answers(worker):
    worker.ask("open_target", max_context=40, num_past=16)
    assert worker.ask("forward", rows=4)["ms"] > 0
    assert worker.ask("read_weights")["bytes"] > 0
    worker.ask("open_drafter", max_context=40, num_past=16)
    assert worker.ask("draft", num_past=16, tokens=4)["ms"] > 0
    worker.ask("load", tune=False)
    answers = [worker.ask("generate", prompt=[5, 6, 7], max_new_tokens=6, speculative=mode) for mode in (False, True)]
    assert answers[0]["token_ids"] == answers[1]["token_ids"]


def test_a_worker_finds_all_that_it_uses_where_it_is_today():
    for name, (today, _) in PLACES.items():
        module, _, attribute = today.partition(":")
        found = find(name)
        assert found.__module__ == module, name
        assert found.__qualname__ == attribute


def test_a_worker_that_fails_says_which_request(worker):
    with pytest.raises(RuntimeError, match="ended with status 1 while it had to answer 'forward'"):
        worker.ask("forward", rows=1)  # nothing is open
