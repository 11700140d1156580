"""Rotary settings of a GGUF file turn positions as llama.cpp documents; transformers' own tables are the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dovetail_ort_export.source.gguf_rotary import rotary_settings
from dovetail_ort_export.source.settings import read_settings
from dovetail_ort_runtime.errors import SourceError

FREQUENCIES, SHORT, LONG = "rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"
# float32 tables against float64 formulas: powers of the base lose up to ten units in the last place.
CLOSE = 1e-6


@pytest.fixture
def table(torch):
    """`table(found, head_size, context)`: inverse frequencies and attention factor of transformers' rotary module."""
    import transformers
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    def make(found, head_size=16, context=512):
        config = {
            "model_type": "llama",
            "vocab_size": 384,
            "hidden_size": 4 * head_size,
            "intermediate_size": 128,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "max_position_embeddings": context,
            **found,
        }
        values = dict(read_settings(config).values)
        embedding = LlamaRotaryEmbedding(transformers.LlamaConfig(**values))
        return embedding.inv_freq.double().numpy(), embedding.attention_scaling

    return make


def plain(theta, head_size=16):
    return theta ** -(np.arange(0, head_size, 2) / head_size)


def llama3_factors(theta, head_size, factor, original):
    """What Llama 3.1's publisher divides frequencies by, written down a second time, in float64."""
    found = []
    for frequency in plain(theta, head_size):
        wavelength = 2 * math.pi / frequency
        smooth = (original / wavelength - 1) / (4 - 1)
        if wavelength < original / 4:
            found.append(1.0)
        elif wavelength > original:
            found.append(factor)
        else:
            found.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(found, np.float32)


def yarn_frequencies(theta, head_size, factor, original, fast=32.0, slow=1.0):
    """YaRN, arXiv 2309.00071, section 3.2, with the bounds rounded outwards, in float64."""
    frequencies = plain(theta, head_size)

    def dimension(turns):
        return head_size * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = max(0, math.floor(dimension(fast))), min(head_size - 1, math.ceil(dimension(slow)))
    ramp = np.clip((np.arange(head_size // 2) - low) / max(0.001, high - low), 0, 1)
    return frequencies / factor * ramp + frequencies * (1 - ramp)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"rope.scaling.type": "none", "rope.scaling.factor": 4.0},
        {"rope.scaling.type": "linear", "rope.scaling.factor": 1.0},
        {"rope.scaling.factor": 0.0},
        {"rope.scaling.finetuned": True},
    ],
)
def test_without_a_scaling_the_base_alone_is_read(settings):
    assert rotary_settings({"rope.freq_base": 5e5, **settings}, {}, 16, 512) == {"rope_theta": 5e5}


def test_a_base_that_is_not_stated_is_ten_thousand():
    assert rotary_settings({}, {}, 16, 512) == {"rope_theta": 1e4}


@pytest.mark.parametrize(
    "settings",
    [
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
        {"rope.scaling.factor": 4.0},
        {"rope.scale_linear": 4.0},
    ],
)
def test_linear_scaling_divides_every_frequency(table, settings):
    frequencies, attention = table(rotary_settings(settings, {}, 16, 512))
    np.testing.assert_allclose(frequencies, plain(1e4) / 4, rtol=CLOSE)
    assert attention == 1


