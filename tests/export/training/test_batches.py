"""Batches of conversations: which position predicts what, and which is learned from."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def conversations():
    from dovetail_ort_export.training.conversation import Conversation

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
