"""Heads as publishers write them, read back, against the published formulas in float64."""

from __future__ import annotations

import numpy as np
import pytest

T, STEPS = 20, 5
DIALECTS = (
    "safeailab",
    "specforge",
    "angelslim",
    "speculators",
    "speculators-3.1",
    "model-optimizer",
    "deepspec",
    "truncated",
    "eagle",
)


@pytest.fixture
def read(torch):
    from dovetail_ort_export.heads.published import read_published_head

    return read_published_head


@pytest.fixture(scope="module")
def target():
    """Embedding and head (V, E) of a target."""
    random = np.random.default_rng(9)
    return random.standard_normal((384, 64), dtype=np.float32), random.standard_normal((384, 64), dtype=np.float32) / 8


@pytest.fixture
def drafted(torch, target):
    """`drafted(published, reading, levels, token_ids)`: fed-back states and logits of a chain, by the torch network."""
    from dovetail_ort_export.heads.unrolling import unroll

    def run(published, reading, levels, token_ids):
        network = published.network(reading)
        fusion = published.level_fusion()
        embedding, lm_head = published.embedding, published.lm_head
        if embedding is None:
            embedding = torch.from_numpy(target[0])
        if lm_head is None:
            lm_head = torch.from_numpy(target[1][published.draft_token_ids])
        features = torch.from_numpy(levels)
        with torch.no_grad():
            features = features if fusion is None else fusion(features)
            padding = torch.zeros(STEPS - 1, features.shape[1])
            features = torch.cat([features, padding])[None]
            embeddings = embedding.float()[torch.from_numpy(token_ids)][None]
            steps = list(unroll(network, features, embeddings, published.rotary(512), STEPS))
            states = torch.stack([step[0, T - 1 + index] for index, step in enumerate(steps)])
            logits = network.scored(states) @ lm_head.float().T
        return states.numpy(), logits.numpy()

    return run


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_head_of_each_dialect_drafts_what_the_published_formulas_give(
    published_heads, read, drafted, target, tmp_path, dialect
):
    head = published_heads.dialect_head(dialect)
    published = read(published_heads.write_dialect(head, dialect, tmp_path))
    random = np.random.default_rng(4)
    width = 64 if head.form == "eagle" else 64 * len(head.levels)
    levels = random.standard_normal((T, width), dtype=np.float32) * 3
    token_ids = random.integers(0, 384, T + STEPS - 1)
    oracle = published_heads.Oracle(head, *target)
    features = levels if head.form == "eagle" else oracle.features(levels)
    expected_states, expected_logits = oracle.chain(features, token_ids, STEPS)
    states, logits = drafted(published, published.readings(8)[0], levels, token_ids)
    # Of float32 against float64, over one or two blocks and five steps.
    np.testing.assert_allclose(states, expected_states, atol=1e-4)
    np.testing.assert_allclose(logits, expected_logits, atol=1e-4)
    np.testing.assert_array_equal(published.draft_token_ids, head.draft_token_ids)
