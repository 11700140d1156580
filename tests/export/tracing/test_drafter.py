"""The draft graph and the unrolled training forward against the head, run as an ordinary causal network."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail_ort_runtime.bundle.graph_entries import DrafterEntry
from dovetail_ort_runtime.engine.draft_graph import DraftGraph

E, H, HKV, D, V, VD, T = 64, 4, 2, 16, 384, 96, 24


@pytest.fixture(scope="module", params=[("gating", 1), ("gating", 3), ("concatenation", 2)], ids=str)
def head(request, torch):
    from dovetail_ort_export.heads.config import HeadConfig
    from dovetail_ort_export.heads.draft_head import DraftHead

    fusion, num_blocks = request.param
    torch.manual_seed(1)
    made = DraftHead(
        HeadConfig(
            fusion=fusion,
            num_blocks=num_blocks,
            hidden_size=E,
            num_heads=H,
            num_kv_heads=HKV,
            head_size=D,
            intermediate_size=128,
            norm_epsilon=1e-5,
        )
    )
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5)
    return made.eval()


@pytest.fixture(scope="module")
def ends():
    from dovetail_ort_export.writing.target_ends import TargetEnds

    generator = np.random.default_rng(2)
    angles = np.arange(512)[:, None] / 100.0 ** (np.arange(D // 2) / (D // 2))
    return TargetEnds(
        embedding=generator.standard_normal((V, E), dtype=np.float32),
        head=generator.standard_normal((V, E), dtype=np.float32) / 8,
        cos=np.cos(angles).astype(np.float32),
        sin=np.sin(angles).astype(np.float32),
        norm_epsilon=1e-5,
    )


@pytest.fixture(scope="module")
def text():
    generator = np.random.default_rng(3)
    return generator.standard_normal((T, E), dtype=np.float32), generator.integers(0, V, T)


@pytest.fixture(scope="module")
def rotary(torch, ends):
    from dovetail_ort_export.heads.rotary import RotaryTables

    return RotaryTables(torch.from_numpy(ends.cos), torch.from_numpy(ends.sin))


@pytest.fixture(scope="module")
def causal(torch, head, ends, rotary):
    """`causal(features (n, E), token_ids (n,))`: predicted features (n, E), everything read afresh."""
    from dovetail_ort_export.heads.unrolling import unroll

    def run(features, token_ids):
        embeddings = torch.from_numpy(ends.embedding[token_ids])[None]
        with torch.no_grad():
            (predicted,) = unroll(head, torch.from_numpy(features)[None], embeddings, rotary, 1)
        return predicted[0].numpy()

    return run


def chain(causal, text, start, num_steps):
    """Predicted features of a chain's steps, its first one reading the true feature of `start`."""
    features, token_ids = text
    read = features[: start + 1]
    steps = []
    for step in range(num_steps):
        steps.append(causal(read, token_ids[: start + 1 + step])[-1])
        read = np.vstack([read, steps[-1]])
    return np.array(steps)


def test_the_unrolled_pass_gives_every_chain_what_it_would_see_alone(torch, head, ends, rotary, causal, text):
    from dovetail_ort_export.heads.unrolling import unroll

    features, token_ids = text
    embeddings = torch.from_numpy(ends.embedding[token_ids])[None]
    with torch.no_grad():
        steps = [step[0].numpy() for step in unroll(head, torch.from_numpy(features)[None], embeddings, rotary, 5)]
    for start in range(T - 5):
        unrolled = [steps[step][start + step] for step in range(5)]
        # The same sums in another order, through one to three blocks.
        np.testing.assert_allclose(unrolled, chain(causal, text, start, 5), atol=1e-4)


@pytest.fixture(scope="module")
def draft_token_ids():
    return np.sort(np.random.default_rng(4).choice(V, VD, replace=False))


