"""The graphs of heads that others have trained against the published formulas in float64."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail_ort_runtime.engine import draft_graph
from dovetail_ort_runtime.engine.draft_graph import DraftGraph

V, E, CONTEXT = 384, 64, 512
DIALECTS = ("specforge", "angelslim", "speculators", "speculators-3.1", "model-optimizer", "deepspec", "eagle")


@pytest.fixture(scope="module")
def ends():
    from dovetail_ort_export.writing.target_ends import TargetEnds

    random = np.random.default_rng(2)
    angles = np.arange(CONTEXT)[:, None] / 7.0 ** (np.arange(16) / 16)  # neither the size nor the angles of the heads
    return TargetEnds(
        embedding=random.standard_normal((V, E), dtype=np.float32),
        head=random.standard_normal((V, E), dtype=np.float32) / 8,
        cos=np.cos(angles).astype(np.float32),
        sin=np.sin(angles).astype(np.float32),
        norm_epsilon=1e-5,
    )


@pytest.fixture(scope="module")
def files(published_heads, ends, tmp_path_factory):
    """`files(dialect, precision, format, **sizes)`: a random head, the path of its drafter's graph, and the entry."""
    from dovetail_ort_export.heads.published import read_published_head
    from dovetail_ort_export.writing.drafter_parts import published_parts
    from dovetail_ort_export.writing.drafter_writer import drafter_entry, drafter_graph, drafter_recipe, write_drafter

    def write(dialect, precision="fp32", graph_format="portable", **sizes):
        head = published_heads.dialect_head(dialect, **sizes)
        folder = tmp_path_factory.mktemp(dialect)
        published = read_published_head(published_heads.write_dialect(head, dialect, folder / "head"))
        parts = published_parts(published, published.readings(8)[0], ends)
        recipe = drafter_recipe(precision, graph_format)
        entry = drafter_entry(parts, "", "drafter.onnx", recipe)
        write_drafter(drafter_graph(parts, recipe), folder, entry)
        return head, folder / entry.graph, entry

    return write


@pytest.fixture(scope="module")
def written(files, published_heads, ends):
    """`written(dialect, precision, format, **sizes)`: a random head, its drafter opened, and the oracle."""

    def open_graph(*arguments, **sizes):
        head, path, entry = files(*arguments, **sizes)
        graph = DraftGraph(path, entry, capacity=64, threads=1)
        return head, graph, published_heads.Oracle(head, ends.embedding, ends.head)

    return open_graph


@pytest.fixture
def text():
    """`text(width)`: 13 features and the tokens after them and after four drafted ones."""

    def draw(width):
        random = np.random.default_rng(3)
        return random.standard_normal((13, width), dtype=np.float32) * 2, random.integers(0, V, 17)

    return draw


