"""A bundle's graphs: their files, and how much of the check text fits."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dovetail_ort_export.laboratory.graphs import check_tokens, graph_path
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.errors import InputError


def test_neither_graphs_nor_their_differences_need_torch():
    program = (
        "import sys\n"
        "import dovetail_ort_export.laboratory.diff, dovetail_ort_export.laboratory.graphs\n"
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "set()"


def test_a_path_is_an_onnx_file_or_a_bundle_with_the_graph(tiny_bundle):
    path = tiny_bundle / "model_native.onnx"
    assert graph_path(tiny_bundle, "target") == graph_path(path, "target") == path
    with pytest.raises(InputError, match="has no drafter"):
        graph_path(tiny_bundle, "drafter")


def test_the_check_text_is_as_long_as_is_wanted_but_fits_into_the_context(tiny_bundle):
    bundle = Bundle(tiny_bundle)
    assert len(check_tokens(bundle, 100)) == 100
    assert len(check_tokens(bundle, 10_000)) == bundle.manifest.target.max_context - 1