@pytest.mark.parametrize(
    ("theta", "head_size", "factor", "original"),
    [(5e5, 128, 8.0, 8192), (5e5, 64, 32.0, 8192), (5e5, 16, 8.0, 64), (1e6, 128, 16.0, 4096)],
)
def test_factors_of_llama_3_are_named_as_what_they_are(table, theta, head_size, factor, original):
    factors = llama3_factors(theta, head_size, factor, original)
    found = rotary_settings({"rope.freq_base": theta}, {FREQUENCIES: factors}, head_size, 131_072)
    assert found["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": original,
    }
    frequencies, _ = table(found, head_size, 131_072)
    # What the converter rounded is computed again from the settings.
    np.testing.assert_allclose(frequencies, plain(theta, head_size) / factors, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "factor"), [({}, 1.0), ({"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}, 2.0)]
)
def test_factors_of_another_origin_divide_each_its_frequency(table, settings, factor):
    factors = np.array([1, 1, 1.5, 1.2, 3, 4, 8, 7.5], np.float32)
    found = rotary_settings({"rope.freq_base": 5e5, **settings}, {FREQUENCIES: factors}, 16, 512)
    frequencies, attention = table(found)
    np.testing.assert_allclose(frequencies, plain(5e5) / (factors * factor), rtol=CLOSE)
    assert attention == 1


def test_factors_close_to_llama_3_are_not_taken_for_it(table):
    factors = llama3_factors(5e5, 128, 8.0, 8192)
    factors[33] *= 1.001
    found = rotary_settings({"rope.freq_base": 5e5}, {FREQUENCIES: factors}, 128, 8192)
    np.testing.assert_allclose(table(found, 128, 8192)[0], plain(5e5, 128) / factors, rtol=CLOSE)


def test_factors_of_one_scale_nothing():
    assert rotary_settings({}, {FREQUENCIES: np.ones(8, np.float32)}, 16, 512) == {"rope_theta": 1e4}


@pytest.mark.parametrize(
    ("more", "options", "multiplier"),
    [
        ({}, {}, 1.0),
        ({"rope.scaling.yarn_beta_fast": 16.0, "rope.scaling.yarn_beta_slow": 2.0}, {"fast": 16.0, "slow": 2.0}, 1.0),
        ({"rope.scaling.attn_factor": 0.5}, {}, 0.5),
        ({"rope.scaling.yarn_attn_factor": 0.1 * math.log(4) + 1}, {}, 1.0),
        ({"rope.scaling.yarn_ext_factor": 1.0, "rope.scaling.yarn_log_multiplier": 0.0}, {}, 1.0),
    ],
)
def test_yarn_is_that_of_its_paper(table, more, options, multiplier):
    settings = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 128}
    frequencies, attention = table(rotary_settings({**settings, **more}, {}, 16, 512))
    np.testing.assert_allclose(frequencies, yarn_frequencies(1e4, 16, 4.0, 128, **options), rtol=CLOSE)
    assert attention == pytest.approx((0.1 * math.log(4) + 1) * multiplier)


def test_yarn_without_an_original_context_starts_from_the_context():
    found = rotary_settings({"rope.scaling.type": "yarn", "rope.scaling.factor": 2.0}, {}, 16, 512)
    assert found["rope_scaling"]["original_max_position_embeddings"] == 512


@pytest.mark.parametrize(("context", "name"), [(256, SHORT), (1024, LONG)])
def test_longrope_has_the_table_of_its_context(table, context, name):
    random = np.random.default_rng(2)
    factors = {SHORT: random.uniform(1, 2, 8).astype(np.float32), LONG: random.uniform(2, 9, 8).astype(np.float32)}
    settings = {
        "rope.scaling.type": "longrope",
        "rope.scaling.original_context_length": 256,
        "rope.scaling.attn_factor": 1.25,
    }
    frequencies, attention = table(rotary_settings(settings, factors, 16, context), context=context)
    np.testing.assert_allclose(frequencies, plain(1e4) / factors[name], rtol=CLOSE)
    assert attention == 1.25


YARN = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}
ONES = np.full(8, 2, np.float32)


@pytest.mark.parametrize(
    ("settings", "factors", "reason"),
    [
        ({"rope.scaling.type": "dynamic"}, {}, "type must be one of none, linear, yarn, longrope, got 'dynamic'"),
        ({"rope.freq_base": 0.0}, {}, "freq_base must be a number above 0, got 0.0"),
        ({}, {FREQUENCIES: ONES[:5]}, "rope_freqs.weight must have one factor for each of 8 frequencies, got 5"),
        ({"rope.scaling.factor": 0.5}, {}, "factor must be a number of 1 or more, got 0.5"),
        ({"rope.scaling.attn_factor": 1.5}, {}, "attn_factor must be 1, got 1.5"),
        ({"rope.scaling.yarn_beta_fast": 32.0}, {}, "yarn_beta_fast must not stand beside"),
        ({**YARN, "rope.scaling.yarn_log_multiplier": 0.1}, {}, "yarn_log_multiplier must be 0, got 0.1"),
        ({**YARN, "rope.scaling.yarn_ext_factor": 0.5}, {}, "yarn_ext_factor must be 1, got 0.5"),
        ({**YARN, "rope.scaling.yarn_attn_factor": 1.0}, {}, "yarn_attn_factor must be 1.13863 for factor 4, got 1"),
        (YARN, {FREQUENCIES: ONES}, "must have no tensor rope_freqs"),
        ({"rope.scaling.type": "longrope"}, {SHORT: ONES}, "must have the tensor rope_factors_long"),
        (
            {"rope.scaling.type": "longrope", "rope.scaling.factor": 2.0},
            {SHORT: ONES, LONG: ONES},
            "factor must be 1 where",
        ),
    ],
)
def test_a_scaling_that_means_something_else_is_refused_by_name(settings, factors, reason):
    with pytest.raises(SourceError, match=reason):
        rotary_settings(settings, factors, 16, 512)


def test_factors_in_a_file_reach_the_settings(gguf_of):
    from dovetail_ort_export.source.gguf_checkpoint import read_gguf

    factors = llama3_factors(5e5, 16, 8.0, 64)
    path, _ = gguf_of(settings={"rope.freq_base": 5e5}, tensors={FREQUENCIES: factors})
    checkpoint = read_gguf(path)
    assert checkpoint.config["rope_scaling"]["original_max_position_embeddings"] == 64
    assert FREQUENCIES not in checkpoint.tensors
