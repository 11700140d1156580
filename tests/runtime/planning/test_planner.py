"""The planner on texts and times that are known: who drafts, how much, and that it costs nothing where nothing pays."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.decoding.decoder import Decoder
from dovetail_ort_runtime.drafting.drafter import ModelDrafter, NoDrafter
from dovetail_ort_runtime.drafting.prompt_lookup import PromptLookup
from dovetail_ort_runtime.drafting.proposal import ROOT, Proposal
from dovetail_ort_runtime.drafting.shapes import ChainShape, TreeShape
from dovetail_ort_runtime.loading.drafters import make_drafter
from dovetail_ort_runtime.loading.load_options import LoadOptions
from dovetail_ort_runtime.options import GenerationOptions, SamplingOptions
from dovetail_ort_runtime.planning.planner import Planner
from dovetail_ort_runtime.planning.time_curves import TimeCurves

GREEDY = SamplingOptions()


def curves(row_ms, first_ms=0.3, step_ms=0.25, least_rows=1):
    """A target whose forward takes 7 ms and so much more for each row after the first."""
    rows = (least_rows, 4, 32)
    return TimeCurves(
        contexts=(128,),
        verify_rows=rows,
        verify_ms=(tuple(7 + row_ms * (n - 1) for n in rows),),
        catch_up_rows=(1, 2),
        catch_up_ms=(first_ms, first_ms),
        step_ms=step_ms,
    )


@pytest.fixture
def model_of(drafters):
    """`model_of(text, right, promised=right)`: drafts the text, each token right with a chance, and promises one."""

    class Model(drafters.Oracle, ModelDrafter):
        def __init__(self, text, right, promised=None):
            super().__init__(text, wrong=1 - right)
            self.promised = right if promised is None else promised
            self.rounds = 0

        def draft(self, next_token_id, max_draft_tokens, shape):
            self.rounds += 1
            length = 0
            for least in shape.least_probabilities[:max_draft_tokens]:
                if self.promised ** (length + 1) < least:
                    break
                length += 1
            token_ids = self.chain(length)
            return Proposal.chain(token_ids, confidences=[self.promised ** (n + 1) for n in range(len(token_ids))])

    return Model


def decode(planner, text, prompt_length=20, costs=None):
    """Replay a text; the proposals' lengths and, by `costs`, the milliseconds of its rounds."""
    text = np.asarray(text)
    planner.rewind(0)
    planner.begin(GREEDY)
    planner.observe(text[:prompt_length], np.zeros((prompt_length, 4), np.float32))
    place, lengths, ms = prompt_length, [], 0.0
    while place < len(text) - 1:
        proposal = planner.propose(int(text[place]), min(12, len(text) - place - 1))
        accepted = 0
        while accepted < len(proposal) and proposal.token_ids[accepted] == text[place + 1 + accepted]:
            accepted += 1
        end = min(place + 1 + accepted, len(text) - 1)
        planner.observe(text[place:end], np.zeros((end - place, 4), np.float32))
        lengths.append(len(proposal))
        if costs is not None:
            ms += costs.verify(1 + len(proposal), place)
        place = end
    return lengths, ms


@pytest.fixture
def noise():
    """A text in which nothing comes back."""
    return np.random.default_rng(0).permutation(3000)


def test_sure_tokens_are_drafted_far_and_unsure_ones_are_not(model_of, noise):
    mean = {}
    for right in (0.3, 0.6, 0.9):
        lengths, _ = decode(Planner(curves(0.55), model=model_of(noise, right)), noise)
        mean[right] = np.mean(lengths[50:])
    assert 1 <= mean[0.3] < 1.6 < mean[0.6] < 4 < 6 < mean[0.9]


def test_expensive_rows_make_short_drafts(model_of, noise):
    means = [np.mean(decode(Planner(curves(ms), model=model_of(noise, 0.8)), noise)[0][50:]) for ms in (0.1, 0.7, 3.0)]
    assert means[0] > 1.5 * means[1] > 2 * means[2]


def test_promises_that_are_not_kept_are_believed_less(model_of, noise):
    boasting, _ = decode(Planner(curves(0.7), model=model_of(noise, 0.4, promised=0.95)), noise)
    assert np.mean(boasting[:5]) > 6
    assert np.mean(boasting[100:]) < 3


