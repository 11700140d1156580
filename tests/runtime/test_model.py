"""A loaded model from prompt to answer: streams, options, statistics, interruption and closing."""

from __future__ import annotations

import dataclasses
import itertools
import json
from shutil import copytree
from types import SimpleNamespace

import numpy as np
import pytest

from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.decoding import answer_stream
from dovetail_ort_runtime.drafting.drafter import Drafter
from dovetail_ort_runtime.drafting.prompt_lookup import PromptLookup
from dovetail_ort_runtime.drafting.proposal import Proposal
from dovetail_ort_runtime.errors import ContextLengthError, InputError, ModelUseError
from dovetail_ort_runtime.model import load_model
from dovetail_ort_runtime.options import GenerationOptions, SamplingOptions

BASELINE = GenerationOptions(max_draft_tokens=0, max_new_tokens=60)
SPECULATIVE = GenerationOptions(max_new_tokens=60, max_draft_tokens=8)
PROMPTS = ("A dovetail joint", "def fibonacci(n):\n    return fibonacci(n - 1) + fib", "café 3 €")
CONVERSATION = [{"role": "user", "content": "What holds the pins?"}]


@pytest.fixture(scope="module")
def reference(tiny_bundle):
    """`reference(prompt, ...)`: the baseline's answer of a freshly loaded model."""

    def generate(prompt, **settings):
        options = dataclasses.replace(BASELINE, **settings)
        return load_model(tiny_bundle, threads=1).generate(prompt, options)

    return generate


@pytest.fixture
def with_oracle(load, reference, drafters):
    """`with_oracle(prompt)`: a model whose drafter mostly knows the answer, and that answer."""

    def make(prompt, wrong=0.2, **settings):
        baseline = reference(prompt, **settings)
        model = load()
        text = [*model.token_ids(prompt), *baseline.token_ids]
        return load(drafters.Oracle(text, wrong=wrong)), baseline

    return make


def changed_bundle(bundle, folder, **generation):
    """A copy of a bundle with other generation settings."""
    copy = copytree(bundle, folder / "changed")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["generation"].update(generation)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


@pytest.mark.parametrize("max_draft_tokens", [1, 4, 8, 63, 1000])
@pytest.mark.parametrize("prompt", [*PROMPTS, CONVERSATION, [5, 6, 7]], ids=str)
def test_speculative_greedy_equals_the_baseline(with_oracle, load, prompt, max_draft_tokens):
    model, baseline = with_oracle(prompt)
    options = dataclasses.replace(SPECULATIVE, max_draft_tokens=max_draft_tokens)
    answer = model.generate(prompt, options)
    assert (answer.token_ids, answer.text) == (baseline.token_ids, baseline.text)
    assert answer.statistics.accepted_tokens > 10  # or the comparison says nothing
    assert load().generate(prompt, options).token_ids == baseline.token_ids


@pytest.mark.parametrize("seed", range(1, 5))
def test_sampling_with_a_seed_gives_the_same_answer_with_and_without_drafts(with_oracle, seed):
    sampling = SamplingOptions(temperature=1.0, top_p=0.9, seed=seed)
    model, baseline = with_oracle(PROMPTS[0], sampling=sampling)
    answer = model.generate(PROMPTS[0], dataclasses.replace(SPECULATIVE, sampling=sampling))
    assert answer.token_ids == baseline.token_ids
    assert answer.statistics.accepted_tokens > 10


def test_another_seed_gives_another_answer(reference):
    answers = {
        reference(PROMPTS[0], sampling=SamplingOptions(temperature=1.0, seed=seed)).token_ids for seed in range(4)
    }
    assert len(answers) == 4


def test_the_bundles_own_sampling_is_the_default(tiny_bundle, load, tmp_path):
    model = load(bundle=changed_bundle(tiny_bundle, tmp_path, temperature=0.9, top_k=1))
    by_default = model.generate(PROMPTS[0], BASELINE)
    greedy = model.generate(PROMPTS[0], dataclasses.replace(BASELINE, sampling=SamplingOptions()))
    assert by_default.token_ids == greedy.token_ids  # one candidate at any temperature
    model = load(bundle=changed_bundle(tiny_bundle, tmp_path / "hot", temperature=5.0))
    assert model.generate(PROMPTS[0], BASELINE).token_ids != greedy.token_ids


