"""Acceptance on a Markov target: the next token's logits depend on the token before it alone, so every distribution
that speculation must leave as it is can be written down.

False alarms: every table of counts is tested at ALPHA / COMPARISONS, so with correct code and fresh seeds less than
one run of this file in 1 / ALPHA = 1,000 would fail. The seeds are fixed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import chi2

from dovetail_ort_runtime.decoding import acceptance
from dovetail_ort_runtime.decoding.acceptance import Acceptance, accept
from dovetail_ort_runtime.drafting.prompt_lookup import PromptLookup
from dovetail_ort_runtime.drafting.proposal import ROOT, Proposal
from dovetail_ort_runtime.options import SamplingOptions
from dovetail_ort_runtime.sampler import Sampler

ALPHA = 1e-3
COMPARISONS = 4 * 6 + 1  # proposers, tables of each; the siblings
SEQUENCES = 6_000
SEQUENCES_WITH_A_MISTAKE = 2_000  # enough to see one
VOCABULARY = 6
START = 5

Proposer = Callable[[int, np.random.Generator], Proposal]
Rule = Callable[[Proposal, np.ndarray, Sampler], Acceptance]

_tables = np.random.default_rng(32)
TARGET = (_tables.normal(size=(VOCABULARY, VOCABULARY)) * 1.2).astype(np.float32)
# The drafter is right often enough to reach the third token of a round, and puts mass where the target has none.
DRAFTER = (TARGET + _tables.normal(size=TARGET.shape) * 0.7).astype(np.float32)
DRAFTER_PROBABILITIES = softmax(DRAFTER, axis=1)
BRANCHES = (ROOT, 0, 0, ROOT, 3)


def fixed_chain(root: int, generator: np.random.Generator) -> Proposal:
    tokens = [root]
    for _ in range(3):
        tokens.append(int(DRAFTER[tokens[-1]].argmax()))
    return Proposal.chain(tokens[1:])


def fixed_tree(root: int, generator: np.random.Generator) -> Proposal:
    """The drafter's two best below the root and below the first of them, its best below the second."""
    ranks = (0, 0, 1, 1, 0)
    tokens: list[int] = []
    for parent, rank in zip(BRANCHES, ranks, strict=True):
        before = root if parent == ROOT else tokens[parent]
        tokens.append(int(np.argsort(-DRAFTER[before])[rank]))
    return Proposal(token_ids=np.array(tokens), parents=np.array(BRANCHES))


def sampled(root: int, generator: np.random.Generator, parents: tuple[int, ...]) -> Proposal:
    tokens: list[int] = []
    rows = []
    for parent in parents:
        rows.append(DRAFTER_PROBABILITIES[root if parent == ROOT else tokens[parent]])
        tokens.append(int(np.searchsorted(np.cumsum(rows[-1]), generator.random() * 0.999999)))
    return Proposal(token_ids=np.array(tokens), parents=np.array(parents), probabilities=np.array(rows))


def sampled_chain(root: int, generator: np.random.Generator) -> Proposal:
    return sampled(root, generator, (ROOT, 0, 1))


def sampled_tree(root: int, generator: np.random.Generator) -> Proposal:
    return sampled(root, generator, BRANCHES)


FIXED = [fixed_chain, fixed_tree]
SAMPLED = [sampled_chain, sampled_tree]


def take_all(proposal: Proposal, logits: np.ndarray, sampler: Sampler) -> Acceptance:
    """A mistake: the first path of the proposal is accepted unseen."""
    rows, node = [0], ROOT
    while children := proposal.children(node):
        node = children[0]
        rows.append(node + 1)
    tokens = [int(proposal.token_ids[row - 1]) for row in rows[1:]]
    return Acceptance(rows=tuple(rows), token_ids=(*tokens, sampler.choose(logits[rows[-1]])))


def redraw(proposal: Proposal, logits: np.ndarray, sampler: Sampler) -> Acceptance:
    """A mistake: a rejected draft token keeps its chance in the second draw."""
    decided = accept(proposal, logits, sampler)
    token = sampler.choose(logits[decided.rows[-1]])
    return Acceptance(rows=decided.rows, token_ids=(*decided.token_ids[:-1], token))


def leaf_without_truncation(proposal: Proposal, logits: np.ndarray, sampler: Sampler) -> Acceptance:
    """A mistake that the reference code of the paper makes."""
    decided = accept(proposal, logits, sampler)
    if proposal.children(decided.rows[-1] - 1):
        return decided
    token = sampler.draw(softmax(logits[decided.rows[-1]].astype(np.float64) / sampler.options.temperature))
    return Acceptance(rows=decided.rows, token_ids=(*decided.token_ids[:-1], token))


