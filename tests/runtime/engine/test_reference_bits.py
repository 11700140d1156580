"""The kernels' results are the committed ones, at every level and with any number of threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dovetail_ort_runtime import kernels
from dovetail_ort_runtime.engine import reference_bits
from dovetail_ort_runtime.engine.reference_bits import REFERENCE_BITS, bits_here

pytestmark = pytest.mark.skipif(not kernels.is_available(), reason=str(kernels.why_missing()))
LEVELS = kernels.levels() if kernels.is_available() else ()
COMMAND = "from dovetail_ort_runtime.engine.reference_bits import bits_here; print(bits_here())"


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_the_bits_are_the_committed_ones(threads):
    assert bits_here(threads) == REFERENCE_BITS


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_of_this_processor_gives_the_same_bits(level):
    environment = {**os.environ, "DOVETAIL_KERNELS": level}
    command = [sys.executable, "-c", COMMAND]
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    assert printed.strip() == REFERENCE_BITS


def test_a_changed_weight_changes_the_bits(tmp_path, monkeypatch):
    graph = bytearray(reference_bits._GRAPH.read_bytes())
    place = len(graph) // 3
    graph[place] ^= 1
    changed = tmp_path / "changed.onnx"
    changed.write_bytes(graph)
    monkeypatch.setattr(reference_bits, "_GRAPH", changed)
    assert bits_here() != REFERENCE_BITS


def test_the_committed_graph_is_the_one_that_its_script_makes(tmp_path):
    made = tmp_path / "made.onnx"
    subprocess.run([sys.executable, Path(__file__).parents[1] / "reference_graph.py", made], check=True)
    assert reference_bits._GRAPH.read_bytes() == made.read_bytes()