def drafted(model, features, token_ids, num_steps, num_candidates=4):
    """A chain over given tokens: fed-back states, candidate ids and scores by step."""
    length = len(features)
    for begin, end in ((0, length // 2), (length // 2, length)):  # the prompt in two chunks
        rows = model.forward(
            features[begin:end],
            token_ids[begin:end],
            np.arange(begin, end),
            num_scored=1,
            num_candidates=num_candidates,
        )
        model.cache.keep(range(end - begin))
    found = [(rows.hidden_states[-1].copy(), rows.candidate_ids[0].copy(), rows.log_probabilities[0].copy())]
    for place in range(length, length + num_steps - 1):
        rows = model.forward(
            found[-1][0][None],
            token_ids[place : place + 1],
            np.array([place]),
            num_scored=1,
            num_candidates=num_candidates,
        )
        model.cache.keep((0,))
        found.append((rows.hidden_states[0].copy(), rows.candidate_ids[0].copy(), rows.log_probabilities[0].copy()))
    return [np.array(part) for part in zip(*found, strict=True)]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_fp32_graph_drafts_what_the_published_formulas_give(written, text, dialect):
    from scipy.special import log_softmax

    head, graph, oracle = written(dialect)
    features, token_ids = text(head.size)
    states, candidates, scores = drafted(graph, features, token_ids, 5)
    expected, logits = oracle.chain(features, token_ids, 5)
    # Of float32 against float64: a hundred products a row, over five steps.
    np.testing.assert_allclose(states, expected, atol=1e-4)
    log_probabilities = log_softmax(logits, axis=-1)
    best = np.argsort(-log_probabilities, axis=-1, kind="stable")[:, :4]
    np.testing.assert_array_equal(candidates, head.draft_token_ids[best])
    np.testing.assert_allclose(scores, np.take_along_axis(log_probabilities, best, axis=-1), atol=1e-4)


def test_a_head_of_another_width_than_its_target_has_features_of_its_own_width(written, text):
    _, graph, oracle = written("speculators", size=48, target_size=E, level_norm="each", heads=3, kv_heads=1)
    features, token_ids = text(48)
    assert graph.hidden_size == 48
    states, _, _ = drafted(graph, features, token_ids, 5)
    np.testing.assert_allclose(states, oracle.chain(features, token_ids, 5)[0], atol=1e-4)


@pytest.mark.parametrize(
    ("precision", "graph_format", "bound"),
    [("fp32", "portable", 1e-5), ("int8", "portable", 0.03), ("int8", "native", 0.03)],
)
def test_every_product_may_have_a_bias(written, text, precision, graph_format, bound):
    sizes = {"bias": True, "every_bias": True, "num_layers": 2, "qk_norm": True}
    head, graph, oracle = written("specforge", precision, graph_format, **sizes)
    features, token_ids = text(head.size)
    states, _, _ = drafted(graph, features, token_ids, 1)
    expected, _ = oracle.chain(features, token_ids, 1)
    assert np.linalg.norm(states - expected) < bound * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("precision", "graph_format", "bound"),
    [
        # A weight in 4 bits is off by a twelfth of the spread of its group: half a dozen products add that up. Weights
        # and activations in 8 bits are off by half a per cent each, halves by the fourth digit.
        ("int4", "native", 0.3),
        ("int8", "native", 0.03),
        ("int8", "portable", 0.03),
        ("fp16", "portable", 0.002),
    ],
)
@pytest.mark.parametrize("dialect", ["angelslim", "speculators-3.1", "eagle"])
def test_a_quantised_graph_stays_close_to_the_formulas(written, text, dialect, precision, graph_format, bound):
    head, graph, oracle = written(dialect, precision, graph_format)
    features, token_ids = text(head.size)
    states, _, _ = drafted(graph, features, token_ids, 1)
    expected, _ = oracle.chain(features, token_ids, 1)
    assert np.linalg.norm(states - expected) < bound * np.linalg.norm(expected)


def test_the_graph_for_chains_drafts_as_the_graph_for_trees(files, text, monkeypatch):
    head, path, entry = files("speculators-3.1", "fp16")
    found = []
    for name in (entry.graph, entry.chain_graph):
        monkeypatch.setattr(draft_graph, "graph_to_open", lambda graph, *_, name=name, **__: graph.with_name(name))
        found.append(drafted(DraftGraph(path, entry, capacity=64, threads=1), *text(head.size), 3))
    for of_trees, of_chains in zip(*found, strict=True):
        np.testing.assert_array_equal(of_trees, of_chains)


def test_positions_reach_as_far_as_the_targets_by_the_heads_own_angles(published_heads, ends, tmp_path):
    from dovetail_ort_export.heads.published import read_published_head
    from dovetail_ort_export.writing.drafter_parts import published_parts

    head = published_heads.dialect_head("specforge", theta=500.0)
    path = published_heads.write_dialect(head, "specforge", tmp_path, max_position_embeddings=32)
    published = read_published_head(path)
    parts = published_parts(published, published.readings(8)[0], ends)
    angles = np.arange(CONTEXT)[:, None] / 500.0 ** (np.arange(8) / 8)
    # The frequencies are rounded to float32: at position 511 the angles by 3e-5.
    np.testing.assert_allclose(parts.cos, np.cos(angles), atol=1e-4)
    np.testing.assert_allclose(parts.sin, np.sin(angles), atol=1e-4)
