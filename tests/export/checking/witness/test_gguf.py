"""GGUF files as llama.cpp's converters write them, against transformers on the original model."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from dovetail_ort_export.checking.witness import testify as witness
from dovetail_ort_runtime.errors import SourceError

BOUND = 1e-5  # as in test_families.py
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
LONGROPE = {
    "rope_type": "longrope",
    "factor": 4.0,
    "short_factor": [1.0] * 8,
    "long_factor": [1.0 + 2.0 * pair for pair in range(8)],
}
AS_LINEAR = {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}
AS_YARN = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 128}


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": False, "head_dim": 32}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("mistral", {"sliding_window": None, "rope_theta": 1000000.0}),
        ("qwen2", {}),
        ("qwen2", {"tie_word_embeddings": False, "rope_theta": 1000000.0}),
        ("qwen3", {"head_dim": 32}),
        ("qwen3", {"head_dim": 128, "tie_word_embeddings": False}),
    ],
)
def test_a_file_has_the_logits_of_its_model(family, settings, gguf_file, reference, text, distance):
    found = witness(gguf_file(family, **settings), text.token_ids, text.far, max_context=512)
    assert distance(found.logits, reference(family, text.far, **settings)) < BOUND


@pytest.mark.parametrize(
    ("family", "scaling", "metadata"),
    [
        ("llama", LINEAR, AS_LINEAR),
        ("llama", LINEAR, {"rope.scaling.factor": 4.0}),
        ("llama", LINEAR, {"rope.scale_linear": 4.0}),
        ("qwen2", LINEAR, AS_LINEAR),
        ("llama", YARN, AS_YARN),
        ("qwen2", YARN, AS_YARN),
        ("qwen3", YARN, AS_YARN),
        ("llama", YARN | {"original_max_position_embeddings": 512},
         AS_YARN | {"rope.scaling.original_context_length": None}),
        ("llama", YARN | {"beta_fast": 8.0, "beta_slow": 0.25},
         AS_YARN | {"rope.scaling.yarn_beta_fast": 8.0, "rope.scaling.yarn_beta_slow": 0.25}),
        ("llama", YARN | {"mscale": 1.0, "mscale_all_dim": 0.5}, AS_YARN | {"rope.scaling.yarn_log_multiplier": 0.5}),
        ("llama", {"rope_type": "default"}, AS_LINEAR | {"rope.scaling.type": "none"}),
    ],
)  # fmt: skip
def test_rotary_scaling_in_the_metadata_is_read(family, scaling, metadata, gguf_file, reference, text, distance):
    found = witness(gguf_file(family, metadata=metadata, head_dim=16), text.token_ids, text.far, max_context=512)
    assert distance(found.logits, reference(family, text.far, rope_scaling=scaling, head_dim=16)) < BOUND


def test_the_factors_of_llama_3_are_read(gguf_file, reference, text, distance, tiny_model):
    settings = {"rope_theta": 500000.0, "rope_scaling": LLAMA3}
    plain = 1.0 / 500000.0 ** (np.arange(0, 16, 2) / 16)
    factors = plain / tiny_model("llama", **settings).model.rotary_emb.inv_freq.numpy()  # as converters make them
    file = gguf_file("llama", rope_theta=500000.0, tensors={"rope_freqs.weight": factors})
    found = witness(file, text.token_ids, text.far, max_context=512)
    assert distance(found.logits, reference("llama", text.far, **settings)) < BOUND


@pytest.mark.parametrize("max_context", [128, 512])
def test_the_factors_of_longrope_are_read(max_context, gguf_file, reference, text, distance):
    settings = {"rope_scaling": LONGROPE, "original_max_position_embeddings": 128}
    file = gguf_file(
        "llama",
        metadata={
            "rope.scaling.type": "longrope",
            "rope.scaling.original_context_length": 128,
            "rope.scaling.attn_factor": float(np.sqrt(1 + np.log(4) / np.log(128))),
        },
        tensors={
            "rope_factors_long.weight": np.array(LONGROPE["long_factor"]),
            "rope_factors_short.weight": np.array(LONGROPE["short_factor"]),
        },
    )
    positions = text.near if max_context == 128 else text.far
    found = witness(file, text.token_ids, positions, max_context=max_context)
    assert distance(found.logits, reference("llama", positions, **settings)) < BOUND


def test_partial_rotation_turns_the_first_numbers_of_a_head(gguf_file, reference, text, distance, tiny_model, torch):
    # In transformers' Llama, pairs that LongRoPE slows down for ever stand still, and factors give the other pairs the
    # frequencies of a rotation over 8 of 16 numbers. Pairs of neighbours are the same in both.
    slowed = [10000.0 ** (-pair / 8 + pair / 4) for pair in range(4)] + [1e30] * 4
    scaling = LONGROPE | {"short_factor": slowed, "long_factor": slowed, "attention_factor": 1.0}
    settings = {"rope_scaling": scaling, "original_max_position_embeddings": 128}
    file = gguf_file("llama", metadata={"rope.dimension_count": 8})
    found = witness(file, text.token_ids, text.far, max_context=512)
    assert distance(found.logits, reference("llama", text.far, **settings)) < BOUND


def test_a_file_in_parts_is_one_model(gguf_file, reference, text, distance):
    file = gguf_file("qwen2", parts=3)
    expected = reference("qwen2", text.far)
    assert distance(witness(file, text.token_ids, text.far, max_context=512).logits, expected) < BOUND
    file.with_name("m-00002-of-00003.gguf").unlink()
    with pytest.raises(SourceError, match=r"m-00002-of-00003\.gguf cannot be read as a GGUF file"):
        witness(file, text.token_ids, text.far, max_context=512)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0"])
def test_stored_numbers_are_read_as_the_package_reads_them(kind, gguf_file, text, distance):
    quantised = gguf.GGMLQuantizationType[kind]
    file = gguf_file("llama", quantised=quantised)
    found = witness(file, text.token_ids, text.far, max_context=512).logits
    same = {}
    for tensor in gguf.GGUFReader(file).tensors:
        same[tensor.name] = np.array(gguf.dequantize(tensor.data, tensor.tensor_type))
    whole = witness(gguf_file("llama", tensors=same), text.token_ids, text.far, max_context=512).logits
    np.testing.assert_array_equal(found, whole)


@pytest.mark.parametrize(
    ("family", "metadata", "message"),
    [
        ("gemma3", {}, "general.architecture must be one of llama, qwen2, qwen3, got 'gemma3'"),
        ("llama", {"rope.scaling.type": "dynamic"}, "rope.scaling.type must be .*, got 'dynamic'"),
        ("llama", {"rope.scaling.type": "longrope"}, "lacks the tensor rope_factors_short.weight"),
        ("llama", AS_YARN | {"rope.scaling.yarn_ext_factor": 0.5}, "yarn_ext_factor must be 1, got 0.5"),
        ("llama", {"attention.sliding_window": 64}, "max_context must be at most the sliding window of 64 tokens"),
        ("llama", {"attention.value_length": 32}, "attention.value_length must be the key length 16, got 32"),
        ("llama", {"attention.head_count": None}, "attention.head_count must be a whole number over zero, got None"),
        (
            "llama",
            {"attention.layer_norm_rms_epsilon": None},
            "attention.layer_norm_rms_epsilon must be a number over zero",
        ),
    ],
)
def test_metadata_that_the_witness_does_not_understand_are_refused(family, metadata, message, gguf_file, text):
    file = gguf_file("llama", architecture=family, metadata=metadata)
    with pytest.raises(SourceError, match=message) as caught:
        witness(file, text.token_ids, text.far, max_context=512)
    assert "\n" not in str(caught.value)


def test_a_bias_of_one_block_alone_is_refused(gguf_file, text):
    file = gguf_file("llama", tensors={"blk.1.attn_output.bias": np.zeros(64)})
    with pytest.raises(SourceError, match=r"lack the tensor model.layers.0.self_attn.o_proj.bias"):
        witness(file, text.token_ids, text.far, max_context=512)


def test_a_damaged_file_is_refused(tmp_path, text):
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(SourceError, match="cannot be read as a GGUF file"):
        witness(tmp_path / "m.gguf", text.token_ids, text.far, max_context=512)
