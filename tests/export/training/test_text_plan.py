"""Text that a bundle's target writes: what it holds, and that it goes on where it was stopped."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from dovetail_ort_export.training.options import TrainingPrompts
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.text.tokenizer import Tokenizer

QUESTION = [{"role": "user", "content": "The tails hold the pins"}]
OPENING = "The small model"
PROMPTS = TrainingPrompts(conversations=[QUESTION], openings=[OPENING])


@pytest.fixture(scope="module")
def options():
    from dovetail_ort_export.training.options import TrainingOptions

    return TrainingOptions(num_answer_tokens=600, max_answer_tokens=40, num_parallel=5, threads=1)


@pytest.fixture(scope="module")
def written(tiny_bundle_fp32, options, tmp_path_factory):
    """Shards of a tiny fp32 target: its tokens do not hang on a kernel's rounding."""
    from dovetail_ort_export.training.text_plan import write_text

    return write_text(Bundle(tiny_bundle_fp32), tmp_path_factory.mktemp("text"), options, PROMPTS)


@pytest.fixture(scope="module")
def target(tiny_bundle_fp32):
    bundle = Bundle(tiny_bundle_fp32)
    return Target(bundle.path(bundle.manifest.target.graph), bundle.manifest.target, threads=1)


def test_answers_are_the_targets_own_greedy_choice_with_its_own_hidden_states(written, target):
    num_answers = 0
    for conversation in written.conversations():
        output = target.read(conversation.token_ids[:-1].astype(np.int64), rows=64)
        answer = conversation.token_ids[conversation.prompt_length :]
        chosen = output.logits[conversation.prompt_length - 1 :]
        # Where two tokens are as good as equal, another kernel may choose the other one.
        margin = np.take_along_axis(chosen, chosen.argmax(-1)[:, None], -1) - np.take_along_axis(
            chosen, answer[:, None], -1
        )
        assert margin.max() < 1e-3
        # Half precision holds three digits.
        np.testing.assert_allclose(conversation.hidden_states, output.hidden_states, atol=5e-3, rtol=2e-3)
        num_answers += 1
    assert num_answers > 10


def test_there_is_as_much_text_as_was_asked_for_and_none_of_it_twice(written, options):
    conversations = list(written.conversations())
    assert sum(item.answer_length for item in conversations) >= options.num_answer_tokens
    prompts = [tuple(item.token_ids[: item.prompt_length].tolist()) for item in conversations]
    answers = [tuple(item.token_ids[item.prompt_length :].tolist()) for item in conversations]
    assert len(set(prompts)) == len(set(answers)) == len(prompts)
    assert max(item.answer_length for item in conversations) <= options.max_answer_tokens


def test_users_prompts_are_answered_and_the_others_are_conversations_in_the_template(written, tiny_bundle_fp32):
    bundle = Bundle(tiny_bundle_fp32)
    tokenizer = Tokenizer(bundle.path(bundle.manifest.tokenizer.file))
    texts = [
        tokenizer.decode(item.token_ids[: item.prompt_length].tolist(), skip_special_tokens=False)
        for item in written.conversations()
    ]
    assert sum("The tails hold the pins" in text for text in texts) == 1
    opened = sum(text.startswith(f"<|im_start|>user\n{OPENING}") for text in texts)
    assert 0.1 * len(texts) < opened < 0.7 * len(texts)  # 0.35 of some twenty
    assert all(text.startswith("<|im_start|>user\n") and text.endswith("<|im_start|>assistant\n") for text in texts)


def test_a_stopped_writing_keeps_what_was_finished_and_goes_on(tiny_bundle_fp32, options, tmp_path, monkeypatch):
    from dovetail_ort_export.training import text_plan
    from dovetail_ort_export.training.text_writer import TextWriter

    whole = TextWriter.conversations

    def interrupted(self):
        yield from itertools.islice(whole(self), 7)
        raise KeyboardInterrupt

    bundle = Bundle(tiny_bundle_fp32)
    with monkeypatch.context() as patches:
        patches.setattr(TextWriter, "conversations", interrupted)
        with pytest.raises(KeyboardInterrupt):
            text_plan.write_text(bundle, tmp_path, options, PROMPTS)
    (first,) = tmp_path.glob("shard-*")
    before = first.read_bytes()
    shards = text_plan.write_text(bundle, tmp_path, options, PROMPTS)
    assert first.read_bytes() == before
    assert len(shards.paths) == 2
    assert not list(tmp_path.glob("*.partial"))
    prompts = [tuple(item.token_ids[: item.prompt_length].tolist()) for item in shards.conversations()]
    assert len(set(prompts)) == len(prompts)
    assert text_plan.write_text(bundle, tmp_path, options, PROMPTS).paths == shards.paths  # enough: nothing is added


def test_a_target_with_nothing_new_to_say_is_reported_in_one_line(tiny_bundle_fp32, options, tmp_path, monkeypatch):
    from dovetail_ort_export.training import text_writer
    from dovetail_ort_export.training.text_plan import write_text

    monkeypatch.setattr(text_writer, "_MOST_IN_VAIN", 20)
    monkeypatch.setattr(text_writer, "loop_start", lambda answer: 0)  # every answer is a loop from its first token on
    with pytest.raises(InputError, match="must write text that is new, got 20 conversations in a row without any"):
        write_text(Bundle(tiny_bundle_fp32), tmp_path, options, PROMPTS)


def test_an_opening_that_leaves_no_room_is_refused(tiny_bundle_fp32, options, tmp_path):
    from dovetail_ort_export.training.text_plan import write_text

    long = TrainingPrompts(openings=["The tails hold the pins. " * 60])
    with pytest.raises(InputError, match="an opening must have 200 tokens at most with what the template adds, got"):
        write_text(Bundle(tiny_bundle_fp32), tmp_path, options, long)


def test_a_model_without_a_template_continues_its_own_beginnings(tiny_bundle_fp32, options, tmp_path, monkeypatch):
    from dovetail_ort_export.training.text_plan import write_text

    bundle = Bundle(tiny_bundle_fp32)
    manifest = bundle.manifest
    bundle.manifest = dataclasses.replace(
        manifest, tokenizer=dataclasses.replace(manifest.tokenizer, chat_template=None)
    )
    shards = write_text(bundle, tmp_path / "text", options, TrainingPrompts())
    assert {int(item.token_ids[0]) for item in shards.conversations()} == {manifest.generation.eos_token_ids[0]}
    with pytest.raises(InputError, match="has no chat template"):
        write_text(bundle, tmp_path / "other", options, PROMPTS)
