"""A smaller language model as drafter, and a copy of the target itself."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from scipy.stats import chi2

from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.decoding.decoder import Decoder
from dovetail_ort_runtime.drafting.drafter import NoDrafter
from dovetail_ort_runtime.drafting.shapes import ChainShape
from dovetail_ort_runtime.engine.forward_rows import ForwardRows
from dovetail_ort_runtime.errors import InputError
from dovetail_ort_runtime.loading.drafters import make_drafter
from dovetail_ort_runtime.loading.load_options import LoadOptions
from dovetail_ort_runtime.options import SamplingOptions
from dovetail_ort_runtime.sampler import Sampler

GREEDY = SamplingOptions()
PROMPT = np.random.default_rng(1).integers(3, 384, 9).tolist()
CHAIN = ChainShape.fixed(4)


@pytest.fixture
def decoder(target_of):
    """`decoder(bundle, draft_bundle=None)`: a decoder that drafts with a language model, or not at all."""

    def make(directory, draft_bundle=None, shape=CHAIN):
        target = target_of(directory)
        if draft_bundle is None:
            return Decoder(target, NoDrafter())
        return Decoder(target, make_drafter(Bundle(directory), target, drafting_with(draft_bundle, shape)))

    return make


def drafting_with(draft_bundle, shape=None):
    return LoadOptions(drafter="lm", draft_bundle=draft_bundle, draft_shape=shape)


def continued(decoder, prompt, num_tokens, sampling=GREEDY):
    decoder.begin(prompt, sampling)
    tokens, rounds = [decoder.root], 0
    while len(tokens) < num_tokens:
        tokens += decoder.next_round(min(8, num_tokens - len(tokens) - 1)).token_ids
        rounds += 1
    return tokens, rounds


def test_greedy_answers_are_those_of_the_baseline(decoder, tiny_bundle, tiny_bundle_fp32):
    expected, _ = continued(decoder(tiny_bundle), PROMPT, 100)
    tokens, rounds = continued(decoder(tiny_bundle, tiny_bundle_fp32), PROMPT, 100)
    assert tokens == expected
    assert rounds < 40  # fp32 and INT8 of one model mostly agree


def test_a_copy_of_the_target_is_accepted_nearly_always(decoder, tiny_bundle):
    expected, _ = continued(decoder(tiny_bundle), PROMPT, 100)
    tokens, rounds = continued(decoder(tiny_bundle, tiny_bundle), PROMPT, 100)
    assert tokens == expected
    assert rounds <= 25  # 20 if the one-row kernel never chose another token


def test_each_token_is_read_once(decoder, tiny_bundle, monkeypatch):
    """What was accepted stays in the drafter's cache; a copy of the target is hardly ever wrong."""
    copied = decoder(tiny_bundle, tiny_bundle)
    model, rows = copied.drafter.model, []
    forward = model.forward
    monkeypatch.setattr(
        model, "forward", lambda given, **settings: rows.append(len(given.token_ids)) or forward(given, **settings)
    )
    _, rounds = continued(copied, PROMPT, 80)
    assert sum(rows) <= len(PROMPT) + 80 + 3 * rounds


def test_a_second_turn_and_the_end_of_the_context_are_read_rightly(decoder, tiny_bundle, tiny_bundle_fp32):
    drafting, baseline = decoder(tiny_bundle, tiny_bundle_fp32), decoder(tiny_bundle)
    first, _ = continued(drafting, PROMPT, 20)
    second = [*PROMPT, *first[:7], 5, 6, 7]
    room = 512 - len(second)
    assert continued(drafting, second, room)[0] == continued(baseline, second, room)[0]


def test_sampled_answers_follow_the_distribution_of_the_target(decoder, tiny_bundle, tiny_bundle_fp32):
    """Pearson's test of the first two tokens: draft tokens are drawn from the drafter, accepted with min(1, p / q)."""
    sampling = {"temperature": 1.3, "top_k": 5, "top_p": 0.95}
    sampler = Sampler(SamplingOptions(**sampling))
    target = decoder(tiny_bundle).target

    def after(tokens):
        target.cache.rewind(0)
        p = sampler.distribution(target.forward(ForwardRows.chain(np.array(tokens), 0)).logits[-1])
        return [(int(token), float(p[token])) for token in np.flatnonzero(p)]

    expected = {(a, b): p * q for a, p in after(PROMPT) for b, q in after([*PROMPT, a])}
    drafting = decoder(tiny_bundle, tiny_bundle_fp32)
    counts, num_sequences, accepted = dict.fromkeys(expected, 0), 1500, 0
    for seed in range(num_sequences):
        drafting.begin(PROMPT, SamplingOptions(**sampling, seed=seed))
        first = drafting.root
        result = drafting.next_round(4)
        accepted += result.num_accepted
        counts[(first, result.token_ids[0])] += 1
    assert 0 < accepted < 4 * num_sequences
    observed = np.array([counts[key] for key in expected])
    wanted = num_sequences * np.array(list(expected.values()))
    tested = wanted >= 5
    observed = np.append(observed[tested], observed[~tested].sum())
    wanted = np.append(wanted[tested], wanted[~tested].sum())
    statistic = ((observed - wanted)[wanted > 0] ** 2 / wanted[wanted > 0]).sum()
    # One of a thousand right samplers fails; the seeds are fixed, so this one passes always or never.
    assert chi2.sf(statistic, (wanted > 0).sum() - 1) > 1e-3


