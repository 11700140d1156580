import math
from dataclasses import replace

import pytest

from dovetail_ort_export.agreement import LARGEST_MEAN_KL
from dovetail_ort_export.candidates import choose_int8_format, round_cost
from dovetail_ort_runtime.measurements import Agreement, Int8FormatMeasurements, RowInvariance

BLOCK = Int8FormatMeasurements(
    int8_format="block",
    num_bytes=100,
    row_invariance=RowInvariance(rows=(2, 3), num_tokens=100, identical=True, largest_difference=0.0),
    agreement=Agreement(num_tokens=100, top1=0.97, mean_kl=0.004),
    pass_ms={"1": 7.0, "2": 8.0, "8": 16.0, "64": 80.0},
)
ROW = replace(BLOCK, int8_format="row", pass_ms={"1": 8.0, "2": 8.5, "8": 12.0, "64": 50.0})
DRIFTING = replace(BLOCK.row_invariance, identical=False, largest_difference=0.1)


def poor(mean_kl):
    return Agreement(num_tokens=100, top1=0.8, mean_kl=mean_kl)


def chosen(*formats):
    return choose_int8_format(formats).int8_format


def test_the_cost_is_the_geometric_mean_over_the_passes_of_a_round():
    assert round_cost(BLOCK) == pytest.approx(math.sqrt(8 * 16))  # neither the single row nor the prompt's 64


def test_the_faster_format_is_chosen():
    assert chosen(ROW, BLOCK) == chosen(BLOCK, ROW) == "row"
    slow = replace(ROW, pass_ms={"2": 9.0, "8": 17.0, "64": 1.0})
    assert chosen(slow, BLOCK) == "block"


def test_a_fast_format_that_is_not_row_invariant_loses():
    assert chosen(replace(ROW, row_invariance=DRIFTING), BLOCK) == "block"


def test_a_fast_format_that_is_far_from_the_model_loses():
    assert chosen(replace(ROW, agreement=poor(1.01 * LARGEST_MEAN_KL)), BLOCK) == "block"
    assert chosen(replace(ROW, agreement=poor(0.99 * LARGEST_MEAN_KL)), BLOCK) == "row"


def test_of_formats_that_all_fail_the_faster_one_is_chosen():
    assert chosen(*(replace(one, row_invariance=DRIFTING) for one in (ROW, BLOCK))) == "row"
    assert chosen(*(replace(one, agreement=poor(1.0)) for one in (ROW, BLOCK))) == "row"


def test_a_context_with_room_for_two_rows_only_is_enough_to_choose():
    assert chosen(replace(ROW, pass_ms={"1": 8.0, "2": 8.5}), replace(BLOCK, pass_ms={"1": 7.0, "2": 8.0})) == "block"
