"""Weights are read from files beside the graph, or from the hub's blobs that these are."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from dovetail_ort_export.laboratory.diff import compare_graphs
from dovetail_ort_export.writing.graph_file import load_graph
from dovetail_ort_export.writing.target_ends import read_target_ends
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.errors import InputError


def weights(path):
    return {name: value.const_value.numpy() for name, value in load_graph(path).graph.initializers.items()}


@pytest.mark.parametrize("shared", [False, True])
def test_a_graph_in_the_hubs_cache_has_the_weights_of_the_one_that_was_uploaded(
    shared, tiny_bundle, in_hub_cache, tmp_path
):
    snapshot = in_hub_cache(tiny_bundle, tmp_path, shared=shared)
    expected, found = (weights(path / "model_native.onnx") for path in (tiny_bundle, snapshot))
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    one, other = (read_target_ends(Bundle(path)) for path in (tiny_bundle, snapshot))
    assert np.array_equal(one.embedding, other.embedding)
    assert np.array_equal(one.head, other.head)


@pytest.mark.parametrize(
    "read",
    [
        lambda path: read_target_ends(Bundle(path)),
        lambda path: compare_graphs(path / "model_native.onnx", path / "model_native.onnx"),
    ],
)
def test_weights_with_two_names_are_refused_in_one_line_and_a_copy_of_them_is_read(read, tiny_bundle, tmp_path):
    linked = shutil.copytree(tiny_bundle, tmp_path / "linked")
    (tmp_path / "second name").hardlink_to(linked / "model_native.onnx_data")
    with pytest.raises(InputError, match="hard link") as refusal:
        read(linked)
    assert "\n" not in str(refusal.value)
    read(shutil.copytree(linked, tmp_path / "copy"))


def test_a_link_to_weights_elsewhere_is_refused(tiny_bundle, tmp_path):
    copy = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    outside = (copy / "model_native.onnx_data").rename(tmp_path / "outside")
    (copy / "model_native.onnx_data").symlink_to(outside)
    with pytest.raises(InputError, match="must lie beside it"):
        load_graph(copy / "model_native.onnx")
