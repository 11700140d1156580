"""The projection for the paper's size: published tokens a round, measured times."""

from __future__ import annotations

import pytest

from benchmarks.paper_size import __main__ as paper_size
from benchmarks.paper_size.projection import PUBLISHED, projected


def test_a_published_length_belongs_to_the_rows_that_verify_it():
    assert {name: found.rows for name, found in PUBLISHED.items()} == {
        "chain 3": 4,
        "chain 5": 6,
        "chain 7": 8,
        "tree 16/7/10": 16,
    }
    assert all(found.rows in paper_size.ROWS for found in PUBLISHED.values())


def test_the_speedup_is_tokens_by_the_time_of_a_round_over_that_of_one_row():
    verify_ms = {1: 100.0, 8: 110.0}
    found = projected("chain 7", verify_ms, {1: {"chain 7": 90.0}, 5: {"chain 7": 390.0}})
    assert found["speedup"]["no time for drafting"] == pytest.approx(4.91 * 100 / 110, abs=1e-3)
    assert found["speedup"]["one block on this CPU"] == pytest.approx(4.91 * 100 / 200, abs=1e-3)
    assert found["speedup"]["five blocks on this CPU"] == pytest.approx(4.91 * 100 / 500, abs=1e-3)


def test_a_share_of_the_pace_compares_bytes_a_second_of_the_same_round():
    forwards = {1: [20.0, 10.0, 10.0], 4: [20.0, 10.0, 10.0]}
    sums = {1: [10.0, 5.0, 5.0], 4: [10.0, 5.0, 5.0]}
    record = paper_size._verify_record([paper_size._Measured(forwards, sums, 100)], 4, 180)
    # 180 bytes in twice the time of 100.
    assert record["of_read_bandwidth"] == pytest.approx(0.9)
    assert record["over_one_row"] == 1
