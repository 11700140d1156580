"""Forwards of a target: its rows, its padding, its bounds, and trees beside chains."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.decoding.verification import verification_rows
from dovetail_ort_runtime.drafting.proposal import ROOT, Proposal
from dovetail_ort_runtime.engine.forward_rows import ForwardRows
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.errors import BundleError, InputError

TOKENS = np.random.default_rng(11).integers(0, 384, 130)


BUNDLES = {"int8": "tiny_bundle_portable", "fp32": "tiny_bundle_fp32"}


@pytest.fixture(scope="module", params=BUNDLES)
def bundle(request):
    return request.getfixturevalue(BUNDLES[request.param])


@pytest.fixture
def target(bundle, target_of):
    return target_of(bundle)


class Shapes:
    """Stands for a session and notes how many rows each forward had."""

    def __init__(self, session):
        self.session = session
        self.rows = []

    def __getattr__(self, name):
        return getattr(self.session, name)

    def run_with_iobinding(self, binding):
        self.session.run_with_iobinding(binding)
        self.rows.append(binding.get_outputs()[0].shape()[1])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", [1, 3, 5, 8, 13, 64])
def test_a_row_has_the_same_bits_however_many_rows_are_beside_it(bundle, target_of, rows, threads):
    target = target_of(bundle, threads=threads)
    in_pairs = target.read(TOKENS, rows=2)
    found = target.read(TOKENS, rows=rows)
    np.testing.assert_array_equal(found.logits, in_pairs.logits)
    np.testing.assert_array_equal(found.hidden_states, in_pairs.hidden_states)


def test_a_single_row_is_the_first_of_two_whatever_the_second_holds(target):
    target.read(TOKENS[:20])
    alone = target.forward(ForwardRows.chain(TOKENS[20:21], 20)).logits.copy()
    assert alone.shape == (1, 384)
    for other in (0, 7, 383):
        pair = target.forward(ForwardRows.chain(np.array([TOKENS[20], other]), 20))
        np.testing.assert_array_equal(alone[0], pair.logits[0])


def test_a_single_row_is_padded_to_two(target):
    target.session = Shapes(target.session)
    for rows in (1, 2, 3):
        target.forward(ForwardRows.chain(TOKENS[:rows], 0))
    assert target.session.rows == [2, 2, 3]
    assert (target.least_rows, target.keeps_branches) == (2, False)


@pytest.mark.parametrize(("rows", "scored"), [(1, 1), (2, 1), (2, 2), (9, 1), (9, 2), (9, 4), (64, 1)])
def test_the_last_rows_logits_have_the_bits_they_have_beside_all_others(target, rows, scored):
    target.read(TOKENS[:20])
    chunk = ForwardRows.chain(TOKENS[20 : 20 + rows], 20)
    whole = target.forward(chunk)
    logits, states = whole.logits.copy(), whole.hidden_states.copy()
    asked_for = target.forward(chunk, num_scored=scored)
    np.testing.assert_array_equal(asked_for.hidden_states, states)
    np.testing.assert_array_equal(asked_for.logits, logits[-scored:])


def test_a_graph_that_scores_all_rows_gives_the_same_bits(tiny_llama, target_of, tmp_path):
    from dovetail_ort_export import ExportOptions, export_bundle

    recipe = tmp_path / "recipe.toml"
    recipe.write_text('precision = "fp32"\npasses = ["bind-weights", "lower-float"]')
    export_bundle(str(tiny_llama), tmp_path / "bundle", ExportOptions(recipes=(recipe,)))
    target = target_of(tmp_path / "bundle")
    assert not target.chooses_rows
    chunk = ForwardRows.chain(TOKENS[:9], 0)
    logits = target.forward(chunk).logits.copy()
    np.testing.assert_array_equal(target.forward(chunk, num_scored=2).logits, logits[-2:])
    assert target.forward(ForwardRows.chain(TOKENS[:1], 0), num_scored=1).logits.shape == (1, 384)


def test_a_head_computes_only_what_is_asked_for_but_never_one_row(target):
    target.session = Shapes(target.session)
    chunk = ForwardRows.chain(TOKENS[:9], 0)
    for scored in (None, 4, 1):
        target.forward(chunk, num_scored=scored)
    assert target.session.rows == [9, 4, 2]  # the first output is the logits


def test_chunks_follow_the_kept_tokens_and_are_kept(target):
    whole = target.read(TOKENS[:30])
    target.cache.rewind(10)
    chunks = []
    for chunk, output in target.chunks(TOKENS[10:30], rows=8, num_scored=1):
        chunks.append(chunk)
        assert target.cache.length == 10 + sum(map(len, chunks))
        np.testing.assert_array_equal(output.logits[0], whole.logits[target.cache.length - 1])
    assert [len(chunk) for chunk in chunks] == [8, 8, 4]


def test_a_forward_leaves_the_length_alone(target):
    target.read(TOKENS[:20])
    target.forward(ForwardRows.chain(TOKENS[:5], 20))
    assert target.cache.length == 20


def test_the_first_path_of_a_tree_has_the_bits_of_a_chain(target):
    target.read(TOKENS[:20])
    path, root = TOKENS[21:25], int(TOKENS[20])
    chain = target.forward(verification_rows(root, Proposal.chain(path), 20))
    logits, states = chain.logits.copy(), chain.hidden_states.copy()
    tree = Proposal(token_ids=np.concatenate([path, [1, 2, 3, 4]]), parents=np.array([ROOT, 0, 1, 2, ROOT, 0, 5, 2]))
    rows = target.forward(verification_rows(root, tree, 20))
    np.testing.assert_array_equal(rows.logits[:5], logits)
    np.testing.assert_array_equal(rows.hidden_states[:5], states)


def test_the_text_may_fill_the_cache_to_the_last_slot(bundle, target_of):
    found = target_of(bundle, max_context=32).read(TOKENS[:32], rows=4)
    expected = target_of(bundle).read(TOKENS[:32], rows=4)
    np.testing.assert_array_equal(found.logits, expected.logits)


@pytest.mark.parametrize("max_context", [-1, 0, 1, 513])
def test_a_context_out_of_bounds_is_refused(bundle, target_of, max_context):
    with pytest.raises(InputError, match="max_context must be between 2 and the bundle's 512"):
        target_of(bundle, max_context=max_context)


@pytest.mark.parametrize("threads", [-1, 0])
def test_a_target_needs_a_thread(bundle, target_of, threads):
    with pytest.raises(InputError, match="threads must be 1 or more"):
        target_of(bundle, threads=threads)


def test_a_file_that_is_no_graph_is_a_bundle_error(bundle, tmp_path):
    graph = tmp_path / "model.onnx"
    graph.write_bytes(bytes(1000))
    with pytest.raises(BundleError, match=r"cannot load model\.onnx"):
        Target(graph, Bundle(bundle).manifest.target)
