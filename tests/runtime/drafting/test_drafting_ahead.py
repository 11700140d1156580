"""Drafting while the target verifies: what comes true is used, the rest dropped, and answers stay as they are."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.decoding.decoder import Decoder
from dovetail_ort_runtime.drafting import drafting_ahead
from dovetail_ort_runtime.drafting.drafter import NoDrafter
from dovetail_ort_runtime.drafting.drafting_ahead import DraftingAhead
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


class Scripted:
    """In the place of a drafter: says what it is given, and notes what it is asked."""

    def __init__(self, chains=None, ahead=None, error=None, wait=False):
        self.chains, self.ahead, self.error, self.wait = chains or {}, ahead or {}, error, wait
        self.length, self.asked, self.stopped = 0, [], threading.Event()

    def rewind(self, length):
        self.length = length

    def observe(self, token_ids, hidden_states):
        self.length += len(token_ids)

    def draft(self, next_token_id, max_draft_tokens, shape):
        self.asked.append(next_token_id)
        return Proposal.chain(self.chains.get(next_token_id, []))

    def draft_after_verdicts(self, next_token_id, drafted, *, num_verdicts, num_tokens, is_stopped):
        self.num_tokens = num_tokens
        if self.error is not None:
            raise self.error
        while self.wait and not is_stopped():
            pass
        if is_stopped():
            self.stopped.set()
        return {
            verdict: Proposal.chain(chain, confidences=[0.5 ** (n + 1) for n in range(len(chain))])
            for verdict, chain in self.ahead.items()
        }


def settle(ahead):
    """Wait until the thread has drafted all it wants to, as a slow target would let it."""
    ahead._work.result()


def test_a_verdict_that_comes_true_finds_its_chain_ready():
    inner = Scripted({5: [6, 7]}, {(2, 8): [9, 10, 11], (1, 3): [4]})
    ahead = DraftingAhead(inner)
    ahead.observe(np.array([1, 2]), STATES[:2])
    assert ahead.draft(5, 4, FOUR).token_ids.tolist() == [6, 7]
    settle(ahead)
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
    inner = Scripted({5: [6, 7], bonus: [50]}, {(2, 8): [9], (1, 3): [4]})
    ahead = DraftingAhead(inner)
    ahead.draft(5, 4, FOUR)
    settle(ahead)
    ahead.observe(np.array(kept), STATES[: len(kept)])
    assert ahead.draft(bonus, 4, FOUR).token_ids.tolist() == [50]
    assert inner.asked == [5, bonus]


def test_a_ready_chain_is_cut_to_the_shape_that_is_asked_for():
    for shape, limit, expected in (
        (FOUR, 2, [9, 10]),
        (ChainShape(least_probabilities=(0.0, 0.3, 0.0)), 4, [9]),
        (ChainShape(least_probabilities=(0.6,)), 4, []),
        (ChainShape.fixed(8), 8, [9, 10, 11]),
    ):
        ahead = DraftingAhead(Scripted({5: [6]}, {(1, 8): [9, 10, 11]}))
        ahead.draft(5, 4, FOUR)
        settle(ahead)
        ahead.observe(np.array([5, 6]), STATES[:2])
        assert ahead.draft(8, limit, shape).token_ids.tolist() == expected


@pytest.mark.parametrize(("num_tokens", "ahead_of"), [(2, 6), (8, 8)])
def test_a_chain_of_fixed_length_is_drafted_ahead_as_long(num_tokens, ahead_of):
    """Six tokens or more: the next chain of a planner may be longer than the last one."""
    inner = Scripted({5: [6]}, {(1, 8): [9, 10, 11]})
    inner.shape = ChainShape.fixed(num_tokens)
    ahead = DraftingAhead(inner)
    ahead.propose(5, 8)
    settle(ahead)
    ahead.observe(np.array([5, 6]), STATES[:2])
    assert ahead.propose(8, 8).token_ids.tolist() == [9, 10, 11][:num_tokens]
    assert inner.num_tokens == ahead_of


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
    inner = Scripted({5: [6]}, wait=True)
    ahead = DraftingAhead(inner)
    ahead.draft(5, 4, FOUR)
    end(ahead)
    assert inner.stopped.is_set()


def test_a_thread_that_is_late_is_left_out_and_tried_from_time_to_time():
    inner = Scripted({5: [6]}, wait=True)
    ahead = DraftingAhead(inner)
    begun = []
    for _ in range(96):
        ahead.draft(5, 4, FOUR)
        begun.append(ahead._work is not None)
        ahead.observe(np.array([5]), STATES[:1])
    assert begun[:4] == [True] * 4
    assert sum(begun[4:]) == 3
    inner.wait = False  # the target has become slow: a long text, fewer threads
    for _ in range(20 * 32):
        ahead.draft(5, 4, FOUR)
        if ahead._work is not None:
            settle(ahead)
        ahead.observe(np.array([5]), STATES[:1])
    ahead.draft(5, 4, FOUR)
    assert ahead._work is not None


def test_what_ends_the_thread_reaches_the_caller_and_the_drafter_goes_on():
    inner = Scripted({5: [6]}, error=RuntimeError("the device is gone"))
    ahead = DraftingAhead(inner)
    ahead.draft(5, 4, FOUR)
    with pytest.raises(RuntimeError, match="the device is gone"):
        ahead.observe(np.array([5]), STATES[:1])
    inner.error = None
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


def test_each_chain_is_what_would_be_drafted_if_the_drafter_had_foreseen_the_features(drafting):
    """After a verdict the drafter's own features stand where the target's would: given those, it drafts the same."""
    drafter, root = drafting.drafter, drafting.root
    drafted = drafter.propose(root, 4).token_ids.tolist()
    chains = drafter.draft_after_verdicts(root, drafted, num_verdicts=6, num_tokens=3)
    assert len(chains) == 6
    assert {accepted for accepted, _ in chains} >= {0, 1}
    for (accepted, bonus), chain in chains.items():
        drafter.rewind(len(PROMPT))
        features = foreseen(drafter, root, drafted[:accepted])
        drafter.observe(np.array([root, *drafted[:accepted]]), features)
        afresh = drafter.draft(bonus, 3, ChainShape.fixed(3))
        assert chain.token_ids.tolist() == afresh.token_ids.tolist()
        np.testing.assert_allclose(chain.confidences, afresh.confidences, rtol=1e-3)


def foreseen(drafter, root, token_ids):
    """(n + 1, E), the drafter's features of the root and of some tokens after it."""
    cache = drafter.model.cache
    cache.rewind(len(PROMPT) - 1)
    rows = drafter._catch_up(root, 1)
    stable, features = cache.length, [rows.hidden_states[-1].copy()]
    for token_id in token_ids:
        rows = drafter._read_on(rows.hidden_states[-1:], token_id)
        features.append(rows.hidden_states[-1].copy())
    cache.rewind(stable)
    return np.array(features)


