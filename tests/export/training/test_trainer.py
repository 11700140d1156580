"""Training a head for a tiny target: it learns, it goes on where it was stopped, and what it gives can be attached."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil

import numpy as np
import pytest

from dovetail_ort_export.training.options import TrainingInputs, TrainingPrompts
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.errors import InputError


@pytest.fixture(scope="module")
def options():
    from dovetail_ort_export.training.options import TrainingOptions

    return TrainingOptions(
        num_answer_tokens=4000,
        max_answer_tokens=40,
        num_parallel=16,
        draft_vocabulary_size=256,
        num_epochs=6,
        batch_size=4,
        threads=1,
    )


@pytest.fixture(scope="module")
def text(tiny_bundle, options, tmp_path_factory):
    """Shards of text that all trainings here read."""
    from dovetail_ort_export.training.text_plan import write_text

    return write_text(Bundle(tiny_bundle), tmp_path_factory.mktemp("text"), options, TrainingPrompts())


@pytest.fixture(scope="module")
def train(tiny_bundle, options, text):
    """`train(out, **changes)`: the record of a head."""
    from dovetail_ort_export.training.trainer import train_head

    def run(out, evaluation_texts=None, start=None, **changes):
        changed = dataclasses.replace(options, **changes)
        inputs = TrainingInputs(text=text.directory, start=start, evaluation_texts=evaluation_texts)
        return train_head(tiny_bundle, out, changed, inputs)

    return run


@pytest.fixture(scope="module")
def trained(train, tmp_path_factory):
    """Directory and record of a head."""
    out = tmp_path_factory.mktemp("trained") / "head"
    return out, train(out)


def test_loss_falls_and_acceptance_rises(trained):
    _, record = trained
    first, last = record.history[0], record.history[-1]
    assert last.loss < 0.9 * first.loss
    assert last.acceptance[0] > first.acceptance[0] + 0.02
    assert last.accepted_length > first.accepted_length


def test_every_point_of_the_curves_is_the_mean_of_as_many_steps_at_least(trained):
    """No last point of the few steps that are left over: one batch's loss says nothing."""
    steps = [0] + [point.step for point in trained[1].history]
    taken = np.diff(steps)
    assert taken.min() == taken[0] > 1


def test_what_is_left_is_the_head_its_record_and_a_picture(trained):
    out, record = trained
    assert sorted(path.name for path in out.iterdir()) == ["curves.png", "head.json", "head.safetensors"]
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert record.num_overlapping is None
    assert record.num_answer_tokens > 3000


def test_a_trained_head_is_accepted_by_its_target_as_often_as_training_measured(trained, tiny_bundle, text, tmp_path):
    from dovetail_ort_export.attach import attach_drafter
    from dovetail_ort_export.training.training_text import split_held_out
    from dovetail_ort_runtime import GenerationOptions, SamplingOptions, load_model
    from dovetail_ort_runtime.drafting.shapes import ChainShape

    out, record = trained
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    attach_drafter(bundle, out, "fp32")
    _, held_out = split_held_out(list(text.conversations()))
    model = load_model(bundle, drafter="dgf", threads=1, draft_shape=ChainShape.fixed(7))
    rounds = accepted = 0
    for conversation in held_out:
        prompt = conversation.token_ids[: conversation.prompt_length].tolist()
        options = GenerationOptions(max_new_tokens=conversation.answer_length, sampling=SamplingOptions())
        answers = [model.generate(prompt, dataclasses.replace(options, max_draft_tokens=n)) for n in (0, 7)]
        assert answers[0].token_ids == answers[1].token_ids
        rounds += answers[1].statistics.rounds
        accepted += answers[1].statistics.accepted_tokens
    # A few hundred tokens; answers may part from the written ones where two tokens were as good as equal.
    assert 1 + accepted / rounds == pytest.approx(record.history[-1].accepted_length, rel=0.15)


