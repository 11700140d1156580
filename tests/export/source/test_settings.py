"""Every key of a configuration is understood, harmless or refused."""

from __future__ import annotations

import re

import pytest

from dovetail_ort_export.source.families import FAMILIES
from dovetail_ort_export.source.families.family import COMMON_SETTINGS
from dovetail_ort_export.source.harmless_settings import HARMLESS
from dovetail_ort_export.source.rotary import ROTARY_KEYS
from dovetail_ort_export.source.settings import NEUTRAL, read_settings
from dovetail_ort_runtime.errors import InputError, SourceError

LLAMA = {
    "model_type": "llama",
    "vocab_size": 384,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
}


def of(family, **changes):
    return {**LLAMA, "model_type": family, **changes}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_setting_that_changes_the_mathematics_reaches_the_model(family):
    settings = read_settings(of(family, sliding_window=None))
    for key in COMMON_SETTINGS:
        assert settings.values[key] == LLAMA[key]
    assert (settings.family.model_type, settings.max_context, settings.ignored) == (family, 512, ())


@pytest.mark.parametrize("family", FAMILIES)
def test_no_key_has_two_meanings(family):
    known = [*COMMON_SETTINGS, *ROTARY_KEYS, *NEUTRAL, *(key for keys in HARMLESS.values() for key in keys)]
    assert len(known) == len(set(known))
    assert not set(FAMILIES[family].settings) & set(known)


def test_a_harmless_key_reaches_no_model():
    settings = read_settings(of("llama", initializer_range=9.0, torch_dtype="bfloat16", architectures=["X"]))
    assert settings.values == read_settings(LLAMA).values


def test_an_unknown_key_is_refused_with_the_way_on():
    message = "got logit_scale = 0.5, residual_multiplier = 0.22 in the configuration of llama"
    with pytest.raises(SourceError, match=re.escape(message)) as error:
        read_settings(of("llama", logit_scale=0.5, residual_multiplier=0.22))
    assert "--ignore-setting logit_scale --ignore-setting residual_multiplier" in str(error.value)


def test_the_first_three_of_many_unknown_keys_are_named():
    with pytest.raises(SourceError, match=r"got a1 = 1, a2 = 1, a3 = 1 and others in the configuration"):
        read_settings(of("llama", a1=1, a2=1, a3=1, a4=1))


@pytest.mark.parametrize("value", [None, {}, []])
def test_an_unknown_key_without_a_value_says_nothing(value):
    assert read_settings(of("llama", logit_scale=value)).values == read_settings(LLAMA).values


def test_a_whole_number_stands_for_a_number():
    value = read_settings(of("llama", rms_norm_eps=1)).values["rms_norm_eps"]
    assert (value, type(value)) == (1.0, float)


@pytest.mark.parametrize(
    ("family", "key"),
    [("mistral", "attention_bias"), ("mistral", "mlp_bias"), ("qwen2", "mlp_bias"), ("qwen3", "mlp_bias")],
)
def test_a_bias_that_a_family_does_not_have_may_be_denied(family, key):
    plain = of(family, sliding_window=None)
    assert read_settings({**plain, key: False}).values == read_settings(plain).values
    with pytest.raises(SourceError, match=f"{key} of {family} must be False, got True"):
        read_settings({**plain, key: True})


def test_settings_that_say_that_a_llama_has_no_windows_are_accepted():
    settings = {"use_sliding_window": False, "layer_types": ["full_attention"] * LLAMA["num_hidden_layers"]}
    assert read_settings(of("llama", **settings)).max_context == 512
    with pytest.raises(SourceError, match="use_sliding_window of llama must be False, got True"):
        read_settings(of("llama", use_sliding_window=True))
    with pytest.raises(SourceError, match="layer_types of llama must be a list of full_attention"):
        read_settings(of("llama", layer_types=["sliding_attention"]))


def test_an_unknown_key_can_be_ignored_and_is_recorded():
    settings = read_settings(of("llama", logit_scale=0.5), ignore=("logit_scale", "not_there"))
    assert settings.ignored == ("logit_scale",)
    assert settings.values == read_settings(LLAMA).values


