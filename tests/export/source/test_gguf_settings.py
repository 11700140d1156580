"""The metadata of a GGUF file: translated, harmless, or refused in a line that names the key."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail_ort_export.source.gguf_checkpoint import read_gguf
from dovetail_ort_export.source.settings import read_settings
from dovetail_ort_runtime.errors import SourceError


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_what_converters_write_is_understood(gguf_of, architecture):
    described = {"general.type": "model", "general.tags": ["chat"], "general.base_model.0.name": "x"}
    quantised = {"quantize.imatrix.file": "x.dat", "general.quantization_version": 2, "mradermacher.quantized_by": "x"}
    settings = {"head_dim": 32} if architecture == "qwen3" else {}
    path, model = gguf_of(architecture, more={**described, **quantised}, **settings)
    understood = read_settings(read_gguf(path).config)
    for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"):
        assert understood.values[key] == getattr(model.config, key)
    assert understood.max_context == 512


def test_sizes_written_once_for_each_block_are_one_size(gguf_of):
    path, _ = gguf_of(settings={"attention.head_count_kv": [2, 2], "feed_forward_length": [128, 128]})
    config = read_gguf(path).config
    assert (config["num_key_value_heads"], config["intermediate_size"]) == (2, 128)


def test_without_a_head_count_of_keys_each_query_head_has_its_own(gguf_of):
    path, _ = gguf_of(drop=["llama.attention.head_count_kv"], num_key_value_heads=4)
    assert read_gguf(path).config["num_key_value_heads"] == 4


def test_without_a_length_of_keys_heads_share_the_width(gguf_of):
    drop = ["llama.attention.key_length", "llama.attention.value_length", "llama.rope.dimension_count"]
    path, _ = gguf_of(drop=[*drop, "llama.vocab_size"])
    assert read_gguf(path).config["head_dim"] == 16


def test_a_key_of_unknown_meaning_is_refused_by_its_own_name(gguf_of):
    more = {"llama.residual_twist": 3.0, "tokenizer.ggml.suppress_tokens": [1], "new_namespace.key": 1}
    path, _ = gguf_of(more=more)
    config = read_gguf(path).config
    with pytest.raises(SourceError, match=r"llama\.residual_twist = 3\.0.*--ignore-setting llama\.residual_twist"):
        read_settings(config)
    assert read_settings(config, ignore=tuple(more)).ignored == tuple(more)


def test_a_window_smaller_than_the_context_is_kept(gguf_of):
    path, _ = gguf_of(settings={"attention.sliding_window": 128})
    config = read_gguf(path).config
    assert (config["model_type"], config["sliding_window"]) == ("mistral", 128)
    path, _ = gguf_of("qwen2", settings={"attention.sliding_window": 128})
    config = read_gguf(path).config
    assert (config["use_sliding_window"], config["sliding_window"]) == (True, 128)
    with pytest.raises(SourceError, match="--max-context 128"):
        read_settings(config)


def test_a_window_that_spans_the_context_is_none(gguf_of):
    path, _ = gguf_of(settings={"attention.sliding_window": 512})
    config = read_gguf(path).config
    assert config["model_type"] == "llama"
    assert "sliding_window" not in config


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"expert_count": 8}, r"llama\.expert_count must be 0, got 8"),
        ({"attention.causal": False}, r"llama\.attention\.causal must be True, got False"),
        ({"logit_scale": 0.5}, r"llama\.logit_scale must be 1\.0, got 0\.5"),
        ({"rope.dimension_count": 8}, r"rope\.dimension_count must be the size of a key, 16, got 8"),
        ({"attention.value_length": 32}, r"value_length must be the size of a key, 16, got 32"),
        ({"attention.head_count_kv": [2, 4]}, "head_count_kv must be the same for all blocks"),
        ({"block_count": 0}, "block_count must be a whole number of 1 or more, got 0"),
        ({"block_count": None}, r"must have the key llama\.block_count, got none"),
        ({"attention.layer_norm_rms_epsilon": None}, r"must have the key llama\.attention\.layer_norm_rms_epsilon"),
        ({"vocab_size": 400}, r"must have 400 rows, as llama\.vocab_size says, got 384"),
    ],
)
def test_a_setting_that_is_not_covered_is_refused_by_name(gguf_of, settings, reason):
    path, _ = gguf_of(settings=settings)
    with pytest.raises(SourceError, match=reason):
        read_gguf(path)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"general.architecture": "gemma3"}, "must be one of llama, qwen2, qwen3, got 'gemma3'"),
        ({"general.type": "adapter"}, "got 'adapter'; merge the adapter"),
        ({"general.type": "mmproj"}, "got 'mmproj'; this is the image part"),
        ({"general.quantization_version": 1}, "quantization_version must be 2, got 1"),
    ],
)
def test_another_kind_of_file_is_refused_by_what_it_is(gguf_of, more, reason):
    path, _ = gguf_of(more=more)
    with pytest.raises(SourceError, match=reason):
        read_gguf(path)


def test_heads_of_qwen2_must_fill_the_width(gguf_of):
    shapes = {
        f"blk.{block}.attn_{part}.weight": np.zeros(shape, np.float32)
        for block in range(2)
        for part, shape in (("q", (128, 64)), ("k", (64, 64)), ("v", (64, 64)), ("output", (64, 128)))
    }
    settings = {"attention.key_length": 32, "attention.value_length": 32, "rope.dimension_count": 32}
    path, _ = gguf_of("qwen2", settings=settings, tensors=shapes)
    with pytest.raises(SourceError, match="head count times key length"):
        read_gguf(path)
