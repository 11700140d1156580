"""Drafting while the target verifies: what comes true is used, the rest dropped, and answers stay as they are."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.decoding.decoder import Decoder
from dovetail_ort_runtime.drafting import drafting_ahead
from dovetail_ort_runtime.drafting.drafter import ModelDrafter, NoDrafter
from dovetail_ort_runtime.drafting.drafting_ahead import DraftingAhead, Verdict
from dovetail_ort_runtime.drafting.feature_drafter import FeatureDrafter
from dovetail_ort_runtime.drafting.proposal import Proposal
from dovetail_ort_runtime.drafting.shapes import ChainShape, TreeShape
from dovetail_ort_runtime.engine.draft_graph import DraftGraph
from dovetail_ort_runtime.loading import draft_models
from dovetail_ort_runtime.loading.drafters import make_drafter
from dovetail_ort_runtime.loading.load_options import LoadOptions
from dovetail_ort_runtime.options import SamplingOptions

GREEDY = SamplingOptions()
PROMPT = np.random.default_rng(1).integers(3, 384, 9).tolist()
FOUR = ChainShape.fixed(4)
STATES = np.zeros((9, 4), np.float32)


class Scripted(ModelDrafter):
    """In the place of a drafter: says what it is given, and notes what it is asked."""

    def __init__(self, chains=None):
        super().__init__(FOUR)
        self.chains = chains or {}
        self.asked = []

    def rewind(self, length):
        pass

    def observe(self, token_ids, hidden_states):
        pass

    def draft(self, next_token_id, max_draft_tokens, shape):
        self.asked.append(next_token_id)
        return Proposal.chain(self.chains.get(next_token_id, []))


class ScriptedAhead(DraftingAhead):
    """Says at once what it is given to say after verdicts, or first waits to be stopped."""

    def __init__(self, inner, after=None, error=None, *, is_slow=False):
        super().__init__(inner)
        self.after = after or {}
        self.error = error
        self.is_slow = is_slow
        self.num_begun = 0
        self.num_tokens = None
        self.was_stopped = False

    def draft_after_verdicts(self, next_token_id, drafted, *, num_verdicts, num_tokens, is_stopped):
        self.num_begun += 1
        self.num_tokens = num_tokens
        if self.error is not None:
            raise self.error
        while self.is_slow and not is_stopped():
            pass
        self.was_stopped = is_stopped()
        return {
            Verdict(*verdict): Proposal.chain(chain, confidences=[0.5 ** (n + 1) for n in range(len(chain))])
            for verdict, chain in self.after.items()
        }


def test_a_verdict_that_comes_true_finds_its_chain_ready():
    inner = Scripted({5: [6, 7]})
    ahead = ScriptedAhead(inner, {(2, 8): [9, 10, 11], (1, 3): [4]})
    ahead.observe(np.array([1, 2]), STATES[:2])
    assert ahead.draft(5, 4, FOUR).token_ids.tolist() == [6, 7]
    ahead.wait()
    ahead.observe(np.array([5, 6, 7]), STATES[:3])  # all accepted
    assert ahead.is_ready(8)
    assert not ahead.is_ready(3)
    assert ahead.draft(8, 4, FOUR).token_ids.tolist() == [9, 10, 11]
    assert inner.asked == [5]
    assert (ahead.num_drafts, ahead.num_ready) == (2, 1)


@pytest.mark.parametrize(
    ("kept", "bonus"),
    [([5, 6], 8), ([5], 3), ([5, 6, 7], 3), ([5, 9], 3)],
    ids=["fewer", "none", "other bonus", "other tokens"],
)
def test_other_verdicts_are_drafted_afresh(kept, bonus):
    inner = Scripted({5: [6, 7], bonus: [50]})
    ahead = ScriptedAhead(inner, {(2, 8): [9], (1, 3): [4]})
    ahead.draft(5, 4, FOUR)
    ahead.wait()
    ahead.observe(np.array(kept), STATES[: len(kept)])
    assert ahead.draft(bonus, 4, FOUR).token_ids.tolist() == [50]
    assert inner.asked == [5, bonus]


@pytest.mark.parametrize(
    ("shape", "limit", "expected"),
    [
        (FOUR, 2, [9, 10]),
        (ChainShape(least_probabilities=(0.0, 0.3, 0.0)), 4, [9]),
        (ChainShape(least_probabilities=(0.6,)), 4, []),
        (ChainShape.fixed(8), 8, [9, 10, 11]),
    ],
)
def test_a_ready_chain_is_cut_to_the_shape_that_is_asked_for(shape, limit, expected):
    ahead = ScriptedAhead(Scripted({5: [6]}), {(1, 8): [9, 10, 11]})
    ahead.draft(5, 4, FOUR)
    ahead.wait()
    ahead.observe(np.array([5, 6]), STATES[:2])
    assert ahead.draft(8, limit, shape).token_ids.tolist() == expected


@pytest.mark.parametrize(("num_tokens", "num_ahead"), [(2, 6), (8, 8)])
def test_a_chain_of_fixed_length_is_drafted_ahead_as_long(num_tokens, num_ahead):
    """Six tokens or more: the next chain of a planner may be longer than the last one."""
    inner = Scripted({5: [6]})
    inner.shape = ChainShape.fixed(num_tokens)
    ahead = ScriptedAhead(inner, {(1, 8): [9, 10, 11]})
    ahead.propose(5, 8)
    ahead.wait()
    ahead.observe(np.array([5, 6]), STATES[:2])
    assert ahead.propose(8, 8).token_ids.tolist() == [9, 10, 11][:num_tokens]
    ahead.wait()
    assert ahead.num_tokens == num_ahead


@pytest.mark.parametrize(
    ("device", "shape", "drafter"),
    [
        ("elsewhere", FOUR, DraftingAhead),
        ("elsewhere", TreeShape(num_rows=7, num_expansions=4, width=10), FeatureDrafter),
        ("cpu", FOUR, FeatureDrafter),
    ],
)
def test_fixed_chains_on_a_device_of_their_own_are_drafted_ahead(
    target_of, tiny_drafting_bundle, monkeypatch, device, shape, drafter
):
    class There(DraftGraph):
        def __init__(self, *arguments, **settings):
            super().__init__(*arguments, **settings)
            self.device = device

    monkeypatch.setattr(draft_models, "DraftGraph", There)
    made = make_drafter(
        Bundle(tiny_drafting_bundle), target_of(tiny_drafting_bundle), LoadOptions(drafter="dgf", draft_shape=shape)
    )
    assert type(made) is drafter


@pytest.mark.parametrize("end", [lambda it: it.observe(np.array([5]), STATES[:1]), lambda it: it.rewind(0)])
def test_the_thread_is_stopped_when_the_verdict_is_there(end):
    ahead = ScriptedAhead(Scripted({5: [6]}), is_slow=True)
    ahead.draft(5, 4, FOUR)
    end(ahead)
    assert ahead.was_stopped


def test_a_thread_that_is_late_is_left_out_and_tried_from_time_to_time():
    ahead = ScriptedAhead(Scripted({5: [6]}), is_slow=True)

    def begins():
        """Whether the thread works in the next round."""
        before = ahead.num_begun
        ahead.draft(5, 4, FOUR)
        if not ahead.is_slow:
            ahead.wait()
        ahead.observe(np.array([5]), STATES[:1])
        return ahead.num_begun > before

    begun = [begins() for _ in range(96)]
    assert begun[:4] == [True] * 4
    assert sum(begun[4:]) == 3
    ahead.is_slow = False  # the target has become slow: a long text, fewer threads
    for _ in range(20 * 32):
        begins()
    assert begins()


def test_what_ends_the_thread_reaches_the_caller_and_the_drafter_goes_on():
    ahead = ScriptedAhead(Scripted({5: [6]}), error=RuntimeError("the device is gone"))
    ahead.draft(5, 4, FOUR)
    with pytest.raises(RuntimeError, match="the device is gone"):
        ahead.observe(np.array([5]), STATES[:1])
    ahead.error = None
    ahead.rewind(0)
    assert ahead.draft(5, 4, FOUR).token_ids.tolist() == [6]
    ahead.observe(np.array([5]), STATES[:1])


@pytest.fixture
def drafting(target_of, tiny_drafting_bundle_fp32):
    """A target, its head, and a prompt read by both."""
    target = target_of(tiny_drafting_bundle_fp32)
    drafter = make_drafter(Bundle(tiny_drafting_bundle_fp32), target, LoadOptions(drafter="dgf", draft_shape=FOUR))
    decoder = Decoder(target, drafter)
    decoder.begin(PROMPT, GREEDY)
    return decoder


def after_verdicts(drafting, drafted, **settings):
    """What is drafted after verdicts on a chain of the decoder's root."""
    settings = {"is_stopped": lambda: False, **settings}
    return DraftingAhead(drafting.drafter).draft_after_verdicts(drafting.root, drafted, **settings)