@pytest.mark.parametrize("key", ["rope_theta", "hidden_size", "attention_bias", "is_encoder_decoder"])
def test_a_key_that_is_understood_cannot_be_ignored(key):
    with pytest.raises(InputError, match=f"ignore_settings must name keys that export does not know, got '{key}'"):
        read_settings(LLAMA, ignore=(key,))


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("gemma2", {}, "the model family must be one of llama, mistral, qwen2, qwen3, got 'gemma2'"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act of llama must be one of silu, swish, got 'gelu'"),
        ("llama", {"hidden_size": 64.0}, "hidden_size of llama must be a whole number of 1 or more, got 64.0"),
        ("llama", {"num_hidden_layers": True}, "num_hidden_layers of llama must be a whole number of 1 or more"),
        ("llama", {"num_hidden_layers": 0}, "num_hidden_layers of llama must be a whole number of 1 or more, got 0"),
        ("llama", {"rms_norm_eps": 0}, "rms_norm_eps of llama must be a number above 0, got 0"),
        ("llama", {"rms_norm_eps": float("nan")}, "rms_norm_eps of llama must be a number above 0, got nan"),
        ("llama", {"tie_word_embeddings": 1}, "tie_word_embeddings of llama must be true or false, got 1"),
        ("llama", {"num_key_value_heads": 3}, "num_attention_heads must be a multiple of num_key_value_heads, got 4"),
        ("llama", {"hidden_size": 65}, "hidden_size must be a multiple of num_attention_heads where"),
        ("llama", {"head_dim": 24}, "the head size of llama must be a multiple of 16, got 24"),
        ("llama", {"is_encoder_decoder": True}, "is_encoder_decoder of llama must be False, got True; it is not"),
        ("llama", {"rope_interleaved": True}, "rope_interleaved of llama must be False, got True; it is not built"),
        ("qwen2", {"use_mrope": True}, "use_mrope of qwen2 must be False, got True; it is not built"),
        ("qwen2", {"attention_bias": False}, "got attention_bias = False in the configuration of qwen2"),
        ("llama", {"sliding_window": 4096}, "got sliding_window = 4096 in the configuration of llama"),
        ("qwen2", {"layer_types": ["linear_attention"] * 2}, "layer_types of qwen2 must be a list of full_attention"),
        ("qwen2", {"layer_types": ["full_attention"]}, "layer_types must name each of 2 layers, got 1"),
        ("qwen3", {"layer_types": ["sliding_attention"] * 2}, "layer_types must name no sliding_attention where"),
    ],
)
def test_a_value_that_is_not_built_is_refused(family, changes, message):
    with pytest.raises(SourceError, match=re.escape(message)):
        read_settings(of(family, **({"sliding_window": None} if family == "mistral" else {}) | changes))


@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "max_position_embeddings", "model_type"])
def test_a_configuration_without_a_dimension_is_refused(key):
    with pytest.raises(SourceError, match=f"must have (a|the key) '?{key}"):
        read_settings({name: value for name, value in LLAMA.items() if name != key})


@pytest.mark.parametrize(
    ("family", "changes", "window"),
    [
        ("mistral", {}, 4096),  # the first release's, where the configuration has none
        ("mistral", {"sliding_window": 100}, 100),
        ("mistral", {"sliding_window": None}, None),
        ("qwen2", {"sliding_window": 100}, None),
        ("qwen2", {"sliding_window": 100, "use_sliding_window": True}, None),  # from layer 28 on, of 2
        ("qwen2", {"sliding_window": 100, "use_sliding_window": True, "max_window_layers": 1}, 100),
        ("qwen3", {"sliding_window": 100, "use_sliding_window": True, "layer_types": ["full_attention"] * 2}, None),
    ],
)
def test_a_window_bounds_the_context_where_a_layer_has_it(family, changes, window):
    config = of(family, max_position_embeddings=8192, **changes)
    if window is None:
        assert read_settings(config).max_context == 8192
    else:
        with pytest.raises(SourceError, match=f"at most the sliding window of {window} tokens, got 8192"):
            read_settings(config)
        assert read_settings(config, max_context=window).max_context == window


def test_a_context_beyond_the_models_is_refused():
    with pytest.raises(InputError, match="max_context must be at most the model's 512, got 513"):
        read_settings(LLAMA, max_context=513)
