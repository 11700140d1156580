"""Which graphs an export writes: native, portable or both, and what happens where one of them cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dovetail_ort_export import ExportOptions, export_bundle
from dovetail_ort_export.quantization.cache_range import fits_half, largest_of
from dovetail_ort_export.recipe import built_in_recipe, read_recipe
from dovetail_ort_export.writing import recipe_choice
from dovetail_ort_export.writing.graph_file import load_graph
from dovetail_ort_export.writing.recipe_choice import recipes_for
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.engine.forward_rows import ForwardRows
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.errors import InputError, UnavailableError

RECIPES = Path(__file__).parents[3] / "benchmarks" / "recipes"
NATIVE, PORTABLE = built_in_recipe("native"), built_in_recipe("portable")
WHY = "the library is missing; run: pip install ."


@pytest.fixture
def without_library(monkeypatch):
    monkeypatch.setattr(recipe_choice.kernels, "is_available", lambda: False)
    monkeypatch.setattr(recipe_choice.kernels, "why_missing", lambda: WHY)


def chosen(**options):
    lines = []
    return recipes_for(ExportOptions(**options), lines.append), lines


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [NATIVE]),
        ({"format": "native"}, [NATIVE]),
        ({"format": "portable"}, [PORTABLE]),
        ({"format": "both"}, [NATIVE, PORTABLE]),
        ({"precision": "fp32"}, [built_in_recipe("fp32")]),
        ({"precision": "int4"}, [replace(NATIVE.given("lower-native", bits=4), precision="int4")]),
        ({"kv_cache": "fp32"}, [NATIVE.given("lower-native", cache="fp32")]),
    ],
)
def test_the_options_name_one_recipe_for_each_graph(options, expected):
    assert chosen(**options) == (expected, [])


def test_recipes_of_ones_own_take_the_place_of_the_options():
    native, portable = RECIPES / "native-fp32-cache.toml", RECIPES / "block-64.toml"
    assert chosen(recipes=(portable,))[0] == [read_recipe(portable)]
    assert chosen(recipes=(portable, native))[0] == [read_recipe(native), read_recipe(portable)]


@pytest.mark.parametrize(
    "names",
    [
        ("block-16", "block-64"),
        ("native-fp32-cache", "native-fp32-cache"),
        ("native-fp32-cache", "block-64", "block-16"),
    ],
)
def test_two_recipes_of_one_format_are_refused(names):
    with pytest.raises(InputError, match="recipes must be one, or a native and a portable one, got "):
        chosen(recipes=tuple(RECIPES / f"{name}.toml" for name in names))


def test_without_the_library_the_portable_format_is_written_and_a_line_says_why(without_library, tiny_llama, tmp_path):
    lines = []
    manifest = export_bundle(str(tiny_llama), tmp_path / "bundle", report=lines.append).manifest
    assert (manifest.target.format, manifest.target.graph) == ("portable", "model_quantized.onnx")
    found = [line for line in lines if WHY in line]
    assert found == [f"note: writing the portable format, as native graphs do not run here: {WHY}"]


@pytest.mark.parametrize(
    "options",
    [
        {"format": "native"},
        {"format": "both"},
        {"precision": "int4"},
        {"recipes": (RECIPES / "native-fp32-cache.toml",)},
    ],
    ids=str,
)
def test_a_native_graph_that_is_asked_for_needs_the_library(without_library, tiny_llama, tmp_path, options):
    with pytest.raises(
        UnavailableError, match=r"a native graph cannot be checked without .*; run: pip install \.; or"
    ) as error:
        export_bundle(str(tiny_llama), tmp_path / "bundle", ExportOptions(**options))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "bundle").exists()


def test_a_target_in_4_bits_is_exact_and_keeps_embedding_and_logits_in_8(tiny_llama, tmp_path):
    manifest = export_bundle(str(tiny_llama), tmp_path / "bundle", ExportOptions(precision="int4")).manifest
    assert (manifest.target.format, manifest.target.precision, manifest.target.exact) == ("native", "int4", True)
    graph = load_graph(tmp_path / "bundle" / manifest.target.graph)
    bits = {}
    for node in graph.graph:
        if "bits" in node.attributes:
            bits.setdefault(node.attributes["bits"].as_int(), []).append((node.op_type, node.outputs[0].name))
    assert {operator for operator, name in bits[8] if name != "logits"} == {"Embedding"}
    assert "logits" in {name for _, name in bits[8]}
    assert {operator for operator, _ in bits[4]} == {"NormProduct", "Product", "GatedProduct"}


# Both formats


def entry_of(directory):
    return Bundle(directory).manifest.target


def test_a_bundle_of_both_has_the_graphs_that_exports_of_one_have(tiny_bundle_both, tiny_bundle, tiny_bundle_portable):
    entry = entry_of(tiny_bundle_both)
    assert (entry.format, entry.graph, entry.portable_graph) == ("native", "model_native.onnx", "model_quantized.onnx")
    for directory, graph in ((tiny_bundle, "model_native.onnx"), (tiny_bundle_portable, "model_quantized.onnx")):
        assert entry_of(directory).graph == graph
        for name in (graph, f"{graph}_data"):
            assert (tiny_bundle_both / name).read_bytes() == (directory / name).read_bytes()


def test_the_portable_graph_of_both_is_loaded_without_the_library(tiny_bundle_both, tiny_bundle_portable, monkeypatch):
    tokens = np.arange(20)

    def logits(directory):
        bundle = Bundle(directory)
        target = Target(bundle.path(bundle.manifest.target.graph), bundle.manifest.target, threads=1)
        return target.forward(ForwardRows.chain(tokens, 0)).logits.copy()

    expected = logits(tiny_bundle_portable)
    monkeypatch.setattr(recipe_choice.kernels, "is_available", lambda: False)
    np.testing.assert_array_equal(logits(tiny_bundle_both), expected)


def test_an_export_of_both_runs_the_portable_graph_too(tiny_llama, tmp_path):
    lines = []
    export_bundle(str(tiny_llama), tmp_path / "bundle", ExportOptions(format="both"), lines.append)
    assert [line for line in lines if line.startswith("model_quantized.onnx: top-1 ")]
    written = [line for line in lines if line.startswith("writing")]
    assert written == ["writing model_native.onnx", "writing model_quantized.onnx"]


# Cut targets


def tensors(path):
    """File, offset and length of every weight of a graph; of the smallest, which lie in the graph, the bytes."""
    found = {}
    for name, value in load_graph(path).graph.initializers.items():
        tensor = value.const_value
        is_external = isinstance(tensor, ir.ExternalTensor)
        found[name] = (tensor.location, tensor.offset, tensor.length) if is_external else tensor.tobytes()
    return found


def test_a_cut_native_bundle_has_the_whole_graph_and_the_rest_over_the_same_weights(
    tiny_cut_bundle_native, tiny_bundle
):
    entry = entry_of(tiny_cut_bundle_native)
    assert (entry.graph, entry.front_layers) == ("model_native.onnx", 1)
    for name in ("model_native.onnx", "model_native.onnx_data"):
        assert (tiny_cut_bundle_native / name).read_bytes() == (tiny_bundle / name).read_bytes()
    whole, rest = (tensors(tiny_cut_bundle_native / name) for name in (entry.graph, entry.rest_graph))
    assert rest.items() < whole.items()
    assert not [name for name in rest if "layers.0." in name]
    assert {place[0] for place in rest.values() if isinstance(place, tuple)} == {"model_native.onnx_data"}
    assert not list(tiny_cut_bundle_native.glob(f"{entry.rest_graph}_data"))


def test_the_rest_of_a_cut_native_target_begins_with_the_block_states(tiny_cut_bundle_native):
    graph = load_graph(tiny_cut_bundle_native / entry_of(tiny_cut_bundle_native).rest_graph).graph
    names = [value.name for value in graph.inputs]
    assert "block_states" in names
    assert [name for name in names if "." in name] == ["past_key_values.1.key", "past_key_values.1.value"]
    assert {node.domain for node in graph if node.op_type != "Gather"} == {"dovetail.native"}
    front = load_graph(tiny_cut_bundle_native / "model_front_fp16.onnx").graph
    assert "com.microsoft" in {node.domain for node in front}


def test_a_cut_bundle_of_both_has_the_whole_portable_target(tiny_llama, tiny_bundle_portable, tmp_path):
    options = ExportOptions(format="both", gpu_layers=1)
    export_bundle(str(tiny_llama), tmp_path / "bundle", options)
    name = "model_quantized.onnx"
    assert entry_of(tmp_path / "bundle").portable_graph == name
    assert (tmp_path / "bundle" / name).read_bytes() == (tiny_bundle_portable / name).read_bytes()


# Keys and values that half precision does not hold


@pytest.mark.parametrize(
    ("largest", "fits"), [(0.0, True), (16000.0, True), (17000.0, False), (np.inf, False), (np.nan, False)]
)
def test_half_precision_must_hold_four_times_what_was_measured(largest, fits):
    maxima = {"0.key": np.ones(4, dtype=np.float32), "0.value": np.array([0, largest], dtype=np.float32)}
    assert fits_half(maxima) == fits
    np.testing.assert_equal(largest_of(maxima), max(largest, 1.0) if np.isfinite(largest) else largest)


def cache_types(directory):
    graph = load_graph(directory / entry_of(directory).graph).graph
    return {value.dtype for value in graph.inputs if value.name.startswith("past_key_values.")}


@pytest.fixture
def with_large_keys(tiny_source, torch):
    """A source whose keys are as large as a bias makes them, as those of Qwen2 are."""
    import transformers

    def make(bias):
        source = tiny_source("qwen2")
        model = transformers.AutoModelForCausalLM.from_pretrained(source)
        with torch.no_grad():
            model.model.layers[1].self_attn.k_proj.bias[3] = bias
        model.save_pretrained(source)
        return source

    return make


def test_large_keys_are_kept_in_fp32_and_a_line_says_so(with_large_keys, tmp_path):
    lines = []
    manifest = export_bundle(str(with_large_keys(30000.0)), tmp_path / "bundle", report=lines.append).manifest
    assert cache_types(tmp_path / "bundle") == {ir.DataType.FLOAT}
    assert manifest.target.passes[-1] == "lower-native(cache='fp32')"
    (line,) = [line for line in lines if line.startswith("note: keys and values are kept in fp32")]
    assert line.endswith("and fp16 ends at 65504")


def test_keys_that_fit_are_kept_in_half_precision(with_large_keys, tiny_bundle, tmp_path):
    export_bundle(str(with_large_keys(200.0)), tmp_path / "bundle")
    assert cache_types(tmp_path / "bundle") == cache_types(tiny_bundle) == {ir.DataType.FLOAT16}


def test_a_cache_in_single_precision_is_made_when_asked_for(tiny_llama, tiny_bundle, tmp_path):
    options = ExportOptions(format="native", kv_cache="fp32")
    manifest = export_bundle(str(tiny_llama), tmp_path / "bundle", options).manifest
    assert cache_types(tmp_path / "bundle") == {ir.DataType.FLOAT}
    assert manifest.target.exact
    weights = "model_native.onnx_data"
    assert (tmp_path / "bundle" / weights).read_bytes() == (tiny_bundle / weights).read_bytes()
