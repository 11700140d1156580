"""Prompt lookup against a search through the whole text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail_ort_runtime.drafting.prompt_lookup import PromptLookup
from dovetail_ort_runtime.errors import InputError

ONE_DRAFT_TOKEN_PER_MATCH = (1, 2, 3, 4)

texts = st.lists(st.integers(0, 2), max_size=40)
roots = st.integers(0, 3)


def hidden_states(length: int) -> np.ndarray:
    return np.zeros((length, 4), np.float32)


def lookup_over(text: list[int], draft_tokens_by_match=ONE_DRAFT_TOKEN_PER_MATCH) -> PromptLookup:
    lookup = PromptLookup(draft_tokens_by_match)
    lookup.observe(np.array(text, dtype=np.int64), hidden_states(len(text)))
    return lookup


def proposed(lookup: PromptLookup, root: int, max_draft_tokens: int = 8) -> list[int]:
    proposal = lookup.propose(root, max_draft_tokens)
    assert proposal.is_chain
    assert proposal.probabilities is None
    return proposal.token_ids.tolist()


def rescanned(text: list[int], root: int, draft_tokens_by_match: tuple[int, ...], max_draft_tokens: int) -> list[int]:
    """The specification, by search: the longest suffix, its latest earlier occurrence, a copy token by token."""
    known = [*text, root]
    for length in range(min(len(draft_tokens_by_match), len(text)), 0, -1):
        suffix = known[-length:]
        for start in range(len(known) - length - 1, -1, -1):
            if known[start : start + length] == suffix:
                for offset in range(min(draft_tokens_by_match[length - 1], max_draft_tokens)):
                    known.append(known[start + length + offset])
                return known[len(text) + 1 :]
    return []


@given(texts, roots, st.lists(st.integers(0, 9), min_size=1, max_size=5).map(tuple), st.integers(0, 9))
def test_the_index_finds_what_a_rescan_finds(text, root, draft_tokens_by_match, max_draft_tokens):
    lookup = lookup_over(text, draft_tokens_by_match)
    expected = rescanned(text, root, draft_tokens_by_match, max_draft_tokens)
    assert proposed(lookup, root, max_draft_tokens) == expected


@given(texts, st.lists(st.integers(0, 40), max_size=4), roots)
def test_text_in_pieces_equals_text_at_once(text, cuts, root):
    lookup = PromptLookup(ONE_DRAFT_TOKEN_PER_MATCH)
    for piece in np.split(np.array(text, dtype=np.int64), sorted(cuts)):
        lookup.observe(piece, hidden_states(len(piece)))
    assert proposed(lookup, root) == proposed(lookup_over(text), root)


@given(texts, texts, st.integers(0, 40), roots)
def test_a_rewound_lookup_equals_a_fresh_one(text, more, length, root):
    length = min(length, len(text))
    rewound = lookup_over(text)
    rewound.rewind(length)
    rewound.observe(np.array(more, dtype=np.int64), hidden_states(len(more)))
    assert proposed(rewound, root) == proposed(lookup_over(text[:length] + more), root)


@given(texts, roots)
def test_proposing_changes_nothing(text, root):
    lookup = lookup_over(text)
    assert proposed(lookup, root) == proposed(lookup, root)


def test_the_example_of_the_docstring_passes_the_end_of_the_text():
    a, b, c, d = range(4)
    assert proposed(lookup_over([a, b, c, d, a], (1, 5)), b) == [c, d, a, b, c]


def test_a_run_of_one_token_goes_on():
    assert proposed(lookup_over([5], (3,)), 5) == [5, 5, 5]


def test_the_latest_occurrence_wins():
    assert proposed(lookup_over([1, 7, 1, 8]), 1) == [8]


def test_a_longer_match_beats_a_later_one():
    assert proposed(lookup_over([1, 2, 7, 9, 2, 8, 1], (1, 1)), 2) == [7]


def test_a_longer_match_proposes_more():
    text = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    lengths = [len(proposed(lookup_over([*text, 0, *text[:n]], (1, 3, 5, 8)), text[n])) for n in range(5)]
    assert lengths == [1, 3, 5, 8, 8]


def test_a_zero_sets_the_shortest_match():
    assert proposed(lookup_over([1, 2, 3, 9], (0, 2)), 2) == []
    assert proposed(lookup_over([1, 2, 3, 9, 1], (0, 2)), 2) == [3, 9]


def test_a_token_new_to_the_text_proposes_nothing():
    assert proposed(lookup_over([1, 2, 3]), 4) == []
    assert proposed(PromptLookup(), 4) == []


@pytest.mark.parametrize("draft_tokens_by_match", [(), (1, -1)])
def test_numbers_of_draft_tokens_must_be_given_and_not_negative(draft_tokens_by_match):
    with pytest.raises(InputError, match="draft_tokens_by_match must be one or more numbers of 0 or more"):
        PromptLookup(draft_tokens_by_match)