@pytest.mark.parametrize("max_new_tokens", [1, 2, 3, 9, 10])
def test_an_answer_ends_at_max_new_tokens(with_oracle, max_new_tokens):
    model, baseline = with_oracle(PROMPTS[0], wrong=0.0)
    answer = model.generate(PROMPTS[0], GenerationOptions(max_new_tokens=max_new_tokens))
    assert answer.token_ids == baseline.token_ids[:max_new_tokens]
    assert answer.finish_reason == "length"


@pytest.mark.parametrize("max_draft_tokens", [0, 4, 63])
@pytest.mark.parametrize("room", [1, 2, 3, 12])
def test_an_answer_ends_where_the_context_is_full(load, reference, drafters, max_draft_tokens, room):
    prompt = np.random.default_rng(room).integers(3, 384, 64 - room).tolist()
    baseline = reference(prompt)
    oracle = drafters.Oracle([*prompt, *baseline.token_ids], wrong=0.1)
    model = load(oracle, max_context=64)
    answer = model.generate(prompt, GenerationOptions(max_draft_tokens=max_draft_tokens))
    assert answer.token_ids == baseline.token_ids[:room]
    assert answer.finish_reason == "length"
    assert oracle.largest_request <= max(room - 2, 0)


def test_a_prompt_may_leave_room_for_one_token_only(load, reference):
    prompt = np.random.default_rng(0).integers(3, 384, 511).tolist()
    answer = load().generate(prompt)
    assert answer.token_ids == reference(prompt, max_new_tokens=1).token_ids
    assert (len(answer.token_ids), answer.finish_reason) == (1, "length")
    with pytest.raises(ContextLengthError, match="must have fewer than 512 tokens, got 512"):
        load().generate([*prompt, 5])


@pytest.mark.parametrize("place", [0, 1, 7, 30])
@pytest.mark.parametrize("max_draft_tokens", [0, 6])
def test_an_end_of_text_token_ends_the_answer_also_amid_accepted_drafts(
    tiny_bundle, load, reference, drafters, tmp_path, place, max_draft_tokens
):
    baseline = reference(PROMPTS[1])
    place = baseline.token_ids.index(baseline.token_ids[place])
    end = baseline.token_ids[place]
    bundle = changed_bundle(tiny_bundle, tmp_path, eos_token_ids=[2, end])
    oracle = drafters.Oracle([*load().token_ids(PROMPTS[1]), *baseline.token_ids], wrong=0.0)
    model = load(oracle, bundle=bundle)
    answer = model.generate(PROMPTS[1], dataclasses.replace(SPECULATIVE, max_draft_tokens=max_draft_tokens))
    assert answer.token_ids == baseline.token_ids[: place + 1]
    assert answer.finish_reason == "stop"
    assert answer.text == model.tokenizer.decode(baseline.token_ids[:place])


@pytest.mark.parametrize("max_draft_tokens", [0, 6])
def test_a_stop_string_across_tokens_ends_the_answer_before_it(with_oracle, max_draft_tokens):
    prompt = PROMPTS[1]
    model, baseline = with_oracle(prompt)
    tokens = baseline.token_ids
    decode = model.tokenizer.decode
    # The first two neighbours with text of their own, ASCII; the stop string takes a character of each.
    place = next(i for i in range(3, 59) if ascii_text(decode, tokens[i : i + 2]))
    stop = decode([tokens[place]])[-1] + decode([tokens[place + 1]])[0]
    before, found, _ = baseline.text.partition(stop)
    assert found
    options = dataclasses.replace(SPECULATIVE, max_draft_tokens=max_draft_tokens, stop=(stop, "never in the text"))
    pieces = list(model.stream(prompt, options))
    answer = pieces[-1].generation
    assert answer.text == before
    assert answer.finish_reason == "stop"
    assert answer.token_ids == tokens[: len(answer.token_ids)]
    assert decode(answer.token_ids).startswith(before + stop)
    assert not decode(answer.token_ids[:-1]).startswith(before + stop)
    assert "".join(piece.text for piece in pieces) == before


