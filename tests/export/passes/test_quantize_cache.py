"""The INT8 cache: its ranges, its nodes, what it costs in agreement and that rows still stand alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dovetail_ort_export.checking.agreement import LARGEST_MEAN_KL
from dovetail_ort_export.passes.context import PassContext
from dovetail_ort_export.passes.keep_blocks import KeepBlocks
from dovetail_ort_export.passes.quantize_cache import QuantizeCache
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.engine.target import Target

RECIPE = Path(__file__).parents[3] / "benchmarks" / "recipes" / "int8-cache.toml"
TOKENS = np.random.default_rng(3).integers(0, 384, 100)


@pytest.fixture(scope="module")
def int8_cache(tiny_llama, tmp_path_factory):
    """Bundle of the tiny Llama with an INT8 cache."""
    from dovetail_ort_export import ExportOptions, export_bundle

    out = tmp_path_factory.mktemp("cache") / "bundle"
    return Path(export_bundle(str(tiny_llama), out, ExportOptions(recipes=(RECIPE,))).directory)


def opened(directory, **settings):
    bundle = Bundle(directory)
    entry = bundle.manifest.target
    return Target(bundle.path(entry.graph), entry, threads=1, **settings)


def maxima_of(model):
    """What is measured while the model reads the tokens."""
    from dovetail_ort_export.checking.reference import reference_logits
    from dovetail_ort_export.quantization.cache_range import measured_cache

    with measured_cache(model) as maxima:
        reference_logits(model, TOKENS)
    return maxima


@pytest.fixture(scope="module")
def skeleton(tiny_model):
    """A traced tiny Llama with its weights, and what its export knows."""
    from dovetail_ort_export.passes.bind_weights import BindWeights
    from dovetail_ort_export.source.weights import Weights
    from dovetail_ort_export.tracing.target import trace_target

    model = tiny_model("llama")
    context = PassContext(weights=Weights(model, max_context=512), cache_maxima=maxima_of(model))
    return BindWeights(context)(trace_target(model)).model, context


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_the_ranges_hold_what_the_models_own_cache_holds(tiny_model, torch, family):
    model = tiny_model(family)
    maxima = maxima_of(model)
    with torch.no_grad():
        cache = model(torch.from_numpy(TOKENS)[None], use_cache=True).past_key_values
    assert set(maxima) == {f"{block}.{part}" for block in range(2) for part in ("key", "value")}
    for block in range(2):
        layer = cache.layers[block]
        keys, values = (part[0].abs().amax(dim=1).flatten().numpy() for part in (layer.keys, layer.values))
        # float32 rotates with an error of a few units in the last place.
        assert (keys <= maxima[f"{block}.key"] * (1 + 1e-5)).all()
        assert (keys > 0.5 * maxima[f"{block}.key"]).mean() > 0.9
        np.testing.assert_allclose(values, maxima[f"{block}.value"], rtol=1e-5)


def test_every_attention_reads_an_int8_cache_with_a_scale_for_each_channel(skeleton):
    graph, context = skeleton[0].clone(), skeleton[1]
    assert QuantizeCache(context)(graph).modified
    attentions = [node for node in graph.graph if node.op_type == "GroupQueryAttention"]
    assert len(attentions) == 2
    for block, node in enumerate(attentions):
        for index, part in enumerate(("key", "value")):
            scales = node.inputs[12 + index].const_value.numpy()
            np.testing.assert_allclose(scales, context.cache_maxima[f"{block}.{part}"] / 127, rtol=1e-6)
    caches = [value for value in (*graph.graph.inputs, *graph.graph.outputs) if "." in value.name]
    assert len(caches) == 8
    assert {value.dtype for value in caches} == {ir.DataType.INT8}
    assert not QuantizeCache(context)(graph).modified


def test_the_blocks_that_were_kept_get_the_scales_of_their_number(skeleton):
    context = replace(skeleton[1], first_block=1)
    graph = KeepBlocks(context)(skeleton[0]).model
    QuantizeCache(context)(graph)
    (node,) = [node for node in graph.graph if node.op_type == "GroupQueryAttention"]
    np.testing.assert_allclose(node.inputs[12].const_value.numpy(), context.cache_maxima["1.key"] / 127, rtol=1e-6)


def test_a_cache_without_ranges_is_refused(skeleton):
    with pytest.raises(ir.passes.PreconditionError) as error:
        QuantizeCache(replace(skeleton[1], cache_maxima={}))(skeleton[0].clone())
    assert "no range was measured for past_key_values.0.key" in str(error.value.__cause__ or error.value)


def test_the_bundle_is_exact_and_labelled(int8_cache):
    from dovetail_ort.cli.bundle_lines import number_format

    manifest = Bundle(int8_cache).manifest
    assert manifest.target.exact
    assert number_format(manifest.target) == "int8, portable, cache in int8"


def test_the_cache_takes_a_quarter_and_stays_as_close_to_the_model_as_export_asks_for(int8_cache, tiny_bundle_portable):
    small, large = opened(int8_cache), opened(tiny_bundle_portable)
    assert 4 * small.cache.num_bytes == large.cache.num_bytes
    agreement, without = (Bundle(path).manifest.measurements.agreement for path in (int8_cache, tiny_bundle_portable))
    assert without.mean_kl < agreement.mean_kl <= LARGEST_MEAN_KL


def test_speculation_over_an_int8_cache_gives_the_baseline_answer(int8_cache):
    import dovetail_ort
    from dovetail_ort import GenerationOptions

    model = dovetail_ort.load(int8_cache, drafter="lookup", threads=1)
    baseline, speculative = (
        model.generate("one two one two one", GenerationOptions(max_new_tokens=40, max_draft_tokens=number)).token_ids
        for number in (0, 8)
    )
    assert baseline == speculative
