"""Each switch of each family, changed alone: the witness must not agree with what transformers says of the original."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file, save_file

from dovetail_ort_export.checking.witness import testify as witness
from dovetail_ort_runtime.errors import SourceError

# Export takes a difference over 1e-4 of the logits' spread for a fault; every switch must exceed it tenfold.
SEEN = 1e-3

ORIGINALS = {
    "llama": {"attention_bias": True, "mlp_bias": True, "rms_norm_eps": 1e-5},
    "mistral": {"sliding_window": 12},
    "qwen2": {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1},
    "qwen3": {
        "attention_bias": True,
        "head_dim": 32,
        "use_sliding_window": True,
        "sliding_window": 12,
        "max_window_layers": 1,
    },
}
OF_ALL = {
    "norm epsilon": {"rms_norm_eps": 1e-2},
    "one block less": {"num_hidden_layers": 1},
    "heads half as large": {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": None},
    "rotary base": {"rope_theta": 500000.0},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
}
OF_ONE = {
    "llama": {
        "biases of the attention dropped": {"attention_bias": False},
        "biases of the MLP dropped": {"mlp_bias": False},
    },
    "mistral": {"no window": {"sliding_window": None}, "another window": {"sliding_window": 16}},
    "qwen2": {
        "windows off": {"use_sliding_window": False},
        "another window": {"sliding_window": 16},
        "windows in all blocks": {"max_window_layers": 0},
        "windows in the other block": {"layer_types": ["sliding_attention", "full_attention"]},
    },
    "qwen3": {
        "biases of the attention dropped": {"attention_bias": False},
        "windows off": {"use_sliding_window": False},
        "another window": {"sliding_window": 16},
        "windows in all blocks": {"max_window_layers": 0},
        "windows in the other block": {"layer_types": ["sliding_attention", "full_attention"]},
    },
}
SWITCHES = [
    (family, name, changes)
    for family in ORIGINALS
    for name, changes in (OF_ALL | OF_ONE[family]).items()
    if (family, name) != ("qwen3", "heads half as large")  # the norms of its heads no longer fit: a test of its own
]

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 2.0, "beta_slow": 0.5}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONGROPE = {
    "rope_type": "longrope",
    "factor": 4.0,
    "original_max_position_embeddings": 128,
    "short_factor": [1.0] * 8,
    "long_factor": [1.0 + 2.0 * pair for pair in range(8)],
}
ROTARY_OPTIONS = [
    (LLAMA3, "factor", 4.0),
    (LLAMA3, "low_freq_factor", 2.0),
    (LLAMA3, "high_freq_factor", 8.0),
    (LLAMA3, "original_max_position_embeddings", 128),
    (LLAMA3, "rope_type", "default"),
    (YARN, "factor", 2.0),
    (YARN, "original_max_position_embeddings", 512),
    (YARN, "attention_factor", 1.0),
    (YARN, "beta_fast", 8.0),
    (YARN, "beta_slow", 2.0),
    (YARN, "mscale_all_dim", 0.5),
    (YARN, "truncate", False),
    (YARN, "rope_type", "linear"),
    (LONGROPE, "attention_factor", 1.0),
    (LONGROPE, "factor", 16.0),
    (LONGROPE, "long_factor", [1.0] * 8),
    (LONGROPE, "original_max_position_embeddings", 512),
    (LONGROPE, "rope_type", "default"),
]


@pytest.mark.parametrize(
    ("family", "name", "changes"), SWITCHES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_switch_of_the_configuration_is_seen(
    family, name, changes, tiny_source, reference, text, distance, edit_config
):
    expected = reference(family, text.near, **ORIGINALS[family])
    source = tiny_source(family, **ORIGINALS[family])
    edit_config(source, drop=("rope_parameters", "layer_types"), rope_theta=10000.0)
    assert distance(witness(source, text.token_ids, text.near, max_context=512).logits, expected) < SEEN / 100
    edit_config(source, **changes)
    assert distance(witness(source, text.token_ids, text.near, max_context=512).logits, expected) > SEEN


@pytest.mark.parametrize(("scaling", "option", "value"), ROTARY_OPTIONS)
def test_an_option_of_the_rotary_settings_is_seen(scaling, option, value, tiny_source, text, distance, edit_config):
    original = scaling | ({"mscale": 1.5, "mscale_all_dim": 1.0} if option == "mscale_all_dim" else {})
    source = tiny_source("llama")
    found = []
    for settings in (original, {**original, option: value}):
        edit_config(source, drop=("rope_parameters",), rope_theta=10000.0, rope_scaling=settings)
        found.append(witness(source, text.token_ids, text.far, max_context=512).logits)
    assert distance(found[1], found[0]) > SEEN


def test_an_own_head_in_place_of_the_embedding_is_seen(tiny_source, reference, text, distance, edit_config):
    source = tiny_source("llama", tie_word_embeddings=False)
    edit_config(source, tie_word_embeddings=True)
    expected = reference("llama", text.far, tie_word_embeddings=False)
    assert distance(witness(source, text.token_ids, text.far, max_context=512).logits, expected) > SEEN


def test_another_size_of_heads_with_norms_is_refused(tiny_source, text, edit_config):
    source = tiny_source("qwen3", head_dim=32)
    edit_config(source, num_attention_heads=8, num_key_value_heads=4, head_dim=16)
    with pytest.raises(SourceError, match=r"shape of model.layers.0.self_attn.q_norm.weight must be \(16,\)"):
        witness(source, text.token_ids, text.far, max_context=512)


def test_another_activation_is_refused(tiny_source, text, edit_config):
    source = tiny_source("qwen3")
    edit_config(source, hidden_act="gelu_pytorch_tanh")
    with pytest.raises(SourceError, match="hidden_act must be silu"):
        witness(source, text.token_ids, text.far, max_context=512)


@pytest.mark.parametrize("family", ORIGINALS)
def test_weights_as_a_loader_makes_them_up_are_seen(family, tiny_source, reference, text, distance, torch):
    expected = reference(family, text.near, **ORIGINALS[family])
    source = tiny_source(family, **ORIGINALS[family])
    stored = load_file(source / "model.safetensors")
    names = [name for name in stored if "layers.1." in name or "layers." not in name]
    assert len(names) > 10
    for name in names:
        if "norm" in name:
            made_up = torch.ones_like(stored[name])
        elif name.endswith("bias"):
            made_up = torch.zeros_like(stored[name])
        else:
            made_up = torch.randn(stored[name].shape, generator=torch.Generator().manual_seed(1)) * 0.2
        save_file(stored | {name: made_up}, source / "model.safetensors", metadata={"format": "pt"})
        assert distance(witness(source, text.token_ids, text.near, max_context=512).logits, expected) > SEEN, name