def test_a_model_that_is_always_wrong_costs_less_than_three_percent(model_of, noise):
    costs = curves(0.55)
    model = model_of(noise, 0.0, promised=0.9)
    _, verify_ms = decode(Planner(costs, model=model, lookup=PromptLookup()), noise, costs=costs)
    baseline_ms = (len(noise) - 21) * costs.verify(1, 0)
    draft_ms = model.rounds * (costs.draft(1, 2) + 0.1)
    assert model.rounds < 80
    assert verify_ms + draft_ms < 1.03 * baseline_ms


def test_a_model_that_becomes_right_is_found_out(model_of, noise):
    model = model_of(noise, 0.0)
    planner = Planner(curves(0.55), model=model)
    model.promised = 0.9
    decode(planner, noise[:1500])
    model.wrong, model.text = 0.1, noise.tolist()
    lengths, _ = decode(planner, noise)
    assert len(lengths) < 800  # 2979 tokens
    assert np.mean(lengths[-200:]) > 4


def test_long_matches_are_copied_and_the_model_drafts_elsewhere(model_of):
    generator = np.random.default_rng(1)
    passage = generator.integers(0, 380, 60)
    text = np.concatenate([piece for _ in range(15) for piece in (passage, generator.integers(0, 380, 15))])
    model = model_of(text, 0.5)
    planner = Planner(curves(0.55), model=model, lookup=PromptLookup())
    lengths, _ = decode(planner, text, prompt_length=60)
    assert sum(length > 8 for length in lengths) > 30  # copies of the passage
    assert 40 < model.rounds < 0.8 * len(lengths)
    alone, _ = decode(Planner(curves(0.55), model=model_of(text, 0.5)), text, prompt_length=60)
    assert len(lengths) < 0.7 * len(alone)


def test_copies_that_fail_are_no_longer_long(drafters):
    generator = np.random.default_rng(2)
    passage = generator.integers(100, 380, 8)
    # Eight tokens return, and never what followed them.
    text = np.concatenate(
        [piece for start in range(200) for piece in (passage, [start % 100, *generator.permutation(90)])]
    )
    lengths, _ = decode(Planner(curves(0.55), lookup=PromptLookup()), text, prompt_length=99)
    assert max(lengths[:100]) >= 8
    assert np.mean(np.array(lengths[-1000:]) > 3) < 0.05


@pytest.mark.parametrize("right", [0.2, 0.8])
def test_answers_are_those_of_the_baseline(model_of, target_of, tiny_bundle, right):
    prompt = np.random.default_rng(1).integers(3, 384, 9).tolist()
    baseline = Decoder(target_of(tiny_bundle), NoDrafter())
    baseline.begin(prompt, GREEDY)
    expected = [baseline.root, *(baseline.next_round(0).token_ids[0] for _ in range(99))]
    planner = Planner(curves(0.5), model=model_of([*prompt, *expected], right), lookup=PromptLookup())
    decoder = Decoder(target_of(tiny_bundle), planner)
    for _ in range(2):  # what was learned stays, what was read does not
        decoder.begin(prompt, GREEDY)
        tokens = [decoder.root]
        while len(tokens) < 100:
            tokens += decoder.next_round(min(12, 99 - len(tokens))).token_ids
        assert tokens == expected
        decoder.rewind(0)


TREE = Proposal(
    token_ids=np.arange(8),
    parents=np.array([ROOT, 0, 1, 2, ROOT, ROOT, 0, 4]),
    confidences=[0.5, 0.4, 0.3, 0.06, 0.25, 0.15, 0.08, 0.05],
)


@pytest.fixture
def tree_model(drafters):
    """Drafts `TREE`, or its first path, and notes the shapes that it was asked for."""

    class Model(drafters.Recorder, ModelDrafter):
        drafts_trees = True

        def __init__(self):
            super().__init__()
            self.shapes = []

        def draft(self, next_token_id, max_draft_tokens, shape):
            self.shapes.append(shape)
            return TREE if isinstance(shape, TreeShape) else TREE.first_path()

    return Model()


def begun(planner):
    planner.begin(GREEDY)
    planner.observe(np.array([5, 6, 7]), np.zeros((3, 4), np.float32))
    return planner