def test_a_stopped_training_ends_with_the_weights_of_one_that_was_not(trained, train, tmp_path, monkeypatch):
    from safetensors.numpy import load_file

    from dovetail_ort_export.training.run import TrainingRun

    whole = TrainingRun.step
    calls = []

    def interrupted(self, batch, num_steps, optimisers):
        calls.append(1)
        if len(calls) in (30, 55):
            raise KeyboardInterrupt
        return whole(self, batch, num_steps, optimisers)

    out = tmp_path / "head"
    with monkeypatch.context() as patches:
        patches.setattr(TrainingRun, "step", interrupted)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                train(out)
        assert [path.name for path in out.iterdir()] == ["checkpoint.pt"]
    record = train(out)
    got = load_file(out / "head.safetensors")
    wanted = load_file(trained[0] / "head.safetensors")
    for name, array in wanted.items():
        np.testing.assert_array_equal(got[name], array)
    assert [point.step for point in record.history] == [point.step for point in trained[1].history]


def test_a_checkpoint_of_another_training_is_refused(trained, train, tmp_path, monkeypatch):
    from dovetail_ort_export.training.run import TrainingRun

    def interrupted(self, batch, num_steps, optimisers):
        raise KeyboardInterrupt

    out = tmp_path / "head"
    further = tmp_path / "further"
    with monkeypatch.context() as patches:
        patches.setattr(TrainingRun, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(out)
        with pytest.raises(KeyboardInterrupt):
            train(further, start=trained[0], num_epochs=1)
    with pytest.raises(InputError, match="must be of this training, got one with another unrolled_steps"):
        train(out, unrolled_steps=1)
    with pytest.raises(InputError, match="got one with another start"):
        train(out, start=trained[0])
    elsewhere = shutil.copytree(trained[0], tmp_path / "elsewhere")  # the same head, by another name
    assert train(further, start=elsewhere, num_epochs=1).start == trained[1]


def test_training_goes_on_from_a_trained_head(trained, train, tmp_path):
    from dovetail_ort_export.training.head_files import load_head

    start, before = trained
    further = {"num_epochs": 1, "one_step_share": 0.0, "seed": 1}
    # What a step this small changes is lost in half precision; the shape is the head's, whatever the options say.
    record = train(tmp_path / "same", start=start, fusion="concatenation", learning_rate=1e-9, **further)
    assert record.start == before
    assert (record.options.fusion, record.config) == ("gating", before.config)
    old = load_head(start)
    new = load_head(tmp_path / "same")
    np.testing.assert_array_equal(new.draft_token_ids, old.draft_token_ids)
    for name, weight in old.head.state_dict().items():
        # One step of half precision, for weights below 2.
        np.testing.assert_allclose(new.head.state_dict()[name], weight, atol=1e-3)
    # Rounding may turn two of the 117 drafted first tokens; here it turns none.
    assert record.history[-1].acceptance == pytest.approx(before.history[-1].acceptance, abs=0.02)
    assert train(tmp_path / "better", start=start, **further).history[-1].loss < before.history[-1].loss
    assert load_head(tmp_path / "better").record.start == before


def test_a_head_of_another_target_is_no_start(trained, train, tmp_path):
    start, before = trained
    shutil.copytree(start, tmp_path / "foreign")
    record = (start / "head.json").read_text().replace(before.target_sha256, "0" * 64)
    (tmp_path / "foreign" / "head.json").write_text(record)
    with pytest.raises(InputError, match="the head must be of the bundle's target, got one of 000000000000…"):
        train(tmp_path / "head", start=tmp_path / "foreign")
    assert not (tmp_path / "head").exists()


def test_a_full_disk_loses_no_checkpoint(train, tmp_path, monkeypatch, full_disk):
    from dovetail_ort_export.training import checkpoint, run

    whole = run.TrainingRun.step
    calls = []
    out = tmp_path / "head"
    monkeypatch.setattr(checkpoint, "SECONDS_BETWEEN_SAVES", 0.0)  # one after every step
    with contextlib.ExitStack() as disk:

        def step(self, batch, num_steps, optimisers):
            calls.append(1)
            if len(calls) == 30:
                disk.enter_context(full_disk())
            return whole(self, batch, num_steps, optimisers)

        monkeypatch.setattr(run.TrainingRun, "step", step)
        with pytest.raises(OSError, match="File too large"):
            train(out)
    assert [path.name for path in out.iterdir()] == ["checkpoint.pt"]
    import torch

    assert torch.load(out / "checkpoint.pt", weights_only=True)["state"]["step"] == 29


def test_a_loss_that_is_not_finite_leaves_a_checkpoint_of_finite_weights(train, tmp_path, monkeypatch):
    import torch

    from dovetail_ort_export.training import run

    whole = run.draft_loss
    calls = []
    out = tmp_path / "head"

    def loss(*arguments):
        calls.append(1)
        return whole(*arguments) * (float("nan") if len(calls) == 10 else 1)

    monkeypatch.setattr(run, "draft_loss", loss)
    with pytest.raises(InputError, match="the loss must stay finite, got nan; train with a smaller --learning-rate"):
        train(out)
    content = torch.load(out / "checkpoint.pt", weights_only=True)
    assert content["state"]["step"] == 9
    assert all(bool(weight.isfinite().all()) for weight in content["head"].values())


@pytest.mark.parametrize(
    "changes",
    [{"fusion": "concatenation"}, {"num_blocks": 2}, {"unrolled_steps": 1}, {"draft_vocabulary_size": 0}],
    ids=lambda changes: next(iter(changes)),
)
def test_every_factor_of_the_ablation_trains(train, tmp_path, changes):
    record = train(tmp_path / "head", num_epochs=1, num_answer_tokens=1500, **changes)
    assert record.history[-1].loss < record.history[0].loss


def test_text_that_shares_a_passage_with_an_evaluation_is_left_out(train, trained, text, tiny_bundle, tmp_path):
    tokenizer = Bundle(tiny_bundle).tokenizer()
    texts = [tokenizer.decode(item.token_ids.tolist()) for item in text.conversations()]
    longest = max(texts, key=lambda one: len(one.split()))
    record = train(tmp_path / "head", evaluation_texts=[longest], num_epochs=1)
    assert record.num_overlapping is not None
    assert record.num_overlapping >= 1
    assert record.num_conversations < trained[1].num_conversations


def test_the_original_model_may_write_the_text_and_no_other_one(
    tiny_llama, tiny_source, tiny_bundle, options, tmp_path
):
    from dovetail_ort_export.training.trainer import train_head

    few = dataclasses.replace(options, num_answer_tokens=400, num_epochs=1)
    other = tiny_source("llama", num_hidden_layers=1)
    record = train_head(tiny_bundle, tmp_path / "head", few, TrainingInputs(source=str(tiny_llama)))
    assert record.num_answer_tokens > 200
    with pytest.raises(InputError, match="must be the model that the bundle was exported from"):
        train_head(tiny_bundle, tmp_path / "other", few, TrainingInputs(source=str(other)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_blocks": 7}, "num_blocks must be between 1 and 6, got 7"),
        ({"fusion": "sum"}, "fusion must be one of gating, concatenation, got 'sum'"),
        ({"prompt_share": 1.5}, "prompt_share must be between 0 and 1, got 1.5"),
        ({"num_epochs": 0}, "num_epochs must be 1 or more, got 0"),
        ({"max_answer_tokens": 7}, "max_answer_tokens must be 8 or more, got 7"),
        ({"threads": 0}, "threads must be 1 or more, got 0"),
        ({"feature_weight": float("nan")}, "feature_weight must be 0 or more, got nan"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0 and below 1, got 0.0"),
    ],
)
def test_options_out_of_bounds_are_refused(changes, message):
    from dovetail_ort_export.training.options import TrainingOptions

    with pytest.raises(InputError, match=message):
        TrainingOptions(**changes)
