"""The first blocks of a target that was cut, without the rest."""

from __future__ import annotations

import numpy as np

from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.engine import first_blocks
from dovetail_ort_runtime.engine.forward_rows import ForwardRows
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.machine.onnx_runtime import import_onnxruntime


def test_a_pass_looks_for_no_installed_package(tiny_cut_bundle, monkeypatch):
    """The look-up reads the metadata of all distributions, which takes longer than the forward's own bindings."""
    bundle = Bundle(tiny_cut_bundle)
    entry = bundle.manifest.target
    target = Target(bundle.path(entry.graph), entry, threads=1)
    tokens = np.array([5, 6])
    target.forward(ForwardRows.chain(tokens, 0))
    looked_up = []
    monkeypatch.setattr(first_blocks, "import_onnxruntime", lambda: looked_up.append(1) or import_onnxruntime())
    target.forward(ForwardRows.chain(tokens, 0))
    target.forward(ForwardRows.chain(np.array([5, 6, 7]), 0))
    assert not looked_up
