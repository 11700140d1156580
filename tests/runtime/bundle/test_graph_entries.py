"""Which files belong to a graph, and what its entry may say."""

from __future__ import annotations

import pytest

from dovetail_ort_runtime.bundle.graph_entries import (
    AcceptanceRow,
    DrafterEntry,
    HeadOrigin,
    TapsEntry,
    TargetEntry,
    with_paths_beside,
)
from dovetail_ort_runtime.errors import InputError


def native(**changes):
    """The entry of a small native target, but for some changes."""
    known = {
        "graph": "g/model_native.onnx",
        "family": "llama",
        "precision": "int8",
        "exact": True,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_size": 16,
        "hidden_size": 64,
        "vocabulary_size": 384,
        "num_parameters": 98624,
        "max_context": 512,
        "max_rows": 64,
        "format": "native",
        "operators": 1,
    }
    return TargetEntry(**{**known, **changes})


def test_a_native_target_names_all_graphs_that_stand_beside_it():
    cut = native(
        portable_graph="p.onnx", front_graph="f.onnx", front_chain_graph="c.onnx", front_layers=1, rest_graph="r.onnx"
    )
    assert cut.graphs == ("g/model_native.onnx", "g/p.onnx", "g/f.onnx", "g/c.onnx", "g/r.onnx")


def test_files_beside_a_graph_are_in_its_folder_and_those_that_are_not_there_are_left_out():
    assert with_paths_beside("a/b/model.onnx", None, "other.onnx") == ("a/b/model.onnx", "a/b/other.onnx")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"operators": 0}, "operators must be 1 or more with a native graph, got 0"),
        ({"operators": 1, "format": "portable"}, "a portable graph has no native operators; leave out their version 1"),
        ({"portable_graph": "../p.onnx"}, "portable_graph must be the name of a file beside 'g/model_native.onnx'"),
        ({"rest_graph": "r.onnx"}, "rest_graph needs a native graph and a front_graph; leave out 'r.onnx'"),
        ({"front_graph": "f.onnx", "front_layers": 1}, "a native graph with a front_graph needs a rest_graph"),
        ({"front_graph": "f.onnx", "front_layers": 2}, "front_layers must be between 1 and 1, got 2"),
        ({"front_layers": 1}, "front_layers must be 0 without a front_graph, got 1"),
        ({"front_chain_graph": "c.onnx"}, "front_chain_graph needs a front_graph; leave out 'c.onnx'"),
    ],
)
def test_a_target_that_does_not_hang_together_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        native(**changes)


def drafter(**changes):
    """The entry of a small drafter, but for some changes."""
    known = {
        "graph": "g/drafter.onnx",
        "precision": "int8",
        "fusion": "gating",
        "target_sha256": "",
        "num_layers": 1,
        "num_kv_heads": 2,
        "head_size": 16,
        "hidden_size": 64,
        "draft_vocabulary_size": 100,
        "num_parameters": 1,
        "max_rows": 8,
    }
    return DrafterEntry(**{**known, **changes})


def test_a_drafter_s_fusion_is_one_that_there_is():
    with pytest.raises(InputError, match="fusion must be one of gating, concatenation, eagle3, got 'sum'"):
        drafter(fusion="sum")


def test_the_tapped_graphs_of_a_target_are_among_its_drafter_s():
    taps = TapsEntry(graph="t.onnx", levels=(2, 0), portable_graph="p.onnx")
    assert drafter(taps=taps).graphs == ("g/drafter.onnx", "g/t.onnx", "g/p.onnx")
    assert drafter(taps=TapsEntry(graph="t.onnx", levels=(1,))).graphs == ("g/drafter.onnx", "g/t.onnx")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TapsEntry(graph="t.onnx", levels=()), "levels must be one number or more, got"),
        (lambda: TapsEntry(graph="t.onnx", levels=(1, -1)), "levels must be 0 or more, got -1"),
        (lambda: TapsEntry(graph="a/t.onnx", levels=(1,)), "graph must be the name of a file beside the target's"),
        (lambda: TapsEntry(graph="t.onnx", levels=(1,), portable_graph="../p.onnx"), "portable_graph must be the name"),
        (lambda: HeadOrigin(name="a", form="medusa"), "form must be one of dgf, eagle, eagle3, got 'medusa'"),
        (lambda: AcceptanceRow(text="a", num_tokens=0, by_depth=(0.5,)), "num_tokens must be 1 or more, got 0"),
        (lambda: AcceptanceRow(text="a", num_tokens=9, by_depth=(1.5,)), "by_depth must be between 0 and 1, got 1.5"),
    ],
)
def test_what_a_drafter_s_records_cannot_mean_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
