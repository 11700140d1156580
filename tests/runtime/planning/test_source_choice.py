"""Who drafts, from the gains of both sources alone."""

from __future__ import annotations

import itertools

import pytest

from dovetail_ort_runtime.planning.source_choice import SourceChoice


def chosen(choice, model_gain, copy_gain, rounds, num_accepted=0):
    """The sources of some rounds, in which the model's drafts have so many tokens accepted."""
    sources = []
    for _ in range(rounds):
        sources.append(choice.choose(model_gain, copy_gain))
        if sources[-1] == "model":
            choice.observe_model(num_accepted)
    return sources


@pytest.mark.parametrize(("copy_gain", "source"), [(0.0, "none"), (0.7, "lookup")])
def test_without_a_model_a_copy_is_taken_where_it_pays(copy_gain, source):
    assert chosen(SourceChoice(), None, copy_gain, 50) == [source] * 50


def test_a_model_that_gains_drafts_wherever_no_copy_pays():
    assert chosen(SourceChoice(), 0.1, 0.0, 50) == ["model"] * 50


@pytest.mark.parametrize(("model_gain", "better", "other"), [(0.9, "model", "lookup"), (0.2, "lookup", "model")])
def test_of_two_that_gain_the_better_one_drafts_and_the_other_in_one_round_of_24(model_gain, better, other):
    sources = chosen(SourceChoice(), model_gain, 0.5, 48)
    assert [index for index, source in enumerate(sources) if source == other] == [23, 47]
    assert sources.count(better) == 46


def pauses(sources):
    """Rounds from one draft of the model to its next."""
    drafted = [index for index, source in enumerate(sources) if source == "model"]
    return [later - earlier for earlier, later in itertools.pairwise(drafted)]


@pytest.mark.parametrize(("copy_gain", "instead"), [(0.0, "none"), (0.7, "lookup")])
def test_a_model_that_loses_is_tried_after_pauses_that_double(copy_gain, instead):
    sources = chosen(SourceChoice(), -0.1, copy_gain, 600)
    assert sources.index("model") == 7
    assert pauses(sources) == [16, 32, 64, 128, 128, 128]
    assert set(sources) == {instead, "model"}


def test_an_accepted_token_makes_the_next_pause_the_shortest_again():
    choice = SourceChoice()
    chosen(choice, -0.1, 0.0, 300)
    choice.observe_model(1)
    assert pauses(chosen(choice, -0.1, 0.0, 32, num_accepted=1)) == [8, 8, 8]


def test_a_model_that_gains_again_drafts_at_once():
    choice = SourceChoice()
    chosen(choice, -0.1, 0.0, 300)
    assert choice.choose(0.1, 0.0) == "model"
