"""Written text on disk: nothing of it is lost, and what is damaged or of another target is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dovetail_ort_export.training.conversation import Conversation
from dovetail_ort_export.training.text_shards import TextRecord, TextShards
from dovetail_ort_runtime.errors import InputError

HIDDEN_SIZE = 64
RECORD = TextRecord(target_sha256="1" * 64, hidden_size=HIDDEN_SIZE, max_answer_tokens=40)


@pytest.fixture
def conversations():
    generator = np.random.default_rng(0)
    return [
        Conversation(
            token_ids=generator.integers(0, 384, size=length, dtype=np.int32),
            prompt_length=length // 2,
            hidden_states=generator.standard_normal((length - 1, HIDDEN_SIZE)).astype(np.float16),
        )
        for length in (7, 20, 12)
    ]


def test_conversations_are_read_as_they_were_written(conversations, tmp_path):
    shards = TextShards(tmp_path, RECORD)
    shards.append(conversations[:2])
    shards.append(conversations[2:])
    assert [path.name for path in shards.paths] == ["shard-00000.safetensors", "shard-00001.safetensors"]
    found = list(TextShards(tmp_path, RECORD).conversations())
    assert [item.prompt_length for item in found] == [item.prompt_length for item in conversations]
    for item, wanted in zip(found, conversations, strict=True):
        np.testing.assert_array_equal(item.token_ids, wanted.token_ids)
        np.testing.assert_array_equal(item.hidden_states, wanted.hidden_states)


def test_a_full_disk_leaves_no_half_shard(conversations, tmp_path, full_disk):
    shards = TextShards(tmp_path, RECORD)
    with full_disk(), pytest.raises(OSError, match="File too large"):
        shards.append(conversations)
    assert [path.name for path in tmp_path.iterdir()] == ["text.json"]


@pytest.mark.parametrize("cut", [0, 5, 100, -100, -1])
def test_a_damaged_shard_is_refused_in_one_line(conversations, tmp_path, cut):
    shards = TextShards(tmp_path, RECORD)
    shards.append(conversations)
    (path,) = shards.paths
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"must be a whole shard, got .*; delete it and run again"):
        list(shards.conversations())


def test_lengths_that_do_not_add_up_are_refused(conversations, tmp_path):
    short = dataclasses.replace(conversations[0], hidden_states=conversations[0].hidden_states[:-1])
    shards = TextShards(tmp_path, RECORD)
    shards.append([short, *conversations[1:]])
    with pytest.raises(InputError, match="lengths that do not add up"):
        list(shards.conversations())


def test_text_of_another_target_is_refused(tmp_path):
    TextShards(tmp_path, RECORD)
    other = dataclasses.replace(RECORD, target_sha256="0" * 64)
    with pytest.raises(InputError, match="must be of this target and these settings"):
        TextShards(tmp_path, other)