def table_p_value(observed: np.ndarray, probabilities: np.ndarray) -> float:
    """Pearson's statistic over rows with at least 5 expected in each possible cell; 0 if the impossible happens."""
    if np.any(observed[probabilities == 0]):
        return 0.0
    expected = observed.sum(axis=1, keepdims=True) * probabilities
    tested = np.where(probabilities > 0, expected, np.inf).min(axis=1) >= 5
    assert tested.any()
    cells = (probabilities > 0) & tested[:, None]
    statistic = ((observed[cells] - expected[cells]) ** 2 / expected[cells]).sum()
    return float(chi2.sf(statistic, cells.sum() - tested.sum()))


def smallest_p_value(propose: Proposer, sequences: int, rule: Rule = accept) -> float:
    """Speculative sequences of three tokens or more against the Markov chain they must follow.

    Tables: what follows what at the first, second, third and fourth place of a round; the first and second token of
    a sequence together; the third.
    """
    options = SamplingOptions(temperature=0.8, top_k=5, top_p=0.92, seed=3)
    sampler, generator = Sampler(options), np.random.default_rng(4)
    in_round = np.zeros((4, VOCABULARY, VOCABULARY), dtype=int)  # place in the first round, token before, token
    in_sequence = np.zeros((VOCABULARY,) * 3, dtype=int)
    for _ in range(sequences):
        tokens = [START]
        while len(tokens) < 4:
            proposal = propose(tokens[-1], generator)
            decided = rule(proposal, TARGET[[tokens[-1], *proposal.token_ids]], sampler).token_ids
            if len(tokens) == 1:
                for place, step in enumerate(zip((START, *decided), decided, strict=False)):
                    in_round[(place, *step)] += 1
            tokens += decided
        in_sequence[tuple(tokens[1:4])] += 1
    chain = np.array([sampler.distribution(row) for row in TARGET])
    first_two = chain[START][:, None] * chain
    third = chain[START] @ chain @ chain
    tables = [(place, chain) for place in in_round if place.any()]
    tables.append((in_sequence.sum(2).reshape(1, -1), first_two.reshape(1, -1)))
    tables.append((in_sequence.sum((0, 1))[None], third[None]))
    return min(table_p_value(observed, probabilities) for observed, probabilities in tables)


@pytest.mark.parametrize("propose", FIXED + SAMPLED)
def test_speculation_leaves_the_distribution_as_it_is(propose):
    assert smallest_p_value(propose, SEQUENCES) > ALPHA / COMPARISONS


@pytest.mark.parametrize("propose", FIXED + SAMPLED)
@pytest.mark.parametrize("rule", [take_all, redraw, leaf_without_truncation])
def test_the_statistic_detects_a_wrong_rule(propose, rule):
    assert smallest_p_value(propose, SEQUENCES_WITH_A_MISTAKE, rule) < ALPHA / COMPARISONS


@pytest.mark.parametrize("propose", SAMPLED)
def test_the_statistic_detects_a_rejection_that_is_not_corrected(monkeypatch, propose):
    monkeypatch.setattr(acceptance, "residual_distribution", lambda p, _: p)
    assert smallest_p_value(propose, SEQUENCES_WITH_A_MISTAKE) < ALPHA / COMPARISONS


@pytest.mark.parametrize("duplicates_stay", [True, False])
def test_siblings_must_keep_their_duplicates(duplicates_stay):
    """A draft distribution that repeats itself often; dropping the repetition moves 9 % of the mass."""
    p, q = np.array([0.45, 0.45, 0.1]), np.array([0.199, 0.001, 0.8], np.float32)
    sampler, generator = Sampler(SamplingOptions(temperature=1.0, seed=5)), np.random.default_rng(6)
    logits = np.log(np.tile(p, (3, 1))).astype(np.float32)
    counts = np.zeros((1, 3), dtype=int)
    for _ in range(4_000):
        tokens = generator.choice(3, size=2, p=q / q.sum(dtype=np.float64))
        if not duplicates_stay:
            tokens = tokens[: len(set(tokens))]
        width = len(tokens)
        proposal = Proposal(token_ids=tokens, parents=np.full(width, ROOT), probabilities=np.tile(q, (width, 1)))
        counts[0, accept(proposal, logits, sampler).token_ids[0]] += 1
    assert (table_p_value(counts, p[None]) > ALPHA / COMPARISONS) == duplicates_stay


