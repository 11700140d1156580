"""Curves for the tests of what plans with them."""

from __future__ import annotations

import pytest

from dovetail_ort_runtime.planning.time_curves import TimeCurves


@pytest.fixture
def some_curves():
    """Times of two contexts, three numbers of rows, and a drafter."""
    return TimeCurves(
        contexts=(100, 300),
        verify_rows=(1, 2, 4),
        verify_ms=((5.0, 6.0, 8.0), (7.0, 8.0, 12.0)),
        catch_up_rows=(1, 3),
        catch_up_ms=(0.5, 0.7),
        step_ms=0.25,
        branch_ms=0.05,
    )