def ascii_text(decode, tokens):
    return all(text and text.isascii() for text in (decode([token]) for token in tokens))


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_pieces_are_the_answer(with_oracle, prompt):
    model, baseline = with_oracle(prompt)
    pieces = list(model.stream(prompt, SPECULATIVE))
    answer = pieces[-1].generation
    assert "".join(piece.text for piece in pieces) == answer.text == baseline.text
    assert tuple(piece.token_id for piece in pieces) == answer.token_ids
    assert [piece.generation for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert sum(piece.drafted for piece in pieces) == answer.statistics.accepted_tokens
    assert answer.text == model.tokenizer.decode(answer.token_ids)


@pytest.mark.parametrize("wrong", [0.0, 0.3, 1.0])
def test_the_statistics_add_up(with_oracle, wrong):
    model, _ = with_oracle(PROMPTS[0], wrong=wrong)
    statistics = model.generate(PROMPTS[0], SPECULATIVE).statistics
    histogram = statistics.accepted_histogram
    assert sum(histogram) == statistics.rounds
    assert sum(accepted * rounds for accepted, rounds in enumerate(histogram)) == statistics.accepted_tokens
    assert statistics.new_tokens == 1 + statistics.rounds + statistics.accepted_tokens == 60
    assert statistics.accepted_tokens <= statistics.drafted_tokens <= 8 * statistics.rounds
    assert (statistics.accepted_tokens == statistics.drafted_tokens) == (wrong == 0)
    assert statistics.accepted_length == pytest.approx(59 / statistics.rounds)
    assert statistics.prompt_tokens == len(model.token_ids(PROMPTS[0]))
    assert statistics.cached_tokens == 0
    seconds = [getattr(statistics, f"{part}_seconds") for part in ("prefill", "draft", "verify", "other")]
    assert min(seconds) > 0
    assert statistics.decode_seconds == pytest.approx(sum(seconds[1:]))
    assert statistics.time_to_first_token_seconds >= statistics.prefill_seconds
    assert statistics.decode_tokens_per_second == pytest.approx(59 / statistics.decode_seconds)


def test_the_callers_own_time_is_not_counted(load, monkeypatch):
    now = 0.0
    monkeypatch.setattr(answer_stream, "time", SimpleNamespace(perf_counter=lambda: now))
    pieces = []
    for piece in load().stream(PROMPTS[0], dataclasses.replace(BASELINE, max_new_tokens=5)):
        pieces.append(piece)
        now += 1.0
    assert now == 5.0
    assert pieces[-1].generation.statistics.other_seconds == 0


def test_the_next_turn_reuses_the_turns_before_it_and_answers_as_if_fresh(load, reference):
    model = load()
    options = dataclasses.replace(SPECULATIVE, max_new_tokens=30)
    messages = list(CONVERSATION)
    for turn in range(3):
        answer = model.generate(messages, options)
        fresh = reference(messages, max_new_tokens=30)
        assert (answer.token_ids, answer.text) == (fresh.token_ids, fresh.text)
        # The template and the question at the least; the answer too where its text gives its tokens again.
        assert answer.statistics.cached_tokens >= (20 if turn else 0)
        messages += [{"role": "assistant", "content": answer.text}, {"role": "user", "content": f"Why {turn}?"}]


def test_tokens_of_the_last_answer_are_reused(load, reference):
    model = load()
    first = model.token_ids(PROMPTS[0])
    answer = model.generate(first, BASELINE)
    second = [*first, *answer.token_ids, 9, 10, 11]
    again = model.generate(second, BASELINE)
    # All but the last token of the answer, which the target had not read.
    assert again.statistics.cached_tokens == len(first) + 59
    assert again.token_ids == reference(second).token_ids


def test_a_second_answer_beside_an_open_one_is_refused_and_leaves_it_alone(load, reference):
    model = load()
    first = model.stream(PROMPTS[0], BASELINE)
    token_ids = [next(first).token_id]
    second = model.stream(PROMPTS[1], SPECULATIVE)
    with pytest.raises(ModelUseError, match="this thread still has an open answer"):
        next(second)
    token_ids += [piece.token_id for piece in first]
    assert tuple(token_ids) == reference(PROMPTS[0]).token_ids


def test_streams_are_answered_in_the_order_in_which_they_are_read(load, reference):
    model = load()
    first = model.stream(PROMPTS[0], BASELINE)
    second = model.stream(PROMPTS[1], BASELINE)
    assert tuple(piece.token_id for piece in second) == reference(PROMPTS[1]).token_ids
    assert tuple(piece.token_id for piece in first) == reference(PROMPTS[0]).token_ids


def test_an_abandoned_stream_leaves_a_usable_model(load, reference):
    model = load()
    for count in range(1, 8):
        stream = model.stream(PROMPTS[1], SPECULATIVE)
        list(itertools.islice(stream, count))
        stream.close()
    assert model.generate(PROMPTS[1], SPECULATIVE).token_ids == reference(PROMPTS[1]).token_ids


class InterruptedLookup(PromptLookup):
    """Prompt lookup that a Ctrl-C meets at the n-th call of any of its methods."""

    calls_left = -1

    def _count(self):
        self.calls_left -= 1
        if self.calls_left == 0:
            raise KeyboardInterrupt

    def rewind(self, length):
        self._count()
        super().rewind(length)
        self._count()

    def observe(self, token_ids, hidden_states):
        self._count()
        super().observe(token_ids, hidden_states)
        self._count()

    def propose(self, next_token_id, max_draft_tokens):
        self._count()
        return super().propose(next_token_id, max_draft_tokens)


def test_interruptions_leave_a_model_that_answers_as_if_fresh(load, reference):
    drafter = InterruptedLookup()
    model = load(drafter)
    generator = np.random.default_rng(1)
    for _ in range(30):
        prompt = PROMPTS[generator.integers(3)]
        drafter.calls_left = int(generator.integers(1, 60))
        with pytest.raises(KeyboardInterrupt):
            model.generate(prompt, SPECULATIVE)
        prompt = PROMPTS[generator.integers(3)]
        drafter.calls_left = -1
        assert model.generate(prompt, SPECULATIVE).token_ids == reference(prompt).token_ids


@pytest.mark.parametrize(
    ("proposal", "message"),
    [
        (Proposal.chain([1] * 9), "must propose 8 tokens at most, got 9"),
        (Proposal.chain([1, 384]), "draft tokens must be between 0 and 383"),
        (Proposal.chain([-1]), "draft tokens must be between 0 and 383"),
    ],
)
def test_a_drafter_that_breaks_its_bounds_is_refused_and_leaves_a_usable_model(load, reference, proposal, message):
    class Careless(Drafter):
        def rewind(self, length):
            pass

        def observe(self, token_ids, hidden_states):
            pass

        def propose(self, next_token_id, max_draft_tokens):
            return proposal

    model = load(Careless())
    with pytest.raises(InputError, match=message):
        model.generate(PROMPTS[0], SPECULATIVE)
    assert model.generate(PROMPTS[0], BASELINE).token_ids == reference(PROMPTS[0]).token_ids


def test_a_drafter_that_does_not_derive_from_drafter_is_refused(tiny_bundle):
    class Alike:
        def rewind(self, length): ...

        def observe(self, token_ids, hidden_states): ...

        def propose(self, next_token_id, max_draft_tokens): ...

    for drafter in (Alike(), Alike, None):
        with pytest.raises(InputError, match="the drafter must be a name or a Drafter, got an object of"):
            load_model(tiny_bundle, drafter=drafter)


def test_a_drafter_must_have_all_three_methods_and_no_more():
    class Unable(Drafter):
        def rewind(self, length): ...

        def observe(self, token_ids, hidden_states): ...

    with pytest.raises(TypeError, match="propose"):
        Unable()


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "the prompt must have one token or more, got none"),
        ([], "the prompt must have one token or more, got none"),
        ([384], "token ids must be between 0 and 383, got 384"),
        ([5, -1], "token ids must be between 0 and 383, got -1"),
        ([1.5], "the prompt must be text, a list of messages, or a list of token ids"),
        ([True], "the prompt must be text, a list of messages, or a list of token ids"),
        (["text"], "the prompt must be text, a list of messages, or a list of token ids"),
        ([[1, 2], [3]], "the prompt must be text, a list of messages, or a list of token ids"),
        (None, "the prompt must be text, a list of messages, or a list of token ids"),
        (7, "the prompt must be text, a list of messages, or a list of token ids"),
        ([10**30], "the prompt must be text, a list of messages, or a list of token ids"),
    ],
    ids=str,
)
def test_a_prompt_that_is_none_is_refused_at_the_call(load, prompt, message):
    with pytest.raises(InputError, match=message):
        load().stream(prompt)


