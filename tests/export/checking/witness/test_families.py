"""The witness against transformers, whose models it shares no line with."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from dovetail_ort_export.checking.witness import testify as witness
from dovetail_ort_runtime.errors import InputError, SourceError

# transformers norms in float32 in a float64 model too: rounding of 6e-8 in each of five norms. Measured: up to 7e-7.
BOUND = 1e-5

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
TABLES = {
    "short_factor": [1.0 + 0.1 * pair for pair in range(8)],
    "long_factor": [1.0 + 2.0 * pair for pair in range(8)],
}
LONGROPE = {"rope_type": "longrope", "factor": 4.0, **TABLES}
WINDOWS = {"use_sliding_window": True, "sliding_window": 12}

FAMILIES = {
    "llama": {},
    "llama with an own head": {"tie_word_embeddings": False},
    "llama with biases of the attention": {"attention_bias": True},
    "llama with biases of the MLP": {"mlp_bias": True},
    "llama with large heads": {"head_dim": 32},
    "llama with one KV head": {"num_key_value_heads": 1},
    "llama with as many KV heads as heads": {"num_key_value_heads": 4},
    "llama with a large epsilon": {"rms_norm_eps": 0.01},
    "mistral without a window": {"sliding_window": None},
    "mistral with large heads": {"sliding_window": None, "head_dim": 32, "tie_word_embeddings": False},
    "qwen2": {},
    "qwen2 with an own head": {"tie_word_embeddings": False},
    "qwen3": {},
    "qwen3 with small heads and biases": {"head_dim": 32, "attention_bias": True, "tie_word_embeddings": False},
}
ROTARY = {
    "base": {"rope_theta": 500000.0},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "llama3": {"rope_scaling": LLAMA3, "rope_theta": 500000.0},
    "yarn": {"rope_scaling": YARN},
    "yarn with an attention factor": {"rope_scaling": {**YARN, "attention_factor": 0.7}},
    "yarn with two scales": {"rope_scaling": {**YARN, "mscale": 1.5, "mscale_all_dim": 0.5}},
    "yarn with other ends": {"rope_scaling": {**YARN, "beta_fast": 8.0, "beta_slow": 0.25}},
    "yarn with ends that are not truncated": {"rope_scaling": {**YARN, "truncate": False}},
    "dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}},
    "longrope": {"rope_scaling": LONGROPE, "original_max_position_embeddings": 128},
}
WINDOWED = {
    "mistral": {"sliding_window": 12},
    "qwen2 from block 1 on": {**WINDOWS, "max_window_layers": 1},
    "qwen2 by a list": {**WINDOWS, "layer_types": ["sliding_attention", "full_attention"]},
    "qwen3 from block 1 on": {**WINDOWS, "max_window_layers": 1},
    "qwen3 by a list": {**WINDOWS, "layer_types": ["sliding_attention", "full_attention"]},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_has_the_logits_of_transformers(name, tiny_source, reference, text, distance):
    family, settings = name.split()[0], FAMILIES[name]
    found = witness(tiny_source(family, **settings), text.token_ids, text.far, max_context=512)
    assert found.logits.dtype == np.float64
    assert distance(found.logits, reference(family, text.far, **settings)) < BOUND


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("kind", ROTARY)
def test_a_rotary_kind_has_the_logits_of_transformers(kind, family, tiny_source, reference, text, distance):
    settings = ROTARY[kind] | {"head_dim": 16, "sliding_window": None}
    found = witness(tiny_source(family, **settings), text.token_ids, text.far, max_context=512)
    assert distance(found.logits, reference(family, text.far, **settings)) < BOUND


@pytest.mark.parametrize("name", WINDOWED)
def test_a_window_has_the_logits_of_transformers(name, tiny_source, reference, text, distance):
    family, settings = name.split()[0], WINDOWED[name]
    found = witness(tiny_source(family, **settings), text.token_ids, text.near, max_context=512)
    assert distance(found.logits, reference(family, text.near, **settings)) < BOUND


def test_longrope_takes_the_short_table_up_to_the_original_context(tiny_source, reference, text, distance):
    settings = {"rope_scaling": LONGROPE, "original_max_position_embeddings": 128}
    source = tiny_source("llama", **settings)
    short = witness(source, text.token_ids, text.near, max_context=128).logits
    assert distance(short, reference("llama", text.near, **settings)) < BOUND
    assert distance(witness(source, text.token_ids, text.near, max_context=129).logits, short) > 100 * BOUND


@pytest.mark.parametrize("kind", ["base", "linear", "llama3", "yarn"])
def test_both_spellings_of_the_rotary_settings_mean_the_same(kind, tiny_source, text, edit_config):
    source = tiny_source("llama", **ROTARY[kind])
    theta, scaling = ROTARY[kind].get("rope_theta", 10000.0), ROTARY[kind].get("rope_scaling", {})
    older = {"type": scaling["rope_type"], **scaling} if scaling else {}
    older.pop("rope_type", None)
    newer = {"rope_type": "default", **scaling, "rope_theta": theta}
    spellings = (
        {"rope_theta": theta, "rope_scaling": scaling or None},
        {"rope_theta": theta, "rope_scaling": older or None},
        {"rope_parameters": newer},
        {"rope_parameters": {"full_attention": newer}},
        {"rope_theta": theta, "rope_scaling": older or None, "rope_parameters": newer},
        {"rope_theta": theta, "rope_parameters": {**newer, "rope_theta": None}},
    )
    found = []
    for spelling in spellings:
        edit_config(source, drop=("rope_theta", "rope_scaling", "rope_parameters"), **spelling)
        found.append(witness(source, text.token_ids, text.far, max_context=512).logits)
    for logits in found[1:]:
        np.testing.assert_array_equal(logits, found[0])


def test_rotary_settings_by_layer_type_turn_the_blocks_of_that_type(tiny_source, text, edit_config, distance):
    layers = {**WINDOWS, "layer_types": ["full_attention", "sliding_attention"]}
    source = tiny_source("qwen2", **layers)
    found = {}
    for full in (10000.0, 500000.0):
        for sliding in (10000.0, 500000.0):
            parameters = {
                "full_attention": {"rope_type": "default", "rope_theta": full},
                "sliding_attention": {"rope_type": "default", "rope_theta": sliding},
            }
            edit_config(source, drop=("rope_theta", "rope_scaling"), rope_parameters=parameters)
            found[full, sliding] = witness(source, text.token_ids, text.near, max_context=512).logits
    base = found[10000.0, 10000.0]
    for changed in ((500000.0, 10000.0), (10000.0, 500000.0), (500000.0, 500000.0)):
        assert distance(found[changed], base) > 100 * BOUND
    assert distance(found[500000.0, 10000.0], found[10000.0, 500000.0]) > 100 * BOUND


def test_longrope_under_its_first_name_is_longrope(tiny_source, text, edit_config):
    source = tiny_source("llama", rope_scaling=LONGROPE, original_max_position_embeddings=128)
    found = witness(source, text.token_ids, text.far, max_context=512).logits
    renamed = {key: value for key, value in LONGROPE.items() if key != "rope_type"} | {"type": "su"}
    edit_config(source, drop=("rope_scaling", "rope_parameters"), rope_theta=10000.0, rope_scaling=renamed)
    np.testing.assert_array_equal(witness(source, text.token_ids, text.far, max_context=512).logits, found)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_a_key_that_is_null_counts_as_absent(family, tiny_source, text, edit_config):
    keys = ("rms_norm_eps", "hidden_act", "rope_theta", "rope_scaling", "rope_parameters")
    source = tiny_source(family)
    edit_config(source, drop=keys)
    found = witness(source, text.token_ids, text.far, max_context=512).logits
    edit_config(source, **dict.fromkeys(keys))
    np.testing.assert_array_equal(witness(source, text.token_ids, text.far, max_context=512).logits, found)


def test_a_head_alone_is_the_embedding_too_where_both_are_one(tiny_source, text):
    source = tiny_source("llama")
    found = witness(source, text.token_ids, text.far, max_context=512).logits
    tensors = load_file(source / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, source / "model.safetensors")
    np.testing.assert_array_equal(witness(source, text.token_ids, text.far, max_context=512).logits, found)


@pytest.mark.parametrize("zipped", [True, False])
def test_pytorch_files_of_both_formats_are_read(zipped, tiny_source, text, torch):
    source = tiny_source("llama")
    found = witness(source, text.token_ids, text.far, max_context=512).logits
    tensors = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    torch.save(tensors, source / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    np.testing.assert_array_equal(witness(source, text.token_ids, text.far, max_context=512).logits, found)


def test_a_byte_order_mark_is_no_part_of_a_configuration(tiny_source, text):
    source = tiny_source("llama")
    found = witness(source, text.token_ids, text.far, max_context=512).logits
    config = source / "config.json"
    config.write_bytes(b"\xef\xbb\xbf" + config.read_bytes())
    np.testing.assert_array_equal(witness(source, text.token_ids, text.far, max_context=512).logits, found)


@pytest.mark.parametrize(
    ("family", "defaults"),
    [
        ("llama", {"rms_norm_eps": 1e-6, "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False}),
        ("mistral", {"rms_norm_eps": 1e-6, "tie_word_embeddings": False, "sliding_window": 4096}),
        ("qwen2", {"rms_norm_eps": 1e-6, "tie_word_embeddings": False, "use_sliding_window": False}),
        ("qwen3", {"rms_norm_eps": 1e-6, "tie_word_embeddings": False, "head_dim": 128, "attention_bias": False}),
    ],
)
def test_an_absent_key_means_the_published_default(
    family, defaults, tiny_source, reference, text, edit_config, distance
):
    source = tiny_source(family, **defaults)
    edit_config(source, drop=(*defaults, "rope_theta", "rope_scaling", "rope_parameters"))
    found = witness(source, text.token_ids, text.far, max_context=512)
    assert distance(found.logits, reference(family, text.far, **defaults)) < BOUND


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("llama", {"model_type": "gemma3"}, "model_type must be one of llama, mistral, qwen2, qwen3, got 'gemma3'"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act must be silu .*, got 'gelu'"),
        ("llama", {"rope_scaling": {"rope_type": "mrope"}}, "rope_type must be .*, got 'mrope'"),
        ("llama", {"rope_scaling": {"rope_type": "linear"}}, "factor must be a number over zero, got None"),
        ("llama", {"rope_scaling": LONGROPE | {"short_factor": [1.0]}}, "short_factor .* list of 8 numbers"),
        ("llama", {"rope_theta": "10000"}, "rope_theta must be a number over zero, got '10000'"),
        ("llama", {"hidden_size": 64.0}, "hidden_size must be a whole number over zero, got 64.0"),
        (
            "llama",
            {"rope_parameters": {"sliding_attention": {}}},
            "rope_parameters must have settings for full_attention",
        ),
        ("llama", {"rope_scaling": {"type": "yarn"}, "rope_parameters": {"type": "linear"}}, "differ; remove one"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor must be 1"),
        ("llama", {"intermediate_size": 64}, r"shape of model.layers.0.mlp.gate_proj.weight must be \(64, 64\)"),
        ("llama", {"tie_word_embeddings": False}, "lack the tensor lm_head.weight"),
        ("llama", {"num_hidden_layers": 3}, "lack the tensor model.layers.2.input_layernorm.weight"),
        ("qwen2", {"layer_types": ["full_attention"] * 3}, "layer_types must name .* for each of 2 layers"),
        ("qwen2", {"layer_types": ["full_attention", "chunked"]}, "layer_types must name .*chunked"),
    ],
)
def test_what_the_witness_does_not_understand_is_one_line(family, settings, message, tiny_source, text, edit_config):
    source = tiny_source(family)
    edit_config(source, drop=("rope_parameters",), **{"rope_theta": 10000.0, **settings})
    with pytest.raises(SourceError, match=message) as caught:
        witness(source, text.token_ids, text.far, max_context=512)
    assert "\n" not in str(caught.value)


def test_dynamic_scaling_is_refused_where_it_begins_to_change(tiny_source, text):
    source = tiny_source("llama", rope_scaling={"rope_type": "dynamic", "factor": 4.0})
    with pytest.raises(SourceError, match="max_context must be at most 512"):
        witness(source, text.token_ids, text.far, max_context=513)


@pytest.mark.parametrize(
    ("token_ids", "positions", "message"),
    [
        ([3, 4], [0], "one position for each token"),
        ([], [], "one position for each token"),
        ([3, 4], [1, 1], "positions must ascend"),
        ([3, 4], [0, 16], "positions must ascend from 0 to less than 16"),
        ([3, 384], [0, 1], "token ids must be under 384, got 384"),
    ],
)
def test_a_text_outside_the_model_is_refused(token_ids, positions, message, tiny_llama):
    tokens, places = np.array(token_ids, dtype=np.int64), np.array(positions, dtype=np.int64)
    with pytest.raises(InputError, match=message):
        witness(tiny_llama, tokens, places, max_context=16)
