"""Targets that read many conversations at once: native, portable and by torch."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.engine.forward_rows import ForwardRows
from dovetail_ort_runtime.engine.target import Target

NUM_SEQUENCES = 5
CAPACITY = 100


def open_target(bundle_path, **options):
    from dovetail_ort_export.training.batched_target import open_batched_target

    bundle = Bundle(bundle_path)
    entry = bundle.manifest.target
    options = {"num_sequences": NUM_SEQUENCES, "capacity": CAPACITY, "threads": 1, **options}
    return open_batched_target(bundle.path(entry.graph), entry, **options)


@pytest.mark.parametrize("threads", [1, 2])
def test_native_sequences_give_the_bits_of_each_conversation_alone(tiny_bundle, threads):
    batched = open_target(tiny_bundle, threads=threads)
    bundle = Bundle(tiny_bundle)
    alone = Target(bundle.path(bundle.manifest.target.graph), bundle.manifest.target, max_context=CAPACITY, threads=1)
    generator, texts = np.random.default_rng(0), [[] for _ in range(NUM_SEQUENCES)]
    for _ in range(12):
        # Sequences go on with one token or several, start again or go back.
        kept = [len(text) if generator.random() < 0.8 else generator.integers(0, len(text) + 1) for text in texts]
        new = [
            generator.integers(0, alone.vocabulary_size, generator.integers(1, batched.rows_a_sequence + 1)).tolist()
            for _ in texts
        ]
        kept = [
            0 if length + len(token_ids) > CAPACITY else length for length, token_ids in zip(kept, new, strict=True)
        ]
        texts = [text[:length] + token_ids for text, length, token_ids in zip(texts, kept, new, strict=True)]
        logits, states = batched.read(new, np.array(kept))
        for number, (text, token_ids) in enumerate(zip(texts, new, strict=True)):
            wanted_logits, wanted_states = read_one_by_one(alone, text)
            np.testing.assert_array_equal(logits[number], wanted_logits)
            np.testing.assert_array_equal(states[number], wanted_states[-len(token_ids) :])


def read_one_by_one(target, text):
    """The last token's logits and all hidden states of a text that is read a token in each forward."""
    target.cache.rewind(0)
    states = []
    for token_id in text:
        rows = target.forward(ForwardRows.chain(np.array([token_id]), target.cache.length))
        target.cache.keep(range(1))
        states.append(rows.hidden_states[0].copy())
    return rows.logits[0], states


@pytest.mark.parametrize("seed", [0, 1])
def test_torch_reads_sequences_as_a_portable_graph_does(torch, tiny_llama, tiny_bundle_fp32, seed):
    from dovetail_ort_export.source import load_source
    from dovetail_ort_export.training.batched_target import TorchTarget

    graph = open_target(tiny_bundle_fp32)
    model = load_source(str(tiny_llama)).model
    other = TorchTarget(model, num_sequences=NUM_SEQUENCES, capacity=CAPACITY, device=torch.device("cpu"))
    generator, positions = np.random.default_rng(seed), np.zeros(NUM_SEQUENCES, dtype=np.int64)
    for _ in range(60):
        token_ids = generator.integers(0, 256, (NUM_SEQUENCES, 1)).tolist()
        for got, wanted in zip(other.read(token_ids, positions), graph.read(token_ids, positions), strict=True):
            # fp32 sums in another order through two blocks, over logits of order 10.
            np.testing.assert_allclose(got, wanted, atol=2e-3)
        # Sequences go on, start again or go back.
        positions = np.where(generator.random(NUM_SEQUENCES) < 0.9, positions + 1, generator.integers(0, positions + 1))
        positions %= CAPACITY
