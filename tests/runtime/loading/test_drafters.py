"""Which drafter an option stands for."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from dovetail_ort_export.heads.taps import Taps
from dovetail_ort_export.writing.taps import write_taps
from dovetail_ort_runtime import (
    Bundle,
    BundleError,
    ChainShape,
    GenerationOptions,
    InputError,
    LoadOptions,
    PromptLookup,
    TreeShape,
)
from dovetail_ort_runtime.drafting.drafter import NoDrafter
from dovetail_ort_runtime.drafting.drafting_ahead import DraftingAhead
from dovetail_ort_runtime.drafting.feature_drafter import FeatureDrafter
from dovetail_ort_runtime.drafting.language_model_drafter import LanguageModelDrafter
from dovetail_ort_runtime.loading.drafters import make_drafter, wanted_taps
from dovetail_ort_runtime.model import load_model
from dovetail_ort_runtime.planning.planner import Planner

FOUR = ChainShape.fixed(4)
PROMPT = np.random.default_rng(1).integers(3, 384, 9).tolist()


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


class OfFeatures(PromptLookup):
    """Reads features, though it needs none."""

    reads = "drafter_features"


@pytest.mark.parametrize(
    ("drafter", "is_tapped"),
    [
        *(("auto", True), ("dgf", True), (OfFeatures(), True)),
        *(("lookup", False), ("none", False), (PromptLookup(), False)),
    ],
)
def test_the_tapped_target_is_opened_for_a_drafter_that_reads_features(drafter, is_tapped, tiny_tapped_bundle):
    bundle = Bundle(tiny_tapped_bundle)
    taps = bundle.manifest.drafter.taps
    assert wanted_taps(bundle, LoadOptions(drafter=drafter)) == (taps if is_tapped else None)


@pytest.mark.parametrize("name", ["tiny_bundle", "tiny_drafting_bundle"])
def test_a_drafter_of_features_needs_a_bundle_with_taps(name, request):
    directory = request.getfixturevalue(name)
    with pytest.raises(InputError, match="OfFeatures reads drafter_features, and this bundle has none; attach a head"):
        load_model(directory, drafter=OfFeatures())


def test_dgf_asks_for_no_taps_of_a_bundle_without_a_head(tiny_bundle):
    assert wanted_taps(Bundle(tiny_bundle), LoadOptions(drafter="dgf")) is None


def test_the_head_and_the_planner_read_the_features_of_a_tapped_bundle(target_of, tiny_tapped_bundle, made):
    bundle = Bundle(tiny_tapped_bundle)
    target = target_of(tiny_tapped_bundle, taps=bundle.manifest.drafter.taps)
    head = make_drafter(bundle, target, LoadOptions(draft_shape=FOUR))
    planner = make_drafter(bundle, target, LoadOptions())
    assert head.reads == planner.reads == DraftingAhead(head).reads == "drafter_features"
    assert made(draft_shape=FOUR).reads == made().reads == "hidden_states"


@pytest.mark.parametrize("shape", [FOUR, TreeShape(num_rows=9, num_expansions=3, width=4), None])
@pytest.mark.parametrize("name", ["tiny_tapped_bundle", "tiny_tapped_bundle_portable"])
def test_a_head_that_reads_features_drafts_and_answers_are_those_without_it(name, shape, request):
    directory = request.getfixturevalue(name)
    with load_model(directory, drafter="none", threads=1) as baseline:
        expected = baseline.generate(PROMPT, GenerationOptions(max_new_tokens=60))
    with load_model(directory, drafter="dgf", draft_shape=shape, threads=1) as model:
        found = model.generate(PROMPT, GenerationOptions(max_new_tokens=60))
        again = model.generate([*PROMPT, *found.token_ids], GenerationOptions(max_new_tokens=9))
        assert [report.name for report in model.sessions()] == ["target", "drafter"]
    assert found.token_ids == expected.token_ids
    assert again.statistics.cached_tokens > len(PROMPT)
    assert shape is None or found.statistics.drafted_tokens > 0


def test_a_head_of_another_width_than_the_features_is_refused(target_of, tiny_tapped_bundle, tmp_path):
    bundle = Bundle(tiny_tapped_bundle)
    copy = shutil.copytree(tiny_tapped_bundle, tmp_path / "copy")
    target = target_of(copy, taps=write_taps(bundle, copy, Taps(levels=(0, 1)), name_suffix="_levels"))
    with pytest.raises(BundleError, match="the drafter reads 64 features, and the target gives 128; attach the"):
        make_drafter(bundle, target, LoadOptions(draft_shape=FOUR))


def test_a_head_that_reads_features_needs_a_target_with_taps(target_of, tiny_tapped_bundle):
    with pytest.raises(InputError, match="The head reads drafter_features; open the target with the taps"):
        make_drafter(Bundle(tiny_tapped_bundle), target_of(tiny_tapped_bundle), LoadOptions(draft_shape=FOUR))


@pytest.mark.parametrize("name", ["lookup", "none"])
def test_cuda_is_for_a_model_that_drafts(made, name):
    with pytest.raises(InputError, match="only a draft head runs on cuda"):
        made(drafter=name, drafter_device="cuda")
