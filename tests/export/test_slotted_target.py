"""The model run by torch in slots against its exported graph."""

import numpy as np
import pytest

from dovetail_ort_runtime.bundle import Bundle


@pytest.mark.parametrize("seed", [0, 1])
def test_torch_reads_slots_as_the_graph_does(torch, tiny_llama, tiny_bundle_fp32, seed):
    from dovetail_ort_export.source import load_source
    from dovetail_ort_export.training.slotted_target import BatchedTarget, TorchTarget

    bundle = Bundle(tiny_bundle_fp32)
    entry = bundle.manifest.target
    graph = BatchedTarget(bundle.path(entry.graph), entry, num_slots=4, capacity=64, threads=1)
    model = load_source(str(tiny_llama)).model
    other = TorchTarget(model, num_slots=4, capacity=64, device=torch.device("cpu"))
    generator, positions = np.random.default_rng(seed), np.zeros(4, dtype=np.int64)
    for _ in range(60):
        token_ids = generator.integers(0, entry.vocabulary_size, 4)
        for got, wanted in zip(other.read(token_ids, positions), graph.read(token_ids, positions), strict=True):
            # fp32 sums in another order through two blocks, over logits of order 10.
            np.testing.assert_allclose(got, wanted, atol=2e-3)
        # Slots go on, start again or go back.
        positions = np.where(generator.random(4) < 0.9, positions + 1, generator.integers(0, positions + 1)) % 64