# Equal seeds, equal tokens: a larger Markov target, with a drafter that is right about half of the time.

WORDS = 60
_words = np.random.default_rng(15)
LANGUAGE = (_words.normal(size=(WORDS, WORDS)) * 3).astype(np.float32)
GUESSES = np.argsort(-(LANGUAGE + _words.normal(size=LANGUAGE.shape)), axis=1)
NUM_TOKENS = 300

SETTINGS = [
    {},
    {"repetition_penalty": 1.3},
    {"temperature": 0.7},
    {"temperature": 1.0, "top_k": 12, "top_p": 0.9, "min_p": 0.01},
    {"temperature": 0.9, "repetition_penalty": 1.2},
]


def guessed_chain(text: list[int]) -> Proposal:
    tokens = [text[-1]]
    for _ in range(4):
        tokens.append(int(GUESSES[tokens[-1], 0]))
    return Proposal.chain(tokens[1:])


def guessed_tree(text: list[int]) -> Proposal:
    ranks = (0, 0, 1, 1, 0)
    tokens: list[int] = []
    for parent, rank in zip(BRANCHES, ranks, strict=True):
        tokens.append(int(GUESSES[text[-1] if parent == ROOT else tokens[parent], rank]))
    return Proposal(token_ids=np.array(tokens), parents=np.array(BRANCHES))


def looked_up(text: list[int]) -> Proposal:
    lookup = PromptLookup()
    lookup.observe(np.array(text[:-1], dtype=np.int64), np.zeros((len(text) - 1, 4), np.float32))
    return lookup.propose(text[-1], 8)


def nothing(text: list[int]) -> Proposal:
    return Proposal.chain([])


def generated(propose: Callable[[list[int]], Proposal], settings: dict[str, float]) -> tuple[list[int], list[int]]:
    """Tokens, and the number of accepted draft tokens of each round."""
    sampler = Sampler(SamplingOptions(**settings, seed=9))
    text, seen, accepted = [0], np.zeros(WORDS, dtype=bool), []
    seen[0] = True
    while len(text) <= NUM_TOKENS:
        proposal = propose(text)
        decided = accept(proposal, LANGUAGE[[text[-1], *proposal.token_ids]], sampler, seen)
        text += decided.token_ids
        accepted.append(len(decided.rows) - 1)
    return text[: NUM_TOKENS + 1], accepted


def baseline(settings: dict[str, float]) -> list[int]:
    """No proposal, no acceptance: one choice after another."""
    sampler = Sampler(SamplingOptions(**settings, seed=9))
    text, seen = [0], np.zeros(WORDS, dtype=bool)
    seen[0] = True
    for _ in range(NUM_TOKENS):
        text.append(sampler.choose(LANGUAGE[text[-1]], seen))
        seen[text[-1]] = True
    return text


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("propose", [nothing, guessed_chain, guessed_tree, looked_up])
def test_equal_seeds_give_equal_tokens_with_and_without_speculation(propose, settings):
    tokens, accepted = generated(propose, settings)
    assert tokens == baseline(settings)
    # Both outcomes occur, or the equality would say little.
    assert propose is nothing or min(accepted) < max(accepted)


def test_a_sampled_proposal_leaves_greedy_tokens_as_they_are():
    generator = np.random.default_rng(10)
    q = softmax(LANGUAGE, axis=1).astype(np.float32)

    def propose(text: list[int]) -> Proposal:
        token = int(generator.choice(WORDS, p=q[text[-1]] / q[text[-1]].sum(dtype=np.float64)))
        return Proposal.chain([token], q[[text[-1]]])

    tokens, accepted = generated(propose, {})
    assert tokens == baseline({})
    assert set(accepted) == {0, 1}


def test_a_drafter_that_samples_from_the_target_is_never_refused(monkeypatch):
    """Powers of two: q equals p to the last bit."""
    q = np.array([0.5, 0.25, 0.125, 0.125], np.float32)
    sampler, generator = Sampler(SamplingOptions(temperature=1.0, seed=1)), np.random.default_rng(2)
    monkeypatch.setattr(sampler, "distribution", lambda *_: q.astype(np.float64))
    for _ in range(300):
        chain = Proposal.chain(generator.choice(4, size=3, p=q), np.tile(q, (3, 1)))
        assert len(accept(chain, np.zeros((4, 4), np.float32), sampler).rows) == 4