def test_each_chain_is_what_would_be_drafted_if_the_drafter_had_foreseen_the_features(drafting):
    """After a verdict the drafter's own features stand where the target's would: given those, it drafts the same."""
    drafter, root = drafting.drafter, drafting.root
    drafted = drafter.propose(root, 4).token_ids.tolist()
    chains = after_verdicts(drafting, drafted, num_verdicts=6, num_tokens=3)
    assert len(chains) == 6
    assert {verdict.num_accepted for verdict in chains} >= {0, 1}
    for verdict, chain in chains.items():
        accepted = drafted[: verdict.num_accepted]
        drafter.rewind(len(PROMPT))
        features = foreseen(drafter, root, accepted)
        drafter.observe(np.array([root, *accepted]), features)
        afresh = drafter.draft(verdict.bonus_token, 3, ChainShape.fixed(3))
        assert chain.token_ids.tolist() == afresh.token_ids.tolist()
        # Here the rows came in other forwards, and attention adds in another order: roundings of 6e-8, some in a row.
        np.testing.assert_allclose(chain.confidences, afresh.confidences, rtol=1e-5)


def foreseen(drafter, root, token_ids):
    """(n + 1, E), the drafter's features of the root and of some tokens after it."""
    cache = drafter.model.cache
    output = drafter.catch_up(root, 1)
    stable, features = cache.length, [output.hidden_states[-1].copy()]
    for token_id in token_ids:
        output = drafter.read_on(output.hidden_states, token_id)
        features.append(output.hidden_states[-1].copy())
    cache.rewind(stable)
    return np.array(features)


