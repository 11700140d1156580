"""The rows of a pass that memory holds, and what is told where it holds none."""

import pytest

from dovetail_ort_runtime.errors import UnavailableError
from dovetail_ort_runtime.row_limit import rows_that_fit


def passes_of(largest):
    """`run(rows)` fails beyond the largest number; `run.sizes` are those that were tried."""

    def run(rows):
        run.sizes.append(rows)
        if rows > largest:
            raise UnavailableError(f"memory must hold a pass of {rows} rows")

    run.sizes = []
    return run


@pytest.mark.parametrize(
    ("largest", "rows", "tried"),
    [
        (1000, 64, [80]),
        (80, 64, [80]),
        (79, 32, [80, 40]),
        (9, 4, [80, 40, 20, 10, 5]),
        (2, 1, [80, 40, 20, 10, 5, 3, 2]),
    ],
)
def test_as_many_rows_a_pass_as_fit_with_a_quarter_more(largest, rows, tried):
    run = passes_of(largest)
    assert rows_that_fit(64, 1, 512, run) == rows
    assert run.sizes == tried


def test_fewer_than_the_least_rows_are_refused_with_the_last_reason():
    run = passes_of(9)
    with pytest.raises(UnavailableError, match="a pass of 10 rows"):
        rows_that_fit(64, 8, 512, run)


def test_no_pass_is_longer_than_the_cache():
    run = passes_of(1000)
    assert rows_that_fit(64, 1, 16, run) == 64
    assert run.sizes == [16]
