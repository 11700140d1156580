"""A model or a graph that is not what the files hold is refused, however well the two agree with each other."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dovetail_ort_export import ExportOptions, export_bundle, source
from dovetail_ort_export.checking.cross_check import LARGEST_DIFFERENCE, relative_difference
from dovetail_ort_export.source import model as source_model
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.errors import SourceError

FP32 = ExportOptions(precision="fp32")


def misread(key, value):
    """A reader of settings that gets one of them wrong."""
    right = source.read_settings

    def read(*arguments):
        from dataclasses import replace

        settings = right(*arguments)
        return replace(settings, values={**settings.values, key: value})

    return read


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rope_theta", 500_000.0),
        ("rms_norm_eps", 1e-3),
        ("rope_scaling", {"rope_type": "linear", "factor": 2.0}),
    ],
)
def test_a_setting_that_is_misread_is_found_though_graph_and_model_agree(tiny_llama, tmp_path, monkeypatch, key, value):
    monkeypatch.setattr(source, "read_settings", misread(key, value))
    with pytest.raises(SourceError, match="the model must give the logits that its files give"):
        export_bundle(str(tiny_llama), tmp_path / "bundle", FP32)
    assert not list(tmp_path.iterdir())


def test_a_setting_that_is_read_right_by_the_same_way_passes(tiny_llama, tmp_path, monkeypatch):
    """What is found above is the value, not the stand-in for the reader."""
    monkeypatch.setattr(source, "read_settings", misread("num_key_value_heads", 2))
    export_bundle(str(tiny_llama), tmp_path / "bundle", FP32)


def test_weights_that_a_loader_made_up_are_found(tiny_llama, tmp_path, monkeypatch, torch):
    right = source_model.read_weights

    def made_up(checkpoint, expected):
        state = right(checkpoint, expected)
        state["model.layers.1.mlp.down_proj.weight"] = torch.randn_like(state["model.layers.1.mlp.down_proj.weight"])
        return state

    monkeypatch.setattr(source_model, "read_weights", made_up)
    with pytest.raises(SourceError, match="the model must give the logits that its files give"):
        export_bundle(str(tiny_llama), tmp_path / "bundle", FP32)


def test_a_graph_that_differs_from_the_model_is_found(tiny_llama, tmp_path, monkeypatch):
    from dovetail_ort_export.source.weights import Weights

    right = Weights.__getitem__

    def wrong(self, name):
        return right(self, name) * (1.01 if name.endswith("layers.0.mlp.up_proj.weight") else 1)

    monkeypatch.setattr(Weights, "__getitem__", wrong)
    with pytest.raises(SourceError, match="the graph must give the logits that the model's files give"):
        export_bundle(str(tiny_llama), tmp_path / "bundle", FP32)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [FP32, ExportOptions(format="native"), ExportOptions(format="portable")], ids=str)
def test_what_the_witness_found_is_in_the_manifest(tiny_llama, tmp_path, options):
    export_bundle(str(tiny_llama), tmp_path / "bundle", options)
    witness = Bundle(tmp_path / "bundle").manifest.measurements.witness
    assert len(witness.positions) >= 8
    assert max(witness.positions) == 511
    assert np.diff(witness.positions).max() > 100
    assert witness.model_difference <= LARGEST_DIFFERENCE
    assert (witness.graph_difference <= LARGEST_DIFFERENCE) == (options == FP32)
    assert json.loads((tmp_path / "bundle" / "manifest.json").read_text())["measurements"]["witness"]["seconds"] > 0


@pytest.mark.parametrize("max_context", [2, 3, 16])
def test_a_context_of_a_few_tokens_is_checked_too(tiny_llama, tmp_path, max_context):
    options = ExportOptions(precision="fp32", max_context=max_context)
    witness = export_bundle(str(tiny_llama), tmp_path / "bundle", options).manifest.measurements.witness
    assert max(witness.positions) == max_context - 1


def test_a_difference_is_a_share_of_its_own_rows_spread():
    expected = np.array([[0.0, 2.0], [0.0, 20.0]])  # 2 and 20 from the smallest to the largest
    assert relative_difference(expected + np.array([[0.5, 0], [0, 1.0]]), expected) == pytest.approx(0.25)
    assert relative_difference(np.zeros((1, 2)), np.zeros((1, 2))) == 0
    assert np.isnan(relative_difference(np.array([[np.nan, 1.0]]), expected[:1]))
