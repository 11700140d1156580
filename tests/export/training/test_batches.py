"""The text a head is trained on: what is left out, what can be drafted, which position is to predict what."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def conversations():
    from dovetail_ort_export.training.text_writer import Conversation

    def make(token_ids, prompt_length):
        states = np.arange(len(token_ids) - 1, dtype=np.float16)[:, None]
        return Conversation(
            token_ids=np.array(token_ids, np.int32), prompt_length=prompt_length, hidden_states=np.repeat(states, 2, 1)
        )

    return [make([1, 2, 3, 40, 41, 50, 51, 52], 5), make([1, 2, 3, 44, 60, 61], 4)]


def test_a_position_holds_a_feature_and_the_token_after_it_and_wants_what_comes_next(conversations):
    from dovetail_ort_export.training.batches import collate

    batch = collate(conversations)
    assert batch.features[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert batch.wanted_features[0, :, 0].tolist() == [1, 2, 3, 4, 5, 6]
    assert batch.next_token_ids[0].tolist() == [2, 3, 40, 41, 50, 51]
    assert batch.wanted_token_ids[0].tolist() == [3, 40, 41, 50, 51, 52]
    # The target gives the answer's first token itself, and 51 is the first that is drafted.
    assert batch.in_answer.tolist() == [[False] * 4 + [True] * 2, [False] * 3 + [True] + [False] * 2]


def test_prompts_are_learned_from_but_not_the_words_that_all_begin_with(conversations):
    from dovetail_ort_export.training.batches import collate, shared_length

    assert shared_length(conversations) == 3
    assert shared_length(conversations[:1]) == 8
    learned = collate(conversations, 3).is_learned
    assert learned.tolist() == [[False] + [True] * 5, [False] + [True] * 3 + [False] * 2]


def test_ten_words_in_a_row_are_a_shared_passage():
    from dovetail_ort_export.training.batches import passages

    seen = set(passages("Return the sum of all even numbers in the given list, and nothing else."))
    assert not seen.isdisjoint(passages('"""RETURN the sum of: all even numbers in the given list"""'))
    assert seen.isdisjoint(passages("the sum of all even numbers in the given set"))


def test_the_draft_vocabulary_is_the_frequent_tokens_and_the_end():
    from dovetail_ort_export.training.batches import draft_vocabulary

    answers = [np.array([5, 5, 5, 9, 9, 3], np.int32), np.array([9, 4], np.int32)]
    assert draft_vocabulary(answers, [2], size=3, total=12).tolist() == [2, 5, 9]
    assert draft_vocabulary(answers, [2], size=4, total=12).tolist() == [2, 3, 5, 9]
    assert draft_vocabulary(answers, [2], size=0, total=12).tolist() == list(range(12))


@pytest.mark.parametrize(("number", "held_out"), [(2, 1), (10, 2), (64, 2), (320, 10), (3200, 100), (32000, 100)])
def test_as_much_text_is_held_out_as_measuring_needs_and_no_more(number, held_out):
    from dovetail_ort_export.training.batches import split_held_out

    trained, measured = split_held_out(range(number))
    assert len(measured) == held_out
    assert sorted([*trained, *measured]) == list(range(number))