def test_text_whose_tokens_the_target_does_not_know_is_refused(tiny_bundle, load, tmp_path):
    copy = copytree(tiny_bundle, tmp_path / "bundle")
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": 400, "content": "<|new|>"})
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    relist(copy, "tokenizer.json")
    with pytest.raises(InputError, match=r"token ids must be between 0 and 383, got .* to 384"):
        load(bundle=copy).generate("a <|new|> b")


def relist(bundle, name):
    """Write the size and checksum of a changed file into the manifest."""
    from dovetail_ort_runtime.bundle.bundle import sha256

    manifest = json.loads((bundle / "manifest.json").read_text())
    entry = next(entry for entry in manifest["files"] if entry["path"] == name)
    entry.update(num_bytes=(bundle / name).stat().st_size, sha256=sha256(bundle / name))
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_messages_need_a_chat_template(tiny_bundle, load, tmp_path):
    copy = copytree(tiny_bundle, tmp_path / "bundle")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["tokenizer"]["chat_template"] = None
    (copy / "manifest.json").write_text(json.dumps(manifest))
    model = load(bundle=copy)
    assert not model.has_chat_template
    with pytest.raises(InputError, match="this bundle has no chat template"):
        model.generate(CONVERSATION)


def test_a_conversation_is_rendered_with_the_bundles_template(load):
    model = load()
    text = "<|im_start|>user\nWhat holds the pins?<|im_end|>\n<|im_start|>assistant\n"
    assert model.token_ids(CONVERSATION) == model.tokenizer.encode(text, add_special_tokens=False)