@pytest.fixture(scope="module")
def draft_model(tmp_path_factory, head, ends, draft_token_ids):
    """`draft_model(precision, format)`: the exported graph, opened."""
    from dovetail_ort_export.writing.drafter_parts import own_parts
    from dovetail_ort_export.writing.drafter_writer import drafter_graph, drafter_recipe
    from dovetail_ort_export.writing.graph_file import save_graph

    def export(precision, graph_format="portable"):
        path = tmp_path_factory.mktemp(precision) / "drafter.onnx"
        parts = own_parts(head, ends, draft_token_ids)
        save_graph(drafter_graph(parts, drafter_recipe(precision, graph_format)), path)
        entry = DrafterEntry(
            graph=path.name,
            format=graph_format,
            operators=1 if graph_format == "native" else None,
            precision=precision,
            fusion=head.config.fusion,
            target_sha256="",
            num_layers=head.config.num_blocks,
            num_kv_heads=HKV,
            head_size=D,
            hidden_size=E,
            draft_vocabulary_size=VD,
            num_parameters=1,
            max_rows=64,
        )
        return DraftGraph(path, entry, capacity=64, threads=1)

    return export


def drafted(model, text, start, num_steps, num_candidates=4):
    """A chain over given tokens: predicted features, candidate ids and scores by step."""
    features, token_ids = text
    first = start // 2  # the prompt in two chunks
    for begin, end in ((0, first), (first, start + 1)):
        if begin < end:
            rows = model.forward(
                features[begin:end],
                token_ids[begin:end],
                np.arange(begin, end),
                num_scored=1,
                num_candidates=num_candidates,
            )
            model.cache.keep(range(end - begin))
    found = [(rows.hidden_states[-1].copy(), rows.candidate_ids[0].copy(), rows.log_probabilities[0].copy())]
    for step in range(1, num_steps):
        place = start + step
        rows = model.forward(
            found[-1][0][None],
            token_ids[place : place + 1],
            np.array([place]),
            num_scored=1,
            num_candidates=num_candidates,
        )
        model.cache.keep((0,))
        found.append((rows.hidden_states[0].copy(), rows.candidate_ids[0].copy(), rows.log_probabilities[0].copy()))
    model.cache.rewind(0)
    return [np.array(part) for part in zip(*found, strict=True)]


@pytest.mark.parametrize("start", [0, 3, 12])
def test_the_fp32_graph_drafts_what_the_head_does(draft_model, ends, causal, text, draft_token_ids, start):
    from scipy.special import log_softmax

    states, candidates, scores = drafted(draft_model("fp32"), text, start, 5)
    expected = chain(causal, text, start, 5)
    # The same sums in another order, through one to three blocks and five steps.
    np.testing.assert_allclose(states, expected, atol=1e-4)
    log_probabilities = log_softmax(expected @ ends.head[draft_token_ids].T, axis=-1)
    best = np.argsort(-log_probabilities, axis=-1, kind="stable")[:, :4]
    np.testing.assert_array_equal(candidates, draft_token_ids[best])
    np.testing.assert_allclose(scores, np.take_along_axis(log_probabilities, best, axis=-1), atol=1e-4)


@pytest.mark.parametrize("graph_format", ["native", "portable"])
def test_the_int8_graph_stays_close_to_the_head(draft_model, causal, text, graph_format):
    states, _, _ = drafted(draft_model("int8", graph_format), text, 12, 3)
    expected = chain(causal, text, 12, 3)
    # Weights and activations of 8 bits: an error of about half a per cent each, over a handful of products.
    assert np.linalg.norm(states - expected) < 0.05 * np.linalg.norm(expected)


def test_the_half_precision_graph_stays_close_to_the_head(draft_model, causal, text):
    """On the CPU, which runs most operators in float32 between conversions; CUDA's kernels are not met here."""
    model = draft_model("fp16")
    states, _, scores = drafted(model, text, 12, 3)
    assert {buffer.dtype for buffer in model.cache.buffers} == {np.dtype(np.float16)}
    assert (states.dtype, scores.dtype) == (np.float32, np.float32)
    expected = chain(causal, text, 12, 3)
    # Three digits and a half each in weights, activations and cache, over a handful of products.
    assert np.linalg.norm(states - expected) < 0.01 * np.linalg.norm(expected)
