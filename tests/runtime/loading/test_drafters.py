"""Which drafter an option stands for."""

from __future__ import annotations

import pytest

from dovetail_ort_runtime import Bundle, ChainShape, InputError, LoadOptions, PromptLookup
from dovetail_ort_runtime.drafting.drafter import NoDrafter
from dovetail_ort_runtime.drafting.feature_drafter import FeatureDrafter
from dovetail_ort_runtime.drafting.language_model_drafter import LanguageModelDrafter
from dovetail_ort_runtime.loading.drafters import make_drafter
from dovetail_ort_runtime.planning.planner import Planner

FOUR = ChainShape.fixed(4)


@pytest.fixture
def made(target_of, tiny_drafting_bundle):
    """`made(bundle=..., **settings)`: the drafter for a bundle's target."""

    def make(bundle=tiny_drafting_bundle, **settings):
        return make_drafter(Bundle(bundle), target_of(bundle), LoadOptions(**settings))

    return make


def test_a_drafter_of_the_callers_own_is_taken_as_it_is(made):
    own = PromptLookup()
    assert made(drafter=own) is own


def test_none_drafts_nothing(made):
    assert isinstance(made(drafter="none"), NoDrafter)


@pytest.mark.parametrize(
    ("name", "copies", "runs_a_model"), [("auto", True, True), ("dgf", False, True), ("lookup", True, False)]
)
def test_a_name_says_who_drafts_for_the_planner(made, name, copies, runs_a_model):
    planner = made(drafter=name)
    assert isinstance(planner, Planner)
    assert (planner.lookup is not None, planner.model is not None) == (copies, runs_a_model)


def test_auto_without_a_head_copies_alone(made, tiny_bundle):
    planner = made(bundle=tiny_bundle)
    assert planner.lookup is not None
    assert planner.model is None


def test_a_fixed_shape_needs_no_planner(made, tiny_bundle):
    head = made(drafter="dgf", draft_shape=FOUR)
    assert isinstance(head, FeatureDrafter)
    assert head.shape == FOUR
    smaller = made(bundle=tiny_bundle, drafter="lm", draft_bundle=tiny_bundle, draft_shape=FOUR)
    assert isinstance(smaller, LanguageModelDrafter)


def test_a_fixed_shape_without_a_model_is_refused(made):
    with pytest.raises(InputError, match="the drafter lookup has none here"):
        made(drafter="lookup", draft_shape=FOUR)


@pytest.mark.parametrize("name", ["lookup", "none"])
def test_cuda_is_for_a_model_that_drafts(made, name):
    with pytest.raises(InputError, match="only a draft head runs on cuda"):
        made(drafter=name, drafter_device="cuda")
