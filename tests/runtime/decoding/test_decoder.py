"""Rounds on a tiny target with drafters that are right, wrong or interrupted: the tokens are those without drafts."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.decoding.decoder import Decoder
from dovetail_ort_runtime.drafting.prompt_lookup import PromptLookup
from dovetail_ort_runtime.engine.forward_rows import ForwardRows
from dovetail_ort_runtime.options import SamplingOptions

GREEDY = SamplingOptions()
PROMPTS = [np.random.default_rng(seed).integers(3, 384, length).tolist() for seed, length in ((0, 1), (1, 9), (2, 70))]


@pytest.fixture
def decoder(target_of, tiny_bundle):
    """`decoder(drafter)`: a fresh one on the native bundle."""

    def make(drafter, bundle=tiny_bundle):
        return Decoder(target_of(bundle), drafter)

    return make


def continued(decoder, prompt, num_tokens, max_draft_tokens, *, sampling=GREEDY):
    """The first `num_tokens` tokens after a prompt."""
    decoder.begin(prompt, sampling)
    tokens = [decoder.root]
    while len(tokens) < num_tokens:
        tokens += decoder.next_round(min(max_draft_tokens, num_tokens - len(tokens) - 1)).token_ids
    return tokens


def states_of(target, tokens):
    """Hidden states of a text, read afresh in chunks of seven."""
    target.cache.rewind(0)
    states = []
    for start in range(0, len(tokens), 7):
        chunk = np.asarray(tokens[start : start + 7])
        states.append(target.forward(ForwardRows.chain(chunk, start)).hidden_states.copy())
        target.cache.keep(range(len(chunk)))
    return np.concatenate(states)


@pytest.fixture
def baseline(decoder, drafters):
    """`baseline(prompt, num_tokens)`: what the target says by itself."""
    return lambda prompt, num_tokens, **settings: continued(
        decoder(drafters.Recorder(), **settings), prompt, num_tokens, 0
    )


@pytest.mark.parametrize("prompt", PROMPTS, ids=len)
@pytest.mark.parametrize("max_draft_tokens", [1, 3, 8, 63])
def test_greedy_chains_right_and_wrong_give_the_baseline_tokens(decoder, drafters, baseline, prompt, max_draft_tokens):
    expected = baseline(prompt, 100)
    for drafter in (
        drafters.Oracle([*prompt, *expected], wrong=0.2, seed=max_draft_tokens),
        drafters.RandomChains(384, seed=max_draft_tokens),
        PromptLookup(),
    ):
        assert continued(decoder(drafter), prompt, 100, max_draft_tokens) == expected


@pytest.mark.parametrize("prompt", PROMPTS, ids=len)
@pytest.mark.parametrize("max_draft_tokens", [2, 7, 16])
def test_a_portable_target_verifies_the_first_path_of_a_tree_and_gives_the_baseline_tokens(
    decoder, drafters, baseline, tiny_bundle_portable, prompt, max_draft_tokens
):
    # A row of a side branch would have other bits than in a chain, so that none may be kept, right as it is.
    expected = baseline(prompt, 100, bundle=tiny_bundle_portable)
    drafter = drafters.TreeOracle([*prompt, *expected], wrong=0.4)
    tree_decoder = decoder(drafter, bundle=tiny_bundle_portable)
    assert continued(tree_decoder, prompt, 100, max_draft_tokens) == expected


@pytest.mark.parametrize("prompt", PROMPTS, ids=len)
@pytest.mark.parametrize("max_draft_tokens", [2, 7, 16])
def test_greedy_trees_kept_on_side_branches_give_the_baseline_tokens(
    decoder, drafters, baseline, prompt, max_draft_tokens
):
    expected = baseline(prompt, 100)
    drafter = drafters.TreeOracle([*prompt, *expected], wrong=0.4)
    tree_decoder = decoder(drafter)
    accepted = []
    next_round = tree_decoder.next_round

    def noting(number):
        result = next_round(number)
        accepted.append(result.num_accepted > 0)
        return result

    tree_decoder.next_round = noting
    assert continued(tree_decoder, prompt, 100, max_draft_tokens) == expected
    assert np.mean(accepted) > 0.8  # with the first path alone 0.6


def test_a_kept_side_branch_leaves_the_cache_of_its_own_path(decoder, drafters, baseline):
    prompt = PROMPTS[1]
    expected = baseline(prompt, 60)
    # The path is always wrong, so that rounds keep the side branch and move its slots.
    drafter = drafters.TreeOracle([*prompt, *expected], wrong=1.0)
    side = decoder(drafter)
    continued(side, prompt, 60, 6)
    length = side.target.cache.length
    following = np.arange(5)
    behind_the_branch = side.target.forward(ForwardRows.chain(following, length)).logits.copy()
    states_of(side.target, [*prompt, *expected][:length])
    behind_a_fresh_reading = side.target.forward(ForwardRows.chain(following, length)).logits
    np.testing.assert_array_equal(behind_the_branch, behind_a_fresh_reading)


def test_the_drafter_sees_the_hidden_states_of_kept_side_branches(decoder, drafters, baseline):
    prompt = PROMPTS[1]
    text = [*prompt, *baseline(prompt, 60)]
    drafter = drafters.TreeOracle(text, wrong=0.5)
    side = decoder(drafter)
    continued(side, prompt, 60, 6)
    assert drafter.token_ids == text[:-1]
    np.testing.assert_array_equal(drafter.hidden_states, states_of(side.target, text[:-1]))


def test_sampling_with_a_seed_gives_the_same_tokens_with_and_without_drafts(decoder, drafters):
    sampling = SamplingOptions(temperature=0.8, top_k=50, top_p=0.95, repetition_penalty=1.2, seed=5)
    prompt = PROMPTS[1]
    expected = continued(decoder(drafters.Recorder()), prompt, 100, 0, sampling=sampling)
    assert expected != continued(decoder(drafters.Recorder()), prompt, 100, 0)
    drafter = drafters.Oracle([*prompt, *expected], wrong=0.3)
    assert continued(decoder(drafter), prompt, 100, 6, sampling=sampling) == expected
    assert len(drafter.token_ids) == len(prompt) + 99


@pytest.mark.parametrize("wrong", [0.0, 0.3, 1.0])
def test_the_drafter_sees_every_read_token_once_with_the_bits_of_a_fresh_reading(decoder, drafters, baseline, wrong):
    prompt = PROMPTS[2]
    text = [*prompt, *baseline(prompt, 60)]
    drafter = drafters.Oracle(text, wrong=wrong)
    speculative = decoder(drafter)
    continued(speculative, prompt, 60, 5)
    assert drafter.token_ids == text[:-1]  # the newest token is not read yet
    np.testing.assert_array_equal(drafter.hidden_states, states_of(speculative.target, text[:-1]))


def test_the_next_text_reads_only_what_differs_and_the_drafter_follows(decoder, drafters, baseline):
    first = PROMPTS[2]
    drafter = drafters.Recorder()
    reused = decoder(drafter)
    answer = continued(reused, first, 20, 0)
    second = [*first, *answer, *PROMPTS[1]]
    assert reused.begin(second, GREEDY) == len(first) + 19
    assert drafter.token_ids == second
    np.testing.assert_array_equal(drafter.hidden_states, states_of(decoder(drafters.Recorder()).target, second))
    assert continued(reused, second, 40, 0) == baseline(second, 40)


def test_a_text_that_was_read_already_reads_its_last_token_again(decoder, drafters, baseline):
    again = decoder(drafters.Recorder())
    expected = continued(again, PROMPTS[2], 20, 0)
    assert again.begin(PROMPTS[2], GREEDY) == len(PROMPTS[2]) - 1
    assert continued(again, PROMPTS[2], 20, 0) == expected == baseline(PROMPTS[2], 20)


def test_a_shorter_text_with_the_same_beginning_forgets_the_rest(decoder, drafters, baseline):
    drafter = drafters.Recorder()
    shorter = decoder(drafter)
    continued(shorter, PROMPTS[2], 20, 0)
    prompt = [*PROMPTS[2][:30], 7]
    assert shorter.begin(prompt, GREEDY) == 30
    assert drafter.token_ids == prompt
    assert continued(shorter, prompt, 20, 0) == baseline(prompt, 20)


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 128, 129, 511])
def test_a_prompt_of_any_length_is_read_as_in_other_chunks(decoder, drafters, length):
    prompt = np.random.default_rng(length).integers(0, 384, length).tolist()
    whole = decoder(drafters.Recorder())
    whole.begin(prompt, GREEDY)
    target = decoder(drafters.Recorder()).target
    if length > 1:
        states_of(target, prompt[:-1])
    last = target.forward(ForwardRows.chain(np.asarray(prompt[-1:]), length - 1))
    assert whole.root == last.logits[0].argmax()
    assert whole.target.cache.length == length


@pytest.mark.parametrize("call", range(1, 12))
@pytest.mark.parametrize("place", ["propose", "observe", "observe afterwards", "rewind", "forward", "keep", "accept"])
def test_an_interruption_anywhere_leaves_the_decoder_as_good_as_fresh(
    decoder, drafters, baseline, monkeypatch, place, call
):
    prompt = PROMPTS[2]
    expected = baseline(prompt, 40)
    drafter = drafters.Oracle([*prompt, *expected], wrong=0.3)
    interrupted = decoder(drafter)
    continued(interrupted, prompt[:40], 3, 2)  # something to rewind and to reuse
    with monkeypatch.context() as patches:
        interrupt(patches, interrupted, place, call)
        try:
            continued(interrupted, prompt, 40, 4)
        except KeyboardInterrupt:
            pass
        else:
            assert place == "rewind", "the interruption was not met"  # a text rewinds once
    assert continued(interrupted, prompt, 40, 4) == expected
    assert drafter.token_ids == [*prompt, *expected][:-1]
    np.testing.assert_array_equal(drafter.hidden_states, states_of(interrupted.target, drafter.token_ids))


def interrupt(patches, decoder, place, call):
    """Let the `call`-th call at `place` end in a KeyboardInterrupt."""
    import dovetail_ort_runtime.decoding.decoder as module

    owner, name = {
        "propose": (decoder.drafter, "propose"),
        "observe": (decoder.drafter, "observe"),
        "observe afterwards": (decoder.drafter, "observe"),
        "rewind": (decoder.drafter, "rewind"),
        "forward": (decoder.target, "forward"),
        "keep": (decoder.target.cache, "keep"),
        "accept": (module, "accept"),
    }[place]
    original = getattr(owner, name)
    left = [call]

    def interrupted(*arguments, **settings):
        left[0] -= 1
        if left[0] == 0 and place in ("observe afterwards", "forward"):
            original(*arguments, **settings)
        if left[0] == 0:
            raise KeyboardInterrupt
        return original(*arguments, **settings)

    patches.setattr(owner, name, interrupted)


def test_a_drafter_whose_rewind_was_interrupted_observes_the_text_anew(decoder, drafters, baseline):
    prompt = PROMPTS[2]

    class Forgetful(drafters.Recorder):
        interrupt = False

        def rewind(self, length):
            if self.interrupt:
                super().rewind(0)
                raise KeyboardInterrupt
            super().rewind(length)

    drafter = Forgetful()
    interrupted = decoder(drafter)
    continued(interrupted, prompt, 5, 0)
    drafter.interrupt = True
    with pytest.raises(KeyboardInterrupt):
        interrupted.begin(prompt, GREEDY)
    drafter.interrupt = False
    answer = continued(interrupted, prompt, 5, 0)
    assert answer == baseline(prompt, 5)
    assert drafter.token_ids == [*prompt, *answer][:-1]


def test_a_drafter_is_given_what_it_reads(target_of, drafters, tiny_tapped_bundle):
    class OfFeatures(drafters.Recorder):
        reads = "drafter_features"

    bundle = Bundle(tiny_tapped_bundle)
    taps = bundle.manifest.drafter.taps
    recorded = {}
    for drafter in (drafters.Recorder(), OfFeatures()):
        decoder = Decoder(target_of(tiny_tapped_bundle, taps=taps), drafter)
        continued(decoder, PROMPTS[2], 20, 3)
        recorded[drafter.reads] = np.array(drafter.hidden_states)
    output = target_of(tiny_tapped_bundle, taps=taps).read(np.array(drafter.token_ids))
    np.testing.assert_array_equal(recorded["hidden_states"], output.hidden_states)
    np.testing.assert_array_equal(recorded["drafter_features"], output.features)
    assert not np.array_equal(output.features, output.hidden_states)