@pytest.mark.parametrize("row_ms", [0.01, 0.4, 0.6, 1.2, 2.4, 3.4])
def test_the_tree_is_the_one_with_the_most_expected_tokens_a_millisecond(tree_model, row_ms):
    proposal = begun(Planner(curves(row_ms), model=tree_model, keeps_branches=True)).propose(8, 12)
    rate = 1 / 7  # without speculation, before anything is learned
    likeliest = sorted(TREE.confidences, reverse=True)
    gains = [sum(likeliest[:number]) - rate * row_ms * number for number in range(9)]
    assert sorted(proposal.confidences, reverse=True) == likeliest[: gains.index(max(gains))]


def test_trees_grow_as_deep_as_chains_would(tree_model):
    planner = begun(Planner(curves(0.6), model=tree_model, keeps_branches=True))
    planner.propose(8, 12)
    (tree,) = tree_model.shapes
    begun(Planner(curves(0.6), model=tree_model)).propose(8, 12)
    chain = tree_model.shapes[1]
    assert isinstance(chain, ChainShape)
    assert (tree.num_rows, tree.num_expansions) == (13, 11)
    assert tree.least_probabilities == chain.least_probabilities[1:]


def test_where_only_a_first_path_is_verified_no_tree_is_drafted(tree_model):
    planner = begun(Planner(curves(0.01), model=tree_model))
    assert planner.propose(8, 12).is_chain
    assert isinstance(tree_model.shapes[0], ChainShape)


def test_the_row_that_a_forward_is_padded_with_costs_nothing(tree_model):
    one_row, two_rows = (begun(Planner(curves(3.4, least_rows=number), lookup=PromptLookup())) for number in (1, 2))
    # After a match of one token: a row of 3.4 ms at a rate of 1 / 7 asks for 0.49, a copy is right with 0.35.
    assert not len(one_row.propose(5, 4))
    assert len(two_rows.propose(5, 4)) == 1


def test_branches_that_keep_none_of_their_promises_are_left_out(tree_model):
    planner = begun(Planner(curves(0.6), model=tree_model, keeps_branches=True))
    first = len(planner.propose(8, 12))
    for _ in range(5):
        planner.observe(np.array([8]), np.zeros((1, 4), np.float32))
        last = len(planner.propose(8, 12))
    assert last < first


def test_trees_change_no_answer(load, target_of, tiny_drafting_bundle):
    options = GenerationOptions(max_new_tokens=60, sampling=GREEDY)
    baseline = load(bundle=tiny_drafting_bundle, drafter="none").generate([5, 9], options)
    target = target_of(tiny_drafting_bundle)
    model = make_drafter(Bundle(tiny_drafting_bundle), target, LoadOptions(drafter="dgf")).model
    decoder = Decoder(target, Planner(curves(0.001), model=model, keeps_branches=target.keeps_branches))
    decoder.begin([5, 9], GREEDY)
    tokens, drafted = [decoder.root], 0
    while len(tokens) < 60:
        result = decoder.next_round(12)
        tokens += result.token_ids
        drafted = max(drafted, result.num_drafted)
    assert tokens[:60] == list(baseline.token_ids)[:60]
    assert drafted > 6


def test_a_drafter_that_drafts_no_trees_drafts_chains_for_any_target(model_of, noise):
    model = model_of(noise, 1.0)
    assert begun(Planner(curves(0.01), model=model, keeps_branches=True)).propose(8, 12).is_chain


def test_without_a_model_and_a_match_nothing_is_proposed(drafters):
    planner = Planner(curves(0.5), lookup=PromptLookup())
    planner.begin(GREEDY)
    planner.observe(np.array([5, 6, 7]), np.zeros((3, 4), np.float32))
    assert not len(planner.propose(8, 4))
    assert len(planner.propose(5, 4))
    assert not len(planner.propose(5, 0))


@pytest.mark.parametrize("max_context", [2, 16, 40, 512])
def test_a_model_drafts_in_a_context_of_any_length(load, tiny_drafting_bundle, max_context):
    model = load(bundle=tiny_drafting_bundle, max_context=max_context)
    baseline = load(bundle=tiny_drafting_bundle, max_context=max_context, drafter="none")
    options = GenerationOptions(max_new_tokens=60, sampling=GREEDY)
    assert model.generate([5], options).token_ids == baseline.generate([5], options).token_ids