def test_the_stable_cache_is_as_without_drafting_ahead(drafting):
    drafter, root = drafting.drafter, drafting.root
    drafted = drafter.propose(root, 4).token_ids.tolist()
    cache = drafter.model.cache
    before = [buffer[:, :, : cache.length].copy() for buffer in cache.buffers]
    length = cache.length
    after_verdicts(drafting, drafted, num_verdicts=4, num_tokens=3)
    assert cache.length == length
    for was, buffer in zip(before, cache.buffers, strict=True):
        np.testing.assert_array_equal(buffer[:, :, :length], was)


def test_stopped_work_ends_at_the_next_forward(drafting):
    asked = []

    def is_stopped():
        asked.append(len(asked))
        return len(asked) > 2

    chains = after_verdicts(drafting, [5, 6, 7], num_verdicts=6, num_tokens=5, is_stopped=is_stopped)
    assert len(asked) <= 5
    assert len(chains) <= 1


class Foresight:
    """What will come, one token in five wrong: a random head is never right.

    Attributes:
        text: prompt and answer.
        place: position of the next token that is decided.
    """

    def __init__(self, text):
        self.text = text
        self.place = 0
        self.wrong = np.random.default_rng(0).random(1000) < 0.2

    def chain(self, place, length):
        right = np.array(self.text[place : place + length])
        is_wrong = self.wrong[place : place + len(right)]
        return Proposal.chain(np.where(is_wrong, (right + 1) % 384, right))


class Informed(FeatureDrafter):
    """Runs the head, and then says what will come."""

    def __init__(self, model, foresight):
        super().__init__(model)
        self.foresight = foresight

    def rewind(self, length):
        super().rewind(length)
        self.foresight.place = min(self.foresight.place, length)

    def observe(self, token_ids, hidden_states):
        super().observe(token_ids, hidden_states)
        self.foresight.place += len(token_ids)

    def draft(self, next_token_id, max_draft_tokens, shape):
        drafted = super().draft(next_token_id, max_draft_tokens, shape)
        return self.foresight.chain(self.foresight.place + 1, len(drafted))


class InformedAhead(DraftingAhead):
    """Runs the head, and foresees the verdict that accepts all."""

    def draft_after_verdicts(self, next_token_id, drafted, **settings):
        super().draft_after_verdicts(next_token_id, drafted, **settings)
        foresight = self.drafter.foresight
        place = foresight.place + 1
        end = place + len(drafted)
        if drafted != foresight.text[place:end] or end >= len(foresight.text):
            return {}
        return {Verdict(len(drafted), foresight.text[end]): foresight.chain(end + 1, 4)}


@pytest.mark.parametrize("name", ["tiny_drafting_bundle", "tiny_tapped_bundle"])
def test_answers_are_those_of_the_baseline(name, target_of, request, monkeypatch):
    monkeypatch.setattr(drafting_ahead, "_LEAST_IN_TIME", 0.0)  # a tiny target is there before the thread is done
    directory = request.getfixturevalue(name)
    bundle = Bundle(directory)
    baseline = Decoder(target_of(directory), NoDrafter())
    baseline.begin(PROMPT, GREEDY)
    expected = [baseline.root, *(baseline.next_round(0).token_ids[0] for _ in range(149))]
    target = target_of(directory, taps=bundle.manifest.drafter.taps)
    head = make_drafter(bundle, target, LoadOptions(drafter="dgf", draft_shape=FOUR))
    ahead = InformedAhead(Informed(head.model, Foresight([*PROMPT, *expected])))
    decoder = Decoder(target, ahead)
    for _ in range(2):
        decoder.begin(PROMPT, GREEDY)
        tokens = [decoder.root]
        while len(tokens) < 150:
            tokens += decoder.next_round(min(4, 149 - len(tokens))).token_ids
        assert tokens == expected
    assert 10 < ahead.num_ready < ahead.num_drafts


def test_an_interrupted_round_leaves_both_sessions_usable(target_of, tiny_drafting_bundle, monkeypatch):
    target = target_of(tiny_drafting_bundle)
    ahead = DraftingAhead(
        make_drafter(Bundle(tiny_drafting_bundle), target, LoadOptions(drafter="dgf", draft_shape=FOUR))
    )
    decoder = Decoder(target, ahead)
    decoder.begin(PROMPT, GREEDY)
    expected = [decoder.root, *decoder.next_round(4).token_ids, *decoder.next_round(4).token_ids]
    decoder.rewind(0)
    decoder.begin(PROMPT, GREEDY)
    with monkeypatch.context() as patches:
        patches.setattr(target, "forward", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            decoder.next_round(4)
    decoder.begin(PROMPT, GREEDY)
    again = [decoder.root]
    while len(again) < len(expected):
        again += decoder.next_round(4).token_ids
    assert again[: len(expected)] == expected