def test_a_model_says_its_limits(load, tiny_bundle):
    model = load(max_context=100)
    assert (model.max_context, model.threads) == (100, 1)
    assert model.manifest == Bundle(tiny_bundle).manifest


@pytest.fixture
def switching(tiny_bundle, tmp_path):
    """The tiny bundle with a chat template that has a switch."""
    copy = copytree(tiny_bundle, tmp_path / "bundle")
    template = copy / "chat_template.jinja"
    template.write_text(template.read_text() + "{% if thinking is false %}<think></think>{% endif %}")
    relist(copy, "chat_template.jinja")
    return copy


def test_template_arguments_reach_the_prompt(load, switching):
    model = load(bundle=switching)
    usual, switched = (
        model.token_ids(CONVERSATION),
        model.token_ids(CONVERSATION, template_arguments={"thinking": False}),
    )
    assert switched == usual + model.tokenizer.encode("<think></think>", add_special_tokens=False)
    expected = model.generate(switched, BASELINE).token_ids
    assert model.generate(CONVERSATION, BASELINE, template_arguments={"thinking": False}).token_ids == expected
    assert (
        model.generate(CONVERSATION, BASELINE, template_arguments={}).token_ids
        == model.generate(usual, BASELINE).token_ids
    )


@pytest.mark.parametrize(
    ("prompt", "arguments", "message"),
    [
        (
            "A dovetail",
            {"thinking": False},
            "template arguments need a prompt of messages; .* leave out thinking",
        ),
        ([5, 6], {"thinking": False}, "template arguments need a prompt of messages"),
        (CONVERSATION, {"add_generation_prompt": False}, "must not be called add_generation_prompt"),
        (CONVERSATION, {"messages": []}, "must not be called messages"),
        (CONVERSATION, {1: 2}, "must be an identifier"),
        (CONVERSATION, [("thinking", False)], "template arguments must be a mapping of names and values, got list"),
    ],
)
def test_template_arguments_that_no_template_takes_are_refused_at_the_call(load, prompt, arguments, message):
    with pytest.raises(InputError, match=message):
        load().stream(prompt, template_arguments=arguments)
