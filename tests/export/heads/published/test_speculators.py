"""A head as speculators writes it drafts here what it drafts there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[4]
SPECULATORS = ROOT / "build" / "speculators" / "bin" / "python"
T, STEPS, E, V = 40, 5, 64, 384

HEADS = {
    "3.0": ("speculators", {"level_norm": "none"}),
    "norm before the residual and the fusion": ("speculators", {}),
    "3.1, with a norm of each level and the norm fed back": ("speculators-3.1", {}),
    "two blocks with norms by head": ("speculators-3.1", {"num_layers": 2, "level_norm": "none"}),
    "five levels": ("speculators", {"levels": (0, 1, 2, 3, 4)}),
}


@pytest.fixture
def drafted_there(tmp_path):
    """`drafted_there(head, levels, token_ids)`: states and logits of every chain, by speculators."""
    if not SPECULATORS.exists():
        pytest.fail("speculators is not installed; run: make build/speculators/installed")

    def run(head, levels, token_ids):
        inputs, outputs = tmp_path / "inputs.npz", tmp_path / "outputs.npz"
        np.savez(inputs, levels=levels, token_ids=token_ids)
        script = Path(__file__).with_name("with_speculators.py")
        subprocess.run([SPECULATORS, script, head, inputs, outputs], check=True)
        found = np.load(outputs)
        return found["states"], found["logits"]

    return run


@pytest.mark.parametrize("case", HEADS)
def test_a_head_of_speculators_drafts_here_what_it_drafts_there(torch, published_heads, drafted_there, tmp_path, case):
    from dovetail_ort_export.heads.published import read_published_head
    from dovetail_ort_export.heads.unrolling import unroll

    dialect, sizes = HEADS[case]
    head = published_heads.dialect_head(dialect, **sizes)
    path = published_heads.write_dialect(head, dialect, tmp_path / "head")
    random = np.random.default_rng(6)
    levels = random.standard_normal((T, E * len(head.levels)), dtype=np.float32) * 3
    token_ids = random.integers(0, V, T)
    states, logits = drafted_there(path, levels, token_ids)
    published = read_published_head(path)
    network = published.network(published.readings(8)[0])
    with torch.no_grad():
        features = published.level_fusion()(torch.from_numpy(levels))[None]
        embeddings = published.embedding[torch.from_numpy(token_ids)][None]
        steps = list(unroll(network, features, embeddings, published.rotary(512), STEPS))
        scores = [network.scored(step) @ published.lm_head.T for step in steps]
    for number, (step, score) in enumerate(zip(steps, scores, strict=True)):
        starts = T - number  # chains that end within the text
        # float32 sums in another order, over one or two blocks and up to five steps.
        np.testing.assert_allclose(step[0, number:], states[number, :starts], atol=1e-4)
        np.testing.assert_allclose(score[0, number:], logits[number, :starts], atol=1e-4)
