"""Positions of the witness: few, all over the context, and within it."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail_ort_export.checking.witness import witness_positions


@pytest.mark.parametrize("max_context", [*range(1, 40), 512, 4096, 32768, 131072])
def test_positions_ascend_inside_the_context(max_context):
    positions = witness_positions(max_context)
    assert positions[0] == 0
    assert positions[-1] < max_context
    assert np.all(np.diff(positions) > 0)
    assert len(positions) >= min(8, max_context)


@pytest.mark.parametrize("max_context", [64, 512, 4096, 131072])
def test_three_groups_stand_far_from_each_other(max_context):
    gaps = np.diff(witness_positions(max_context))
    assert np.count_nonzero(gaps > 1) == 2
    assert np.sort(gaps)[-2] >= max_context // 5 or max_context > 4608


def test_the_end_of_a_short_context_is_a_position():
    assert witness_positions(512)[-1] == 511


def test_a_window_of_4096_is_seen_and_nothing_stands_where_rounding_dominates():
    positions = witness_positions(131072)
    assert 4096 < positions[-1] < 8000
