"""The rotary settings, in both spellings, mean what transformers makes of them."""

from __future__ import annotations

import re

import numpy as np
import pytest

from dovetail_ort_export.source.rotary import read_rotary
from dovetail_ort_export.source.settings import read_settings
from dovetail_ort_runtime.errors import InputError, SourceError

HEAD = 16
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0 + i / 10 for i in range(HEAD // 2)],
    "long_factor": [2.0 + i for i in range(HEAD // 2)],
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
SCALINGS = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": LLAMA3,
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    "yarn with all options": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 128,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
        "mscale": 0.7,
        "mscale_all_dim": 1.3,
        "truncate": False,
    },
    "yarn with an own factor": {"rope_type": "yarn", "factor": 2.0, "attention_factor": 1.5},
    "longrope": {**LONGROPE, "original_max_position_embeddings": 64},
}


def config(**changes):
    return {
        "model_type": "llama",
        "vocab_size": 384,
        "hidden_size": 4 * HEAD,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        **changes,
    }


def spellings(scaling, theta):
    """One meaning as transformers 4 writes it, as its oldest releases do, and as transformers 5 does."""
    older = {key: value for key, value in scaling.items() if key != "rope_type"}
    yield config(rope_theta=theta, rope_scaling=dict(scaling))
    yield config(rope_theta=theta, rope_scaling={"type": scaling["rope_type"], **older})
    yield config(rope_parameters={"rope_theta": theta, **scaling})
    yield config(rope_parameters={"full_attention": {"rope_theta": theta, **scaling}})
    yield config(rope_theta=theta, rope_scaling=dict(scaling), rope_parameters={"rope_theta": theta, **scaling})


@pytest.mark.parametrize("name", SCALINGS)
def test_all_spellings_mean_the_same(name):
    found = [read_settings(each).values for each in spellings(SCALINGS[name], 500_000.0)]
    assert all(values == found[0] for values in found)
    assert found[0]["rope_theta"] == 500_000.0


@pytest.mark.parametrize("name", SCALINGS)
def test_the_angles_are_those_of_transformers_on_the_checkpoint(name, torch):
    """Of every spelling, over 512 positions, bit for bit."""
    import transformers
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    def angles(settings):
        made = transformers.AutoConfig.for_model("llama", **settings)
        return [part.numpy() for part in LlamaRotaryEmbedding(made)(torch.zeros(1), torch.arange(512)[None])]

    theirs = config(rope_theta=500_000.0, rope_scaling=dict(SCALINGS[name]))
    del theirs["model_type"]
    if name == "longrope":  # where older releases look for it
        theirs["original_max_position_embeddings"] = SCALINGS[name]["original_max_position_embeddings"]
    for each in spellings(SCALINGS[name], 500_000.0):
        ours = dict(read_settings(each).values)
        for expected, got in zip(angles(dict(theirs)), angles(ours), strict=True):
            np.testing.assert_array_equal(got, expected)


def test_yarn_reaches_its_factor_times_the_original_context():
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    assert read_settings(config(rope_scaling=yarn)).max_context == 512
    assert read_settings(config(rope_scaling=yarn), max_context=2048).max_context == 2048
    with pytest.raises(InputError, match="max_context must be at most the model's 2048, got 2049"):
        read_settings(config(rope_scaling=yarn), max_context=2049)


def test_dynamic_scaling_is_none_up_to_the_models_own_context():
    dynamic = {"rope_type": "dynamic", "factor": 4.0}
    assert read_settings(config(rope_scaling=dynamic), max_context=512).values == read_settings(config()).values


@pytest.mark.parametrize("max_context", [None, 513])
def test_dynamic_scaling_is_refused_where_the_length_of_the_text_would_matter(max_context):
    message = f"at most 512 where rope_type is dynamic, .* got {max_context or 'none'}; export with --max-context 512"
    with pytest.raises(SourceError, match=message):
        read_settings(config(rope_scaling={"rope_type": "dynamic", "factor": 4.0}), max_context=max_context)


@pytest.mark.parametrize(("max_context", "table"), [(64, "short"), (65, "long"), (512, "long")])
def test_longrope_has_the_one_table_that_the_context_asks_for(max_context, table):
    settings = read_settings(config(rope_scaling=SCALINGS["longrope"]), max_context=max_context)
    scaling = settings.values["rope_scaling"]
    assert settings.rotary.table(max_context) == table
    assert scaling["short_factor"] == scaling["long_factor"] == LONGROPE[f"{table}_factor"]


def test_longrope_finds_the_original_context_beside_the_scaling_too():
    inside = config(rope_scaling=SCALINGS["longrope"])
    beside = config(rope_scaling=dict(LONGROPE), original_max_position_embeddings=64)
    older = config(rope_scaling={**LONGROPE, "rope_type": None, "type": "su"}, original_max_position_embeddings=64)
    assert read_settings(beside).values == read_settings(older).values == read_settings(inside).values


def test_an_attn_factor_of_one_is_the_same_to_all_programs():
    plain = {"rope_type": "yarn", "factor": 4.0}
    found = read_rotary(config(rope_scaling={**plain, "attn_factor": 1.0}), HEAD)
    assert found == read_rotary(config(rope_scaling=plain), HEAD)


@pytest.mark.parametrize("kind", ["default", "linear"])
def test_an_original_context_says_nothing_where_the_rotation_has_no_use_for_it(kind):
    with_it = {**SCALINGS[kind], "original_max_position_embeddings": 128}
    assert read_rotary(config(rope_scaling=with_it), HEAD) == read_rotary(config(rope_scaling=SCALINGS[kind]), HEAD)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"rope_scaling": SCALINGS["longrope"], "original_max_position_embeddings": 128},
            "must be the same in config.json and in its rotary settings, got 128 and 64",
        ),
        # As DeepSeek-R1-0528-Qwen3-8B has it: 0.878... (0.1 ln 4 + 1) = 1.
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "attn_factor": 0.8782488562869419}},
            'in its place write "attention_factor": 1, as',
        ),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "attn_factor": "x"}}, "attn_factor and factor of yarn"),
        ({"rope_scaling": {"rope_type": "mrope"}}, "rope_type must be one of default, linear, llama3, yarn, dynamic"),
        ({"rope_scaling": {"rope_type": "linear"}}, "the rotation linear must have the option factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0.5}}, "factor of the rotation linear must be a number of"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2, "beta": 1}}, "no other options than factor, got 'beta'"),
        ({"rope_scaling": {"rope_type": "yarn", "type": "linear", "factor": 2}}, "must name one kind of rotation"),
        ({"rope_scaling": {**LLAMA3, "low_freq_factor": "1"}}, "low_freq_factor of the rotation llama3 must be a"),
        ({"rope_scaling": {**LONGROPE, "long_factor": [1.0]}}, "must have the option original_max_position_embeddings"),
        (
            {"rope_scaling": {**SCALINGS["longrope"], "long_factor": [1.0]}},
            "long_factor must have one factor for each of 8 frequencies, got 1",
        ),
        ({"rope_theta": 0}, "rope_theta must be a number above 0, got 0"),
        (
            {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e6}},
            "rope_theta must be the same wherever config.json",
        ),
        ({"rope_theta": 1e4, "rope_scaling": {"rope_theta": 1e6}}, "rope_theta must be the same wherever config.json"),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "rope_parameters": {"rope_type": "default"}},
            "rope_type must be the same wherever config.json states it, got 'default' and, in rope_scaling, 'linear'",
        ),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor of llama must be 1, got 0.5"),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.25}}, "must be 1, got 0.25"),
        ({"rope_scaling": "linear"}, "rope_scaling must be an object, got 'linear'"),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}},
            "rope_parameters must be the same for all layers, got different ones for full_attention, sliding",
        ),
    ],
)
def test_a_rotation_that_is_not_understood_is_refused(changes, message):
    with pytest.raises(SourceError, match=re.escape(message)):
        read_settings(config(**changes))


def test_a_theta_that_no_spelling_names_is_the_first_llamas():
    assert read_rotary(config(), HEAD).theta == 10_000.0
