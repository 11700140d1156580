"""A native target: a token's bits depend on the tokens before it and on nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail_ort_runtime import kernels
from dovetail_ort_runtime.decoding.decoder import Decoder
from dovetail_ort_runtime.decoding.verification import verification_rows
from dovetail_ort_runtime.drafting.drafter import NoDrafter
from dovetail_ort_runtime.drafting.feature_drafter import FeatureDrafter
from dovetail_ort_runtime.drafting.proposal import ROOT, Proposal
from dovetail_ort_runtime.drafting.shapes import ChainShape, TreeShape
from dovetail_ort_runtime.engine.draft_graph import DraftGraph
from dovetail_ort_runtime.engine.forward_rows import ForwardRows
from dovetail_ort_runtime.engine.row_invariance import holds_here
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.errors import BundleError, UnavailableError
from dovetail_ort_runtime.options import SamplingOptions

pytestmark = pytest.mark.skipif(not kernels.is_available(), reason=f"native graphs: {kernels.why_missing()}")

TOKENS = np.random.default_rng(11).integers(0, 384, 140)
PAST = 60


@pytest.fixture(scope="module", params=["fp16", "fp32"])
def graph(request, native_graphs, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return native_graphs.target_graph(request.param).save(folder / "model_native.onnx")


@pytest.fixture
def open_target(graph, native_graphs):
    def open_target(**settings):
        return Target(graph, native_graphs.target_entry(), **{"threads": 1, **settings})

    return open_target


@pytest.fixture(scope="module")
def shared(graph, native_graphs):
    """A target for tests that leave nothing behind."""
    return Target(graph, native_graphs.target_entry(), threads=1)


@pytest.fixture
def drafter_model(native_graphs, tmp_path):
    graph = native_graphs.drafter_graph().save(tmp_path / "drafter_native.onnx")
    return DraftGraph(graph, native_graphs.drafter_entry(), capacity=512, threads=1)


def copied(rows):
    return rows.logits.copy(), rows.hidden_states.copy()


@st.composite
def trees(draw):
    """Draft tokens in topological order, the first path in front."""
    number = draw(st.integers(1, 12))
    parents = [ROOT, *[draw(st.integers(ROOT, index - 1)) for index in range(1, number)]]
    tokens = draw(st.lists(st.integers(0, 383), min_size=number, max_size=number))
    return Proposal(token_ids=np.array(tokens), parents=np.array(parents))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 16])
def test_a_row_has_the_same_bits_however_many_rows_are_beside_it(open_target, rows, threads):
    expected = open_target().read(TOKENS)
    found = open_target(threads=threads).read(TOKENS, rows=rows)
    np.testing.assert_array_equal(found.logits, expected.logits)
    np.testing.assert_array_equal(found.hidden_states, expected.hidden_states)


def test_a_single_row_runs_alone(open_target):
    target = open_target()
    target.forward(ForwardRows.chain(TOKENS[:1], 0))
    assert list(target._forwards) == [(1, 1, 0)]
    assert (target.least_rows, target.keeps_branches) == (1, True)


@given(trees(), st.integers(0, PAST))
def test_every_path_of_a_tree_has_the_bits_of_a_chain(shared, tree, num_past):
    shared.cache.rewind(0)
    if num_past:
        shared.forward(ForwardRows.chain(TOKENS[:num_past], 0))
        shared.cache.keep(range(num_past))
    logits, states = copied(shared.forward(verification_rows(7, tree, num_past)))
    for leaf in range(len(tree)):
        path = [leaf]
        while tree.parents[path[0]] != ROOT:
            path.insert(0, int(tree.parents[path[0]]))
        chain = np.array([7, *tree.token_ids[path]])
        rows = shared.forward(ForwardRows.chain(chain, num_past))
        np.testing.assert_array_equal(rows.logits[-1], logits[leaf + 1])
        np.testing.assert_array_equal(rows.hidden_states[-1], states[leaf + 1])


@pytest.mark.parametrize("num_past", [0, 62, 130])
def test_a_side_branch_that_is_kept_leaves_the_cache_of_the_baseline(open_target, num_past):
    """From 62 on the kept rows cross into the next block of keys."""
    tree = Proposal(token_ids=np.array([1, 2, 3, 4, 5, 6]), parents=np.array([ROOT, 0, ROOT, 2, 3, 1]))
    kept = (0, 3, 4, 5)  # the root and the branch 3 4 5
    baseline, speculative = open_target(), open_target()
    for target in (baseline, speculative):
        for _ in target.chunks(TOKENS[:num_past]):
            pass
    speculative.forward(verification_rows(9, tree, num_past))
    speculative.cache.keep(kept)
    for token in (9, 3, 4, 5):
        baseline.forward(ForwardRows.chain(np.array([token]), baseline.cache.length))
        baseline.cache.keep((0,))
    assert baseline.cache.length == speculative.cache.length
    length = baseline.cache.length
    for index, (one, other) in enumerate(zip(baseline.cache.buffers, speculative.cache.buffers, strict=True)):
        if index % 2 == 0:
            one, other = (keys.transpose(0, 1, 2, 4, 3).reshape(1, 2, -1, 16) for keys in (one, other))
        np.testing.assert_array_equal(one[:, :, :length], other[:, :, :length])
    after = [target.forward(ForwardRows.chain(TOKENS[:3], length)).logits.copy() for target in (baseline, speculative)]
    np.testing.assert_array_equal(*after)


def test_the_text_may_fill_a_cache_that_ends_within_a_block(open_target):
    expected = open_target().read(TOKENS[:100], rows=4)
    found = open_target(max_context=100).read(TOKENS[:100], rows=4)
    np.testing.assert_array_equal(found.logits, expected.logits)


@pytest.mark.parametrize("scored", [1, 2, 9])
def test_the_last_rows_logits_have_the_bits_they_have_beside_all_others(shared, scored):
    shared.cache.rewind(0)
    chunk = ForwardRows.chain(TOKENS[:9], 0)
    whole = shared.forward(chunk).logits.copy()
    np.testing.assert_array_equal(shared.forward(chunk, num_scored=scored).logits, whole[-scored:])


def test_row_invariance_is_not_measured_where_the_kernels_guarantee_it(shared, monkeypatch):
    monkeypatch.setattr(Target, "forward", lambda *_: pytest.fail("a forward was run"))
    assert holds_here(shared)


def test_forwards_that_were_bound_once_are_used_again(open_target):
    target = open_target()
    tree = Proposal(token_ids=np.array([1, 2, 3]), parents=np.array([ROOT, ROOT, 0]))
    for _ in range(2):
        for proposal in (tree, Proposal.chain([1, 2, 3]), Proposal.chain([])):
            target.forward(verification_rows(9, proposal, 0))
    assert sorted(target._forwards) == [(1, 1, 0), (4, 4, 0), (4, 4, 2)]


@pytest.mark.parametrize("name", ["oracle", "chains", "trees"])
def test_speculative_decoding_gives_the_tokens_of_the_baseline(open_target, drafters, drafter_model, name):
    baseline = Decoder(open_target(), NoDrafter())
    prompt = TOKENS[:20].tolist()
    baseline.begin(prompt, SamplingOptions())
    expected = [baseline.root]
    for _ in range(60):
        expected += baseline.next_round(0).token_ids
    shapes = {"chains": ChainShape.fixed(5), "trees": TreeShape(num_rows=12, num_expansions=3, width=3)}
    by_oracle = name == "oracle"
    drafter = drafters.TreeOracle([*prompt, *expected]) if by_oracle else FeatureDrafter(drafter_model, shapes[name])
    decoder = Decoder(open_target(), drafter)
    decoder.begin(prompt, SamplingOptions())
    found, num_rounds = [decoder.root], 0
    while len(found) < len(expected):
        found += decoder.next_round(11).token_ids
        num_rounds += 1
    assert found[: len(expected)] == expected
    assert not by_oracle or num_rounds < 20, "every round keeps a branch of six tokens"


def test_a_tree_of_a_drafter_is_what_chains_say_of_its_paths(drafter_model):
    """Of each node of the tree, a chain that is forced along its path has the same confidence."""
    random = np.random.default_rng(2)
    states = random.standard_normal((9, 64)).astype(np.float32)
    drafter = FeatureDrafter(drafter_model)
    drafter.observe(TOKENS[:9], states)
    tree = drafter.draft(5, 20, TreeShape(num_rows=14, num_expansions=3, width=3))
    assert not tree.is_chain
    stable = drafter_model.cache.length
    for leaf in range(len(tree)):
        path = [leaf]
        while tree.parents[path[0]] != ROOT:
            path.insert(0, int(tree.parents[path[0]]))
        drafter_model.cache.rewind(stable - 1)
        feature, probability = states[-1:], 0.0
        for token, following in zip([5, *tree.token_ids[path]], tree.token_ids[path], strict=False):
            rows = drafter_model.forward(
                feature, np.array([token]), np.array([drafter_model.cache.length]), num_scored=1, num_candidates=384
            )
            drafter_model.cache.keep((0,))
            place = rows.candidate_ids[0].tolist().index(following)
            probability = np.float32(probability + rows.log_probabilities[0, place])
            feature = rows.hidden_states.copy()
        np.testing.assert_allclose(tree.confidences[leaf], np.exp(probability), rtol=1e-6)


def test_a_drafter_forgets_what_it_drafted(drafter_model):
    drafter = FeatureDrafter(drafter_model)
    drafter.observe(TOKENS[:9], np.ones((9, 64), dtype=np.float32))
    shape = TreeShape(num_rows=12, num_expansions=3, width=3)
    first = drafter.draft(5, 11, shape)
    assert drafter_model.cache.length == 9
    drafter.rewind(0)
    drafter.observe(TOKENS[:9], np.ones((9, 64), dtype=np.float32))
    again = drafter.draft(5, 11, shape)
    assert again.token_ids.tolist() == first.token_ids.tolist()
    assert list(again.confidences) == list(first.confidences)


def test_without_the_library_a_native_target_ends_in_one_line(open_target, without_library):
    with pytest.raises(UnavailableError, match=r"model_native\.onnx needs .*; run: build it") as caught:
        open_target()
    assert "\n" not in str(caught.value)


def test_without_the_library_a_native_drafter_ends_in_one_line(native_graphs, tmp_path, without_library):
    with pytest.raises(UnavailableError, match=r"drafter_native\.onnx needs .*; run: build it"):
        DraftGraph(tmp_path / "drafter_native.onnx", native_graphs.drafter_entry(), capacity=64, threads=1)


@pytest.mark.parametrize(
    "change", [{"num_layers": 3}, {"num_kv_heads": 4}, {"head_size": 32}, {"vocabulary_size": 385}, {"hidden_size": 65}]
)
def test_dimensions_that_are_not_the_graphs_are_refused(graph, native_graphs, change):
    with pytest.raises(BundleError, match=r"model_native.onnx has \w+ \d+, but the manifest says \d+"):
        Target(graph, native_graphs.target_entry(**change), threads=1)
