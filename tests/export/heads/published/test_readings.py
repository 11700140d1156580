"""What a configuration leaves open becomes readings, the likeliest one first."""

from __future__ import annotations

import pytest

from dovetail_ort_runtime.errors import SourceError

NUM_LAYERS = 28


@pytest.fixture
def readings(torch, published_heads, tmp_path):
    """`readings(dialect, num_layers, **keys)`: levels, norm before residual and fed-back norm of each reading."""
    from dovetail_ort_export.heads.published import read_published_head

    def find(dialect, num_layers=NUM_LAYERS, **keys):
        head = published_heads.dialect_head(dialect)
        published = read_published_head(published_heads.write_dialect(head, dialect, tmp_path, **keys))
        found = published.readings(num_layers)
        return [(reading.levels, reading.norm_before_residual, reading.feeds_back_norm) for reading in found]

    return find


def test_a_head_without_layer_numbers_reads_eagles_own(readings):
    assert readings("safeailab") == [((2, 14, 25), False, False), ((2, 14, 25), True, False)]


def test_numbers_that_begin_with_1_are_counted_after_the_block_first(readings):
    found = readings("specforge", eagle_config={"eagle_aux_hidden_state_layer_ids": [1, 13, 24]})
    assert [levels for levels, residual, _ in found if not residual] == [(2, 14, 25), (1, 13, 24)]


def test_numbers_that_begin_with_2_are_counted_before_the_block_first(readings):
    found = readings("angelslim", aux_hidden_states_layer_ids=[2, 14, 25])
    assert [levels for levels, residual, _ in found if not residual] == [(2, 14, 25), (3, 15, 26)]


def test_deepspecs_numbers_are_always_counted_after_the_block(readings):
    assert readings("deepspec", target_layer_ids=[2, 8, 14, 20, 27]) == [((3, 9, 15, 21, 28), False, False)]


def test_the_number_before_the_first_block_is_the_embedding(readings):
    assert readings("deepspec", target_layer_ids=[-1, 8, 14, 20, 26])[0][0] == (0, 9, 15, 21, 27)


@pytest.mark.parametrize(("stated", "expected"), [(True, [True]), (False, [False]), (None, [True, False])])
def test_a_speculators_head_that_does_not_say_its_residual_is_tried_both_ways(readings, stated, expected):
    found = readings("speculators", norm_before_residual=stated, eagle_aux_hidden_state_layer_ids=None)
    assert [residual for _, residual, _ in found] == expected


def test_norm_output_means_what_is_fed_back_to_speculators_alone(readings):
    levels = {"eagle_aux_hidden_state_layer_ids": None}
    assert {fed_back for _, _, fed_back in readings("speculators", norm_output=True, **levels)} == {True}
    assert {fed_back for _, _, fed_back in readings("speculators", norm_output=False, **levels)} == {False}
    specforge = readings("specforge", norm_output=True)
    assert [fed_back for _, _, fed_back in specforge][:2] == [False, True]


def test_a_reading_with_levels_that_the_target_lacks_is_left_out(readings):
    found = readings("specforge", 2, eagle_config={"eagle_aux_hidden_state_layer_ids": [0, 1, 2]})
    assert {levels for levels, _, _ in found} == {(0, 1, 2)}


def test_a_head_of_a_deeper_target_is_refused(readings):
    with pytest.raises(SourceError, match="25"):
        readings("angelslim", 20, aux_hidden_states_layer_ids=[2, 14, 25])
    with pytest.raises(SourceError, match="36 blocks for 28"):
        readings("deepspec", num_target_layers=36)


def test_an_eagle_1_head_has_one_reading_without_levels(readings):
    assert readings("eagle") == [((), False, False)]
