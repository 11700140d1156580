"""A prompt of each kind becomes token ids, and any other is refused."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.text.prompt_reader import PromptReader

USER = [{"role": "user", "content": "ab"}]


class Letters:
    """A tokenizer whose ids are the places of letters in the alphabet; a begin token, 25, is added on demand."""

    def encode(self, text, add_special_tokens):
        ids = [ord(letter) - ord("a") for letter in text]
        return [25, *ids] if add_special_tokens else ids


class Contents:
    """A template that writes all contents one after the other, then an argument."""

    def render(self, messages, /, ending=""):
        return "".join(message["content"] for message in messages) + ending


@pytest.fixture
def reader():
    """Reads prompts for a model of 26 tokens."""
    return PromptReader(Letters(), Contents(), vocabulary_size=26)


def test_only_text_gets_the_tokens_that_stand_around_a_text(reader):
    assert reader.token_ids("ab") == [25, 0, 1]
    assert reader.token_ids(USER) == [0, 1]
    assert reader.token_ids(USER, {"ending": "c"}) == [0, 1, 2]


@pytest.mark.parametrize("ids", [[3, 4], (3, 4), np.array([3, 4], np.int32)])
def test_token_ids_stay_what_they_are(reader, ids):
    found = reader.token_ids(ids)
    assert found == [3, 4]
    assert all(type(token_id) is int for token_id in found)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "must have one token or more, got none"),
        ([26], "token ids must be between 0 and 25, got 26 to 26"),
        ([-1, 3], "got -1 to 3"),
        ([1.5], "must be text, a list of messages, or a list of token ids"),
        ([[1], [2, 3]], "must be text, a list of messages"),
        (None, "must be text, a list of messages"),
    ],
)
def test_another_prompt_is_refused(reader, prompt, message):
    with pytest.raises(InputError, match=message):
        reader.token_ids(prompt)


@pytest.mark.parametrize("prompt", ["ab", [1, 2]])
def test_template_arguments_need_messages(reader, prompt):
    with pytest.raises(InputError, match="need a prompt of messages; give messages, or leave out ending"):
        reader.token_ids(prompt, {"ending": "c"})
    assert reader.token_ids(prompt, {}) == reader.token_ids(prompt)


def test_messages_need_a_template():
    with pytest.raises(InputError, match="this bundle has no chat template; pass the prompt as text"):
        PromptReader(Letters(), None, vocabulary_size=26).token_ids(USER)
