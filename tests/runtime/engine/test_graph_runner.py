"""Forwards that are bound once and run many times."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.engine import ort_protocols
from dovetail_ort_runtime.engine.draft_graph import DraftGraph
from dovetail_ort_runtime.engine.forward_rows import ForwardRows
from dovetail_ort_runtime.engine.gpu_memory import KEPT_ROWS
from dovetail_ort_runtime.machine.onnx_runtime import import_onnxruntime


@pytest.mark.parametrize("bundle", ["tiny_bundle", "tiny_cut_bundle"])
def test_a_forward_looks_for_no_installed_package(request, target_of, monkeypatch, bundle):
    """The look-up reads the metadata of all distributions, which takes longer than the forward's own bindings."""
    target = target_of(request.getfixturevalue(bundle))
    target.forward(ForwardRows.chain(np.array([5, 6]), 0))
    looked_up = []
    monkeypatch.setattr(ort_protocols, "import_onnxruntime", lambda: looked_up.append(1) or import_onnxruntime())
    target.forward(ForwardRows.chain(np.array([5, 6]), 0))
    target.forward(ForwardRows.chain(np.array([5, 6, 7]), 0))
    assert not looked_up


def test_long_forwards_are_not_kept(target_of, tiny_bundle):
    target = target_of(tiny_bundle)
    for rows in (KEPT_ROWS, KEPT_ROWS + 1):
        target.forward(ForwardRows.chain(np.arange(rows), 0))
    assert [size[0] for size in target._forwards] == [KEPT_ROWS]


def test_forwards_that_bind_anew_draft_the_same(tiny_drafting_bundle):
    """A device that copies what is bound needs its inputs bound for every forward."""
    bundle = Bundle(tiny_drafting_bundle)
    entry = bundle.manifest.drafter
    drafted = []
    for device in ("cpu", "elsewhere"):
        model = DraftGraph(bundle.path(entry.graph), entry, capacity=64, threads=1)
        model.device = device
        generator = np.random.default_rng(0)
        for start in range(0, 9, 3):
            states = generator.standard_normal((3, entry.hidden_size)).astype(np.float32)
            rows = model.forward(
                states,
                generator.integers(0, 384, 3),
                np.arange(start, start + 3),
                num_scored=1,
                num_candidates=4,
            )
            model.cache.keep(range(3))
            drafted.append(rows.log_probabilities.copy())
    np.testing.assert_array_equal(drafted[:3], drafted[3:])