def test_a_padded_vocabulary_is_tolerated_and_its_padding_never_drafted(decoder, tiny_bundle, tiny_source, exported):
    padded = exported(tiny_source("llama", vocab_size=416))
    expected, _ = continued(decoder(tiny_bundle), PROMPT, 60)
    assert continued(decoder(tiny_bundle, padded), PROMPT, 60)[0] == expected
    wide, _ = continued(decoder(padded), PROMPT, 60)
    assert continued(decoder(padded, tiny_bundle), PROMPT, 60)[0] == wide


@pytest.fixture
def exported(tmp_path):
    """`exported(source)`: an fp32 bundle."""
    from dovetail_ort_export import ExportOptions, export_bundle

    return lambda source: export_bundle(str(source), tmp_path / "exported", ExportOptions(precision="fp32")).directory


def test_nothing_is_drafted_after_an_id_that_the_model_has_no_embedding_for(
    decoder, tiny_bundle, tiny_source, exported
):
    padded = exported(tiny_source("llama", vocab_size=416))
    prompt = [*PROMPT, 400, *PROMPT]
    drafting = decoder(padded, tiny_bundle)
    assert continued(drafting, prompt, 20) == continued(decoder(padded), prompt, 20)
    drafter = drafting.drafter
    drafter.rewind(len(PROMPT))
    assert len(drafter.draft(PROMPT[0], 4, CHAIN).token_ids) == 4


def with_tokenizer(bundle, copy, change):
    """A copy of a bundle whose `tokenizer.json` is changed."""
    from dovetail_ort_runtime.bundle.bundle import sha256

    shutil.copytree(bundle, copy)
    path = copy / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    change(tokenizer)
    path.write_text(json.dumps(tokenizer))
    manifest = json.loads((copy / "manifest.json").read_text())
    for entry in manifest["files"]:
        if entry["path"] == "tokenizer.json":
            entry.update(num_bytes=path.stat().st_size, sha256=sha256(path))
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def test_other_tokens_are_refused_by_name(target_of, tiny_bundle, tmp_path):
    def swap(tokenizer):
        vocabulary = tokenizer["model"]["vocab"]
        first, second = [token for token, _ in sorted(vocabulary.items(), key=lambda item: item[1])][50:52]
        vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]

    other = with_tokenizer(tiny_bundle, tmp_path / "other", swap)
    with pytest.raises(InputError, match="the draft bundle must have the target's tokens, got"):
        make_drafter(Bundle(tiny_bundle), target_of(tiny_bundle), drafting_with(other))


def adding(token):
    """A change of a tokenizer: a special token after the 384 that the tiny model has."""

    def change(tokenizer):
        tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": 384, "content": token})

    return change


def test_tokens_beyond_the_smaller_vocabulary_are_compared_too(target_of, tiny_bundle, tiny_source, exported, tmp_path):
    padded = exported(tiny_source("llama", vocab_size=416))
    calling, asking = (with_tokenizer(padded, tmp_path / name, adding(f"<|{name}|>")) for name in ("calling", "asking"))

    def draft(target, drafter):
        return make_drafter(Bundle(target), target_of(target), drafting_with(drafter, CHAIN))

    # The drafter would read an id that it has no embedding for, no token for, or another token for.
    for drafter, got in (
        (tiny_bundle, "without an id"),
        (padded, "without an id"),
        (asking, "as 384 instead of without"),
    ):
        with pytest.raises(InputError, match=rf"got '<\|\w+\|>' {got}"):
            draft(calling, drafter)
    # It would draft what the target cannot mean.
    with pytest.raises(InputError, match=r"got '<\|calling\|>' as 384 instead of without an id"):
        draft(padded, calling)
    # What lies beyond the target's vocabulary is never drafted, and never read.
    assert draft(tiny_bundle, calling).shape == CHAIN
    assert draft(calling, calling).shape == CHAIN


def test_probabilities_are_those_that_the_tokens_were_drawn_from(decoder, tiny_bundle, tiny_bundle_fp32):
    drafting = decoder(tiny_bundle, tiny_bundle_fp32)
    drafting.begin(PROMPT, SamplingOptions(temperature=1.0, top_k=3, seed=1))
    proposal = drafting.drafter.propose(drafting.root, 4)
    assert proposal.probabilities is not None
    np.testing.assert_allclose(proposal.probabilities.sum(-1), 1, atol=1e-6)
    assert ((proposal.probabilities > 0).sum(-1) <= 3).all()
    assert (proposal.probabilities[np.arange(4), proposal.token_ids] > 0).all()
