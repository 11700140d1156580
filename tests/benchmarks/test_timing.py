"""Turns and their ratios."""

from __future__ import annotations

from benchmarks import timing
from benchmarks.timing import in_turn, median_ratio, time_turns


def test_each_round_begins_with_the_next_item():
    assert [in_turn("ABC", number) for number in range(4)] == [list("ABC"), list("BCA"), list("CAB"), list("ABC")]


def test_rounds_before_the_measured_ones_run_and_do_not_count(monkeypatch):
    calls = []
    monkeypatch.setattr(timing, "milliseconds", lambda run: run() or float(len(calls)))
    runs = {name: lambda name=name: calls.append(name) for name in "AB"}
    assert time_turns(runs, 2, unmeasured=1) == {"A": [4.0, 5.0], "B": [3.0, 6.0]}
    assert "".join(calls) == "ABBAAB"


def test_a_ratio_compares_the_same_round():
    assert median_ratio([1.0, 10.0, 9.0], [2.0, 5.0, 3.0]) == 2.0
