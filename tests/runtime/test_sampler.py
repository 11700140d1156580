"""Distributions equal those of transformers, and draws follow them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from dovetail_ort_runtime.errors import BundleError, InputError
from dovetail_ort_runtime.options import SamplingOptions
from dovetail_ort_runtime.sampler import Sampler

VOCABULARY = 700

OPTIONS = [
    {"temperature": 1.0},
    {"temperature": 0.3, "top_k": 20},
    {"temperature": 1.7, "top_k": VOCABULARY},
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 0.8, "top_p": 1e-9},
    {"temperature": 9.0, "top_p": 0.999},
    {"temperature": 0.8, "min_p": 0.05},
    {"temperature": 0.8, "min_p": 1.0},
    {"temperature": 0.8, "top_k": 40, "top_p": 0.7, "min_p": 0.02},
    {"temperature": 1.2, "top_k": 40, "top_p": 0.95, "min_p": 0.02, "repetition_penalty": 1.3},
    {"temperature": 1.2, "top_p": 0.8, "repetition_penalty": 0.7},
]

# Few distinct values make ties; quarters are exact in float32.
tied_logits = st.lists(st.integers(-8, 8), min_size=1, max_size=60).map(lambda row: np.array(row, np.float32) / 4)


def random_logits(seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=VOCABULARY) * 3).astype(np.float32)


def marked(token_ids: list[int]) -> np.ndarray:
    seen = np.zeros(VOCABULARY, dtype=bool)
    seen[token_ids] = True
    return seen


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_distribution_equals_the_processors_of_transformers(options):
    torch = pytest.importorskip("torch", reason="transformers, the reference, needs torch")
    reference = pytest.importorskip("transformers", reason="transformers is the reference")
    history = [3, 5, 5, 80, 699]
    steps = [reference.TemperatureLogitsWarper(options["temperature"])]
    if "top_k" in options:
        steps.append(reference.TopKLogitsWarper(options["top_k"]))
    if "top_p" in options:
        steps.append(reference.TopPLogitsWarper(options["top_p"]))
    if "min_p" in options:
        steps.append(reference.MinPLogitsWarper(options["min_p"]))
    for seed in range(5):
        logits = random_logits(seed)
        input_ids, scores = torch.tensor([history]), torch.from_numpy(logits)[None]
        if "repetition_penalty" in options:
            scores = reference.RepetitionPenaltyLogitsProcessor(options["repetition_penalty"])(input_ids, scores)
        scores = scores.double()
        for step in steps:
            scores = step(input_ids, scores)
        expected = scores.softmax(-1)[0].numpy()
        actual = Sampler(SamplingOptions(**options)).distribution(logits, marked(history))
        assert np.array_equal(actual > 0, expected > 0)
        # Both sides compute in float64 after the float32 penalty; 700 terms of rounding stay far below this.
        np.testing.assert_allclose(actual, expected, rtol=1e-12)


@given(tied_logits, st.integers(1, 70))
def test_top_k_keeps_exactly_k_and_ties_go_to_the_lower_id(logits, top_k):
    kept = Sampler(SamplingOptions(temperature=1.0, top_k=top_k)).distribution(logits) > 0
    expected = np.argsort(-logits, kind="stable")[:top_k]
    assert set(np.flatnonzero(kept)) == set(expected)


@given(tied_logits, st.floats(0.01, 0.99))
def test_top_p_keeps_the_smallest_set_that_reaches_it_and_ties_go_to_the_lower_id(logits, top_p):
    probabilities = Sampler(SamplingOptions(temperature=1.0)).distribution(logits)
    kept = set(np.flatnonzero(Sampler(SamplingOptions(temperature=1.0, top_p=top_p)).distribution(logits)))
    order = np.argsort(-logits, kind="stable")
    assert kept == set(order[: len(kept)])
    # Sums of at most 60 probabilities, added in another order, differ by less than this.
    assert probabilities[order[: len(kept)]].sum() >= top_p - 1e-12
    assert probabilities[order[: len(kept) - 1]].sum() < top_p + 1e-12


@given(tied_logits)
def test_greedy_takes_the_highest_logit_and_ties_go_to_the_lower_id(logits):
    expected = min(np.flatnonzero(logits == logits.max()))
    assert Sampler(SamplingOptions()).choose(logits) == expected


def test_top_k_of_one_equals_greedy():
    for seed in range(20):
        logits = random_logits(seed)
        chosen = Sampler(SamplingOptions(temperature=2.0, top_k=1)).choose(logits)
        assert chosen == Sampler(SamplingOptions()).choose(logits)


def test_choices_follow_the_distribution():
    """One test at 1e-3 with a fixed seed."""
    logits = np.array([0.1, 1.0, -0.5, 0.7, 2.0, -np.inf], np.float32)
    sampler = Sampler(SamplingOptions(temperature=0.9, seed=11))
    counts = np.bincount([sampler.choose(logits) for _ in range(10_000)], minlength=6)
    expected = sampler.distribution(logits) * 10_000
    assert counts[5] == 0
    assert chisquare(counts[:5], expected[:5]).pvalue > 1e-3


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_sampled_token_costs_one_uniform(options):
    sampler = Sampler(SamplingOptions(**options, seed=5))
    for _ in range(7):
        sampler.choose(random_logits(0), marked([1, 2]))
    assert sampler.uniform() == np.random.default_rng(5).random(8)[7]


def test_greedy_costs_no_uniform():
    sampler = Sampler(SamplingOptions(seed=5))
    sampler.choose(random_logits(0))
    assert sampler.uniform() == np.random.default_rng(5).random()


def test_a_draw_never_hits_a_zero_weight():
    sampler = Sampler(SamplingOptions(seed=0))
    weights = np.array([0.0, 0.0, 1e-300, 0.0, 3e-300, 0.0])
    assert {sampler.draw(weights) for _ in range(200)} == {2, 4}


@pytest.mark.parametrize("uniform", [0.0, 1 - 2.0**-53])
@pytest.mark.parametrize("total", [1.0, 1.0 + 2.0**-52, 1.5, 2.0 - 2.0**-52, 3e-300])
def test_the_extreme_uniforms_stay_inside(monkeypatch, uniform, total):
    sampler = Sampler(SamplingOptions())
    monkeypatch.setattr(sampler, "uniform", lambda: uniform)
    assert sampler.draw(np.array([0.0, total, 0.0])) == 1


def test_the_penalty_leaves_the_logits_it_is_given():
    logits = random_logits(0)
    before = logits.copy()
    Sampler(SamplingOptions(repetition_penalty=1.5)).choose(logits, marked([0, 1, 2]))
    assert np.array_equal(logits, before)


def test_the_penalty_makes_greedy_leave_a_seen_token():
    logits = np.array([3.0, 2.9, -1.0], np.float32)
    sampler = Sampler(SamplingOptions(repetition_penalty=1.1))
    assert sampler.choose(logits, np.array([False, False, False])) == 0
    assert sampler.choose(logits, np.array([True, False, False])) == 1


def test_a_penalty_without_seen_tokens_is_refused():
    with pytest.raises(InputError, match="a repetition penalty needs the array seen"):
        Sampler(SamplingOptions(repetition_penalty=1.1)).choose(random_logits(0))


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7}, {"temperature": 0.7, "top_k": 5}], ids=str)
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 17, 350, VOCABULARY - 1])
def test_a_logit_that_is_no_number_or_infinite_is_refused(options, value, place):
    logits = random_logits(0)
    logits[place] = value
    with pytest.raises(BundleError, match=f"the highest logit must be finite, got {value} for token {place};"):
        Sampler(SamplingOptions(**options)).choose(logits)


def test_logits_that_are_all_masked_are_refused():
    with pytest.raises(BundleError, match="got -inf for token 0"):
        Sampler(SamplingOptions()).choose(np.full(8, -np.inf, np.float32))