def test_a_residual_lost_to_rounding_leaves_the_target_distribution(monkeypatch):
    sampler = Sampler(SamplingOptions(temperature=1.0))
    below_one = 1 - 2.0**-53
    monkeypatch.setattr(sampler, "uniform", lambda: below_one)
    monkeypatch.setattr(sampler, "distribution", lambda *_: np.array([below_one, 0.0]))
    chain = Proposal.chain([0], np.array([[1, 0]], np.float32))
    assert accept(chain, np.zeros((2, 2), np.float32), sampler) == Acceptance(rows=(0,), token_ids=(0,))


# Paths.


def favouring(tokens: list[int], vocabulary: int = 8) -> np.ndarray:
    """(rows, V) float32 logits whose highest entry in row `i` is `tokens[i]`."""
    return np.eye(vocabulary, dtype=np.float32)[tokens]


@st.composite
def trees_and_answers(draw):
    size = draw(st.integers(0, 10))
    tokens = draw(st.lists(st.integers(0, 2), min_size=size, max_size=size))
    parents = [draw(st.integers(ROOT, index - 1)) for index in range(size)]
    proposal = Proposal(token_ids=np.array(tokens, np.int64), parents=np.array(parents, np.int64))
    return proposal, draw(st.lists(st.integers(0, 2), min_size=size + 1, max_size=size + 1))


@given(trees_and_answers())
def test_what_is_kept_is_a_path_that_the_target_agrees_with(tree_and_answers):
    tree, answers = tree_and_answers
    decided = accept(tree, favouring(answers), Sampler(SamplingOptions()))
    nodes = [row - 1 for row in decided.rows]
    assert nodes[0] == ROOT
    assert [int(tree.parents[node]) for node in nodes[1:]] == nodes[:-1]
    assert [int(tree.token_ids[node]) for node in nodes[1:]] == list(decided.token_ids[:-1])
    assert list(decided.token_ids) == [answers[row] for row in decided.rows]
    assert decided.token_ids[-1] not in tree.token_ids[tree.children(nodes[-1])]
    assert len(decided.rows) == len(decided.token_ids)


def test_greedy_follows_the_longest_path_that_matches():
    #        root -> 1 -> 2
    #             -> 3 -> 4 -> 5
    tree = Proposal(token_ids=np.array([1, 2, 3, 4, 5]), parents=np.array([ROOT, 0, ROOT, 2, 3]))
    decided = accept(tree, favouring([3, 2, 0, 4, 5, 6]), Sampler(SamplingOptions()))
    assert decided == Acceptance(rows=(0, 3, 4, 5), token_ids=(3, 4, 5, 6))


def test_the_example_of_the_docstring_keeps_the_dog():
    cat, sat, dog, barks = range(4)
    tree = Proposal(token_ids=np.array([cat, sat, dog]), parents=np.array([ROOT, 0, ROOT]))
    decided = accept(tree, favouring([dog, sat, 0, barks]), Sampler(SamplingOptions()))
    assert decided == Acceptance(rows=(0, 3), token_ids=(dog, barks))


def test_a_tie_goes_to_the_lower_id():
    logits = np.array([[0, 1, 1], [2, 2, 0]], np.float32)
    assert accept(Proposal.chain([2]), logits, Sampler(SamplingOptions())).token_ids == (1,)
    assert accept(Proposal.chain([1]), logits, Sampler(SamplingOptions())).token_ids == (1, 0)


def test_no_proposal_decides_one_token():
    decided = accept(Proposal.chain([]), favouring([5]), Sampler(SamplingOptions()))
    assert decided == Acceptance(rows=(0,), token_ids=(5,))


def test_rows_that_pad_the_forward_are_not_read():
    padded = np.concatenate((favouring([5]), np.full((1, 8), np.nan, np.float32)))
    assert accept(Proposal.chain([]), padded, Sampler(SamplingOptions())).rows == (0,)


def test_the_new_tokens_are_marked_as_seen():
    seen = np.zeros(8, dtype=bool)
    accept(Proposal.chain([4, 5, 7]), favouring([4, 5, 6, 0]), Sampler(SamplingOptions()), seen)
    assert np.flatnonzero(seen).tolist() == [4, 5, 6]


def test_the_penalty_counts_the_tokens_accepted_in_this_round():
    logits = np.array([[3.0, 0.0, 0.0], [3.0, 2.9, 0.0]], np.float32)
    sampler = Sampler(SamplingOptions(repetition_penalty=1.1))
    assert accept(Proposal.chain([0]), logits, sampler, np.zeros(3, dtype=bool)).token_ids == (0, 1)
