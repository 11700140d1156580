"""Tapped graphs: levels as transformers numbers them, what a head makes of them, and the target's bits untouched."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from dovetail_ort_export import ExportOptions, export_bundle
from dovetail_ort_export.heads.taps import Taps
from dovetail_ort_export.writing.taps import write_taps
from dovetail_ort_runtime import kernels
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.graph_check import check_graph
from dovetail_ort_runtime.bundle.graph_entries import TapsEntry
from dovetail_ort_runtime.engine.forward_rows import ForwardRows
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.errors import InputError, SourceError

TOKENS = np.arange(100, dtype=np.int64) * 37 % 384
FAMILIES = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 32, "num_hidden_layers": 3},
}
# Tiny bundles by the names of their fixtures.
FORMATS = ("tiny_bundle", "tiny_bundle_portable", "tiny_bundle_fp32")
LEVELS = (2, 0, 1)
FEATURES = 48


def drawn(*shape, seed=3):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def projection(hidden_size, **changes):
    """Taps with all that a head may have but for the other kind of norm."""
    known = {
        "levels": LEVELS,
        "weight": drawn(FEATURES, len(LEVELS) * hidden_size) / 8,
        "bias": drawn(FEATURES, seed=4),
        "norm_before_fc": 1 + drawn(len(LEVELS) * hidden_size, seed=5) / 4,
        "norm_epsilon": 1e-5,
    }
    return Taps(**{**known, **changes})


def normed(x, weight, epsilon):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * weight


def projected(levels, taps):
    """What taps make of levels (S, k * E), in float64."""
    x = levels.astype(np.float64)
    if taps.level_norms is not None:
        parts = np.split(x, len(taps.levels), axis=-1)
        normed_parts = [
            normed(part, weight, taps.norm_epsilon) for part, weight in zip(parts, taps.level_norms, strict=True)
        ]
        x = np.concatenate(normed_parts, axis=-1)
    if taps.norm_before_fc is not None:
        x = normed(x, taps.norm_before_fc, taps.norm_epsilon)
    features = x @ taps.weight.T.astype(np.float64)
    return features if taps.bias is None else features + taps.bias


@pytest.fixture
def opened(request, tmp_path):
    """`opened(bundle, taps)`: a copy of a bundle, with its plain target and its tapped one."""

    def make(name, taps):
        bundle = Bundle(shutil.copytree(request.getfixturevalue(name), tmp_path / "bundle", dirs_exist_ok=True))
        return open_both(bundle, taps)

    return make


def open_both(bundle, taps, **changes):
    entry = replace(bundle.manifest.target, **changes)
    written = write_taps(bundle, bundle.directory, taps)
    graph = bundle.directory / entry.graph
    plain = Target(graph, entry, max_context=160)
    return plain, Target(graph, entry, max_context=160, taps=written)


@pytest.mark.parametrize("family", FAMILIES)
def test_levels_are_those_that_transformers_calls_hidden_states(family, tiny_source, tmp_path):
    import torch
    import transformers

    source = tiny_source(family, **FAMILIES[family])
    export_bundle(str(source), tmp_path / "bundle", ExportOptions(precision="fp32"))
    bundle = Bundle(tmp_path / "bundle")
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    num_layers = bundle.manifest.target.num_layers
    # transformers puts the final norm behind the last of them, so its last layer's own output is asked for.
    last = {}
    model.model.layers[-1].register_forward_hook(
        lambda _module, _inputs, output: last.update(states=output if isinstance(output, torch.Tensor) else output[0])
    )
    with torch.no_grad():
        states = model(torch.from_numpy(TOKENS)[None], output_hidden_states=True).hidden_states
    expected = [*states[:-1], last["states"]]
    levels = (num_layers, *range(num_layers))
    reference = np.concatenate([expected[level][0].numpy() for level in levels], axis=-1)

    _, tapped = open_both(bundle, Taps(levels=levels))
    features = tapped.read(TOKENS).features
    assert tapped.feature_size == len(levels) * bundle.manifest.target.hidden_size
    # float32 sums in another order than those of transformers, through all blocks.
    np.testing.assert_allclose(features, reference, atol=1e-4, rtol=1e-4)

    taps = projection(bundle.manifest.target.hidden_size)
    _, with_fc = open_both(bundle, taps)
    reference = projected(np.concatenate([expected[level][0].numpy() for level in LEVELS], axis=-1), taps)
    np.testing.assert_allclose(with_fc.read(TOKENS).features, reference, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "precision"), [*product(FORMATS, ("raw", "int8", "fp32"))])
def test_a_target_s_own_outputs_keep_their_bits(name, precision, opened):
    taps = Taps(levels=LEVELS) if precision == "raw" else projection(64, precision=precision)
    plain, tapped = opened(name, taps)
    for rows in (1, 2, 3, 8, 64):
        expected = plain.read(TOKENS, rows=rows)
        found = tapped.read(TOKENS, rows=rows)
        np.testing.assert_array_equal(found.logits, expected.logits)
        np.testing.assert_array_equal(found.hidden_states, expected.hidden_states)


@pytest.mark.parametrize(("name", "precision"), [*product(FORMATS, ("raw", "int8"))])
def test_a_tree_s_rows_keep_their_bits(name, precision, opened):
    taps = Taps(levels=LEVELS) if precision == "raw" else projection(64, precision=precision)
    rows = ForwardRows(TOKENS[20:26], np.array([20, 21, 21, 22, 22, 23]), np.array([-1, 0, 0, 1, 2, 3]))
    outputs = []
    for target in opened(name, taps):
        target.read(TOKENS[:20])
        outputs.append(target.forward(rows))
    expected, found = outputs
    np.testing.assert_array_equal(found.logits, expected.logits)
    np.testing.assert_array_equal(found.hidden_states, expected.hidden_states)


@pytest.mark.parametrize(("name", "precision"), [*product(FORMATS, ("int8", "fp32"))])
@pytest.mark.parametrize("kind", ["norm before fc", "norm of each level", "bare"])
def test_features_are_what_the_head_makes_of_the_levels(name, precision, kind, opened):
    changes = {
        "norm before fc": {},
        "norm of each level": {"norm_before_fc": None, "level_norms": tuple(1 + drawn(3, 64, seed=6) / 4)},
        "bare": {"norm_before_fc": None, "bias": None},
    }[kind]
    taps = projection(64, precision=precision, **changes)
    _, raw = opened(name, Taps(levels=LEVELS))
    levels = raw.read(TOKENS).features
    _, tapped = opened(name, taps)
    features = tapped.read(TOKENS).features
    reference = projected(levels, taps)
    assert tapped.feature_size == FEATURES
    largest = np.abs(reference).max()
    bound = 1e-5 if precision == "fp32" else 0.02
    assert np.abs(features - reference).max() < bound * largest


def test_a_native_row_s_features_depend_on_no_other_row(opened):
    _, tapped = opened("tiny_bundle", projection(64, precision="int8"))
    expected = tapped.read(TOKENS, rows=1).features
    for rows in (2, 5, 64):
        np.testing.assert_array_equal(tapped.read(TOKENS, rows=rows).features, expected)


def test_without_taps_the_features_are_the_hidden_states(tiny_bundle):
    bundle = Bundle(tiny_bundle)
    target = Target(bundle.path(bundle.manifest.target.graph), bundle.manifest.target, max_context=160)
    output = target.read(TOKENS)
    assert output.features is output.hidden_states
    assert target.feature_size == target.hidden_size


def test_only_the_weights_of_the_taps_are_written(tiny_bundle, tmp_path):
    bundle = Bundle(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    before = {path.name: path.read_bytes() for path in bundle.directory.iterdir()}
    taps = projection(64, precision="int8")
    entry = write_taps(bundle, bundle.directory, taps)
    after = {path.name: path.read_bytes() for path in bundle.directory.iterdir()}
    assert set(after) - set(before) == {"model_native_taps.onnx", "model_native_taps.onnx_data"}
    assert {name: after[name] for name in before} == before
    assert entry == TapsEntry(graph="model_native_taps.onnx", levels=LEVELS)
    assert len(after["model_native_taps.onnx_data"]) < 2 * taps.weight.size
    assert len(after["model_native_taps.onnx"]) < 1.5 * len(before["model_native.onnx"])


def test_files_that_are_links_are_left_as_they_are(tiny_bundle, tmp_path):
    bundle = Bundle(shutil.copytree(tiny_bundle, tmp_path / "linked"))
    directory = tmp_path / "bundle"
    directory.mkdir()
    for file in bundle.directory.iterdir():
        (directory / file.name).hardlink_to(file)
    entry = bundle.manifest.target
    taps = write_taps(bundle, directory, projection(64, precision="int8"))
    assert (directory / "model_native.onnx_data").samefile(bundle.directory / "model_native.onnx_data")
    assert Target(directory / entry.graph, entry, max_context=2, taps=taps).feature_size == FEATURES


def test_raw_levels_need_no_file_of_weights(tiny_bundle, tmp_path):
    bundle = Bundle(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    entry = write_taps(bundle, bundle.directory, Taps(levels=(1,)), name_suffix="_levels")
    assert entry.graph == "model_native_levels.onnx"
    assert not (bundle.directory / "model_native_levels.onnx_data").exists()


def test_a_native_target_with_a_portable_graph_gets_both_tapped(tiny_bundle_both, tmp_path, monkeypatch):
    bundle = Bundle(shutil.copytree(tiny_bundle_both, tmp_path / "bundle"))
    taps = projection(64, precision="int8")
    entry = bundle.manifest.target
    written = write_taps(bundle, bundle.directory, taps)
    assert written == TapsEntry(
        graph="model_native_taps.onnx", levels=LEVELS, portable_graph="model_quantized_taps.onnx"
    )
    native = Target(bundle.directory / entry.graph, entry, max_context=160, taps=written)
    monkeypatch.setattr(kernels, "is_available", lambda: False)
    portable = Target(bundle.directory / entry.graph, entry, max_context=160, taps=written)
    assert native.is_native
    assert not portable.is_native
    ours = native.read(TOKENS).features
    theirs = portable.read(TOKENS).features
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.95


def test_a_bundle_s_check_takes_tapped_graphs(tiny_bundle_both, tmp_path):
    bundle = Bundle(shutil.copytree(tiny_bundle_both, tmp_path / "bundle"))
    written = write_taps(bundle, bundle.directory, projection(64, precision="int8"))
    sizes = {path.name: path.stat().st_size for path in bundle.directory.iterdir()}
    assert check_graph(bundle.directory / written.graph, sizes).operators == bundle.manifest.target.operators
    assert check_graph(bundle.directory / written.portable_graph, sizes).operators is None


@pytest.mark.parametrize("name", ["tiny_cut_bundle", "tiny_cut_bundle_native"])
def test_a_cut_target_is_refused(name, request, tmp_path):
    bundle = Bundle(shutil.copytree(request.getfixturevalue(name), tmp_path / "bundle"))
    before = sorted(path.name for path in bundle.directory.iterdir())
    with pytest.raises(InputError, match="A target that was cut has no taps yet; export it again with --gpu-layers 0"):
        write_taps(bundle, bundle.directory, Taps(levels=(1,)))
    assert sorted(path.name for path in bundle.directory.iterdir()) == before


@pytest.mark.parametrize(
    ("taps", "message"),
    [
        (Taps(levels=(1, 3)), "level 3 must be between 0 and 2"),
        (projection(32), "3 levels have 192 numbers a row, and the head's fc reads 96"),
    ],
)
def test_taps_that_do_not_fit_the_target_are_refused(taps, message, tiny_bundle, tmp_path):
    bundle = Bundle(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    with pytest.raises(InputError, match=message):
        write_taps(bundle, bundle.directory, taps)


def test_a_width_that_portable_int8_cannot_have_is_refused(tiny_source, tmp_path):
    source = tiny_source("llama", hidden_size=48, num_attention_heads=3, num_key_value_heads=1, head_dim=16)
    export_bundle(str(source), tmp_path / "bundle", ExportOptions(precision="fp32"))
    bundle = Bundle(tmp_path / "bundle")
    taps = Taps(levels=(1,), weight=drawn(FEATURES, 48), precision="int8")
    with pytest.raises((SourceError, InputError), match="must be a multiple of 32 for INT8, got 48"):
        write_taps(bundle, bundle.directory, taps)
