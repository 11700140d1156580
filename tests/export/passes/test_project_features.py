"""Norms and product over levels, against numpy."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from dovetail_ort_export.heads.taps import Taps
from dovetail_ort_export.passes.fuse_skip_norm import FuseSkipNorm
from dovetail_ort_export.passes.lower_native import LowerNative
from dovetail_ort_export.passes.pack_products import PackGateUp, PackQkv
from dovetail_ort_export.passes.project_features import ProjectFeatures
from dovetail_ort_export.passes.tap_levels import TapLevels

WEIGHT = np.ones((16, 128), np.float32)
BOTH = Taps(levels=(1, 2), weight=WEIGHT, bias=np.ones(16, np.float32), norm_before_fc=np.ones(128, np.float32))


@pytest.fixture
def tapped(bound):
    """A native target with two levels tapped."""
    graph = bound("llama")
    for graph_pass in (PackQkv(), PackGateUp(), FuseSkipNorm(), LowerNative(), TapLevels((1, 2))):
        graph = graph_pass(graph).model
    return graph


def features_of(graph):
    return next(value for value in graph.graph.outputs if value.name == "drafter_features")


def test_the_output_is_as_wide_as_the_product(tapped):
    features = features_of(ProjectFeatures(BOTH)(tapped).model)
    assert features.shape[2] == 16
    assert features.dtype == ir.DataType.FLOAT
    assert features.producer().op_type == "Add"


def test_native_lowering_joins_norm_product_and_bias_in_one_operator(tapped):
    graph = LowerNative()(ProjectFeatures(BOTH)(tapped).model).model
    node = features_of(graph).producer()
    assert node.op_type == "NormProduct"
    assert node.attributes["block"].as_int() == 32
    assert node.inputs[4].name == "drafter_features.fc.bias"
    assert [value.name for value in graph.graph.inputs].count("ancestors") == 1


def test_a_norm_of_each_level_stands_before_they_are_joined(tapped):
    taps = Taps(levels=(1, 2), weight=WEIGHT, level_norms=(np.ones(64, np.float32), np.ones(64, np.float32)))
    graph = LowerNative()(ProjectFeatures(taps)(tapped).model).model
    product = features_of(graph).producer()
    concat = product.inputs[0].producer()
    assert product.op_type == "Product"
    assert [value.producer().op_type for value in concat.inputs] == ["Norm", "Norm"]


def test_without_taps_there_is_nothing_to_project(bound):
    with pytest.raises(ir.passes.PreconditionError, match="the graph has no output drafter_features"):
        ProjectFeatures(BOTH)(bound("llama"))


def test_a_product_that_does_not_fit_the_levels_is_refused(tapped):
    taps = Taps(levels=(1, 2), weight=np.ones((16, 64), np.float32))
    with pytest.raises(
        ir.passes.PreconditionError, match="2 levels have 128 numbers a row, and the head's fc reads 64"
    ):
        ProjectFeatures(taps)(tapped)
