"""The text that a head is trained on: how much, what is left out, and which tokens can be drafted."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail_ort_export.training.conversation import Conversation
from dovetail_ort_export.training.training_text import choose_text, draft_vocabulary, passages, split_held_out


def conversation(number):
    """Two tokens of prompt and ten of answer, the first of which is `number`."""
    token_ids = np.full(12, number, dtype=np.int32)
    return Conversation(token_ids=token_ids, prompt_length=2, hidden_states=np.zeros((11, 4), dtype=np.float16))


def decode(token_ids):
    return f"{token_ids[0]} two three four five six seven eight nine ten eleven"


def test_no_more_text_is_read_than_is_asked_for():
    read = []

    def written():
        for number in range(100):
            read.append(number)
            yield conversation(number)

    text = choose_text(written(), 65, None, decode)
    assert len(read) == len(text.trained) + len(text.held_out) == 7
    assert text.num_answer_tokens == 10 * len(text.trained)
    assert text.num_overlapping is None


def test_a_conversation_that_shares_a_passage_with_an_evaluation_is_left_out():
    written = [conversation(number) for number in range(6)]
    text = choose_text(written, 60, ["And 3 two three four five six seven eight nine ten, of eleven"], decode)
    assert text.num_overlapping == 1
    assert {item.token_ids[0] for item in [*text.trained, *text.held_out]} == {0, 1, 2, 4, 5}


def test_ten_words_in_a_row_are_a_shared_passage():
    seen = set(passages("Return the sum of all even numbers in the given list, and nothing else."))
    assert not seen.isdisjoint(passages('"""RETURN the sum of: all even numbers in the given list"""'))
    assert seen.isdisjoint(passages("the sum of all even numbers in the given set"))


def test_the_draft_vocabulary_is_the_frequent_tokens_and_the_end():
    answers = [np.array([5, 5, 5, 9, 9, 3], np.int32), np.array([9, 4], np.int32)]
    assert draft_vocabulary(answers, [2], size=3, total=12).tolist() == [2, 5, 9]
    assert draft_vocabulary(answers, [2], size=4, total=12).tolist() == [2, 3, 5, 9]
    assert draft_vocabulary(answers, [2], size=0, total=12).tolist() == list(range(12))


@pytest.mark.parametrize(("number", "held_out"), [(2, 1), (10, 2), (64, 2), (320, 10), (3200, 100), (32000, 100)])
def test_as_much_text_is_held_out_as_measuring_needs_and_no_more(number, held_out):
    trained, measured = split_held_out(range(number))
    assert len(measured) == held_out
    assert sorted([*trained, *measured]) == list(range(number))