def test_the_stable_cache_is_as_without_drafting_ahead(drafting):
    drafter, root = drafting.drafter, drafting.root
    drafted = drafter.propose(root, 4).token_ids.tolist()
    cache = drafter.model.cache
    before = [buffer[:, :, : cache.length].copy() for buffer in cache.buffers]
    length = cache.length
    drafter.draft_after_verdicts(root, drafted, num_verdicts=4, num_tokens=3)
    assert cache.length == length
    for was, buffer in zip(before, cache.buffers, strict=True):
        np.testing.assert_allclose(buffer[:, :, :length], was, atol=1e-5)


def test_stopped_work_ends_at_the_next_pass(drafting):
    asked = []
    chains = drafting.drafter.draft_after_verdicts(
        drafting.root, [5, 6, 7], num_verdicts=6, num_tokens=5, is_stopped=lambda: asked.append(1) or len(asked) > 2
    )
    assert len(asked) <= 5
    assert len(chains) <= 1


class Informed(FeatureDrafter):
    """Runs the head, and then says what will come, one token in five wrong: a random head is never right."""

    def __init__(self, model, text):
        super().__init__(model)
        self.text, self.wrong = text, np.random.default_rng(0).random(1000) < 0.2

    def ahead(self, place, length):
        right = np.array(self.text[place : place + length])
        return Proposal.chain(np.where(self.wrong[place : place + length], (right + 1) % 384, right))

    def draft(self, next_token_id, max_draft_tokens, shape):
        drafted = super().draft(next_token_id, max_draft_tokens, shape)
        return self.ahead(len(self._token_ids) + 1, len(drafted))

    def draft_after_verdicts(self, next_token_id, drafted, **settings):
        place = len(self._token_ids) + 1
        super().draft_after_verdicts(next_token_id, drafted, **settings)
        right = drafted == self.text[place : place + len(drafted)]
        place += len(drafted)
        # Of the verdicts, the one that accepts all is foreseen.
        return {(len(drafted), self.text[place]): self.ahead(place + 1, 4)} if right and place < len(self.text) else {}


def test_answers_are_those_of_plain_decoding(target_of, tiny_drafting_bundle, monkeypatch):
    monkeypatch.setattr(drafting_ahead, "_LEAST_IN_TIME", 0.0)  # a tiny target is there before the thread is done
    plain = Decoder(target_of(tiny_drafting_bundle), NoDrafter())
    plain.begin(PROMPT, GREEDY)
    expected = [plain.root, *(plain.step(0).token_ids[0] for _ in range(149))]
    target = target_of(tiny_drafting_bundle)
    head = make_drafter(Bundle(tiny_drafting_bundle), target, LoadOptions(drafter="dgf", draft_shape=FOUR))
    ahead = DraftingAhead(Informed(head.model, [*PROMPT, *expected]))
    decoder = Decoder(target, ahead)
    for _ in range(2):
        decoder.begin(PROMPT, GREEDY)
        tokens = [decoder.root]
        while len(tokens) < 150:
            tokens += decoder.step(min(4, 149 - len(tokens))).token_ids
        assert tokens == expected
    assert 10 < ahead.num_ready < ahead.num_drafts


def test_an_interrupted_round_leaves_both_sessions_usable(target_of, tiny_drafting_bundle, monkeypatch):
    target = target_of(tiny_drafting_bundle)
    ahead = DraftingAhead(
        make_drafter(Bundle(tiny_drafting_bundle), target, LoadOptions(drafter="dgf", draft_shape=FOUR))
    )
    decoder = Decoder(target, ahead)
    decoder.begin(PROMPT, GREEDY)
    expected = [decoder.root, *decoder.step(4).token_ids, *decoder.step(4).token_ids]
    decoder.rewind(0)
    decoder.begin(PROMPT, GREEDY)
    with monkeypatch.context() as patches:
        patches.setattr(target, "forward", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            decoder.step(4)
    decoder.begin(PROMPT, GREEDY)
    again = [decoder.root]
    while len(again) < len(expected):
        again += decoder.step(4).token_ids
    assert again[: len(expected)] == expected
