"""A GGUF file comes to the model that was written into it: weights bit for bit, and settings that mean the same."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from dovetail_ort_export.source.gguf_checkpoint import read_gguf
from dovetail_ort_runtime.errors import SourceError

TYPES = gguf.GGMLQuantizationType
MODELS = (
    ("llama", {}),
    ("llama", {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True}),
    ("llama", {"head_dim": 32, "num_key_value_heads": 4}),
    ("llama", {"num_key_value_heads": 1}),
    ("qwen2", {}),
    ("qwen2", {"tie_word_embeddings": False}),
    ("qwen3", {"head_dim": 32}),
    ("qwen3", {"head_dim": 32, "attention_bias": True}),
)


@pytest.fixture
def loaded(torch):
    """`loaded(checkpoint)`: transformers' model of the checkpoint's own settings, with the checkpoint's own weights."""
    import transformers

    def make(checkpoint):
        config = transformers.AutoConfig.for_model(**checkpoint.config)
        model = transformers.AutoModelForCausalLM.from_config(config)
        state = {name: tensor.read() for name, tensor in checkpoint.tensors.items()}
        if config.tie_word_embeddings:
            state["lm_head.weight"] = state["model.embed_tokens.weight"]
        model.load_state_dict(state, strict=True)
        return model.eval()

    return make


@pytest.mark.parametrize(("architecture", "settings"), MODELS)
def test_every_weight_of_a_model_comes_back_exactly(gguf_of, torch, architecture, settings):
    path, model = gguf_of(architecture, **settings)
    checkpoint = read_gguf(path)
    state = model.state_dict()
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    assert checkpoint.tensors.keys() == state.keys()
    for name, tensor in checkpoint.tensors.items():
        assert tensor.shape == tuple(state[name].shape)
        assert torch.equal(tensor.read(), state[name]), name


@pytest.mark.parametrize(("architecture", "settings"), MODELS)
def test_the_settings_of_a_file_give_the_logits_of_its_model(gguf_of, loaded, torch, architecture, settings):
    path, model = gguf_of(architecture, rope_theta=5e4, rms_norm_eps=1e-3, **settings)
    ids = torch.arange(3, 67)[None]
    with torch.no_grad():
        assert torch.equal(loaded(read_gguf(path))(ids).logits, model(ids).logits)


def test_a_tensor_is_read_when_it_is_asked_for_and_is_new_each_time(gguf_of, torch):
    path, _ = gguf_of()
    tensor = read_gguf(path).tensors["model.norm.weight"]
    first = tensor.read()
    kept = first.clone()
    first.zero_()
    assert torch.equal(tensor.read(), kept)


@pytest.mark.parametrize(
    "kind",
    [TYPES.F16, TYPES.BF16, TYPES.Q4_0, TYPES.Q4_1, TYPES.Q5_0, TYPES.Q5_1, TYPES.Q8_0],
    ids=lambda kind: kind.name,
)
def test_quantised_rows_come_back_in_the_order_of_transformers(
    tiny_model, metadata_of, tensors_of, write_gguf, tmp_path, kind
):
    model = tiny_model("llama")
    tensors = tensors_of(model, "llama")
    kinds = {name: kind for name, array in tensors.items() if array.ndim == 2}
    path = write_gguf(tmp_path / "tiny.gguf", metadata_of(model, "llama", {}), tensors, kinds)
    for name, tensor in read_gguf(path).tensors.items():
        values = model.state_dict()[name].numpy()
        # A row is quantised by itself, so quantising before or after rows change places is the same.
        expected = gguf.dequantize(gguf.quantize(values, kind), kind) if values.ndim == 2 else values
        np.testing.assert_array_equal(tensor.read().numpy(), expected)


@pytest.mark.parametrize(
    "kind", [TYPES.Q2_K, TYPES.Q3_K, TYPES.Q4_K, TYPES.Q5_K, TYPES.Q6_K, TYPES.IQ4_XS], ids=lambda kind: kind.name
)
def test_blocks_of_256_weights_are_dequantised(tiny_model, metadata_of, tensors_of, write_gguf, tmp_path, kind):
    model = tiny_model("llama", intermediate_size=256)
    tensors = tensors_of(model, "llama")
    _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    name = "blk.1.ffn_down.weight"
    blocks = np.random.default_rng(5).integers(0, 0x3C, (model.config.hidden_size, block_bytes), dtype=np.uint8)
    path = write_gguf(tmp_path / "tiny.gguf", metadata_of(model, "llama", {}), {**tensors, name: blocks}, {name: kind})
    read = read_gguf(path).tensors["model.layers.1.mlp.down_proj.weight"].read().numpy()
    np.testing.assert_array_equal(read, gguf.dequantize(blocks, kind))
    assert read.std() > 0


def test_a_type_that_the_package_cannot_convert_is_refused_with_the_tensor(gguf_of, monkeypatch):
    path, _ = gguf_of()

    def unknown(data, kind):
        raise NotImplementedError(kind)

    monkeypatch.setattr(gguf, "dequantize", unknown)
    with pytest.raises(SourceError, match=r"token_embd\.weight must be of a type.* F32"):
        read_gguf(path)


def test_a_shape_that_the_metadata_contradicts_is_refused_with_both(gguf_of):
    path, _ = gguf_of("qwen3", settings={"attention.key_length": None, "attention.value_length": None}, head_dim=32)
    with pytest.raises(SourceError, match=r"rope\.dimension_count must be the size of a key, 16, got 32"):
        read_gguf(path)
    path, _ = gguf_of("qwen3", settings={"attention.head_count_kv": 4}, head_dim=32)
    with pytest.raises(SourceError, match=r"shape of blk\.0\.attn_k\.weight must be \(128, 64\),.* got \(64, 64\)"):
        read_gguf(path)


def test_a_vocabulary_larger_than_the_embedding_is_refused(gguf_of, tiny_vocabulary):
    tokens = [*tiny_vocabulary["tokenizer.ggml.tokens"], *(f"<extra {number}>" for number in range(200))]
    more = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": [1] * len(tokens)}
    path, _ = gguf_of(more=more)
    with pytest.raises(SourceError, match=f"a row for each of {len(tokens)} tokens, got 384"):
        read_gguf(path)


def test_a_tensor_of_unknown_meaning_keeps_its_name(gguf_of):
    path, _ = gguf_of(tensors={"blk.0.attn_sinks.weight": np.zeros(4, np.float32)})
    assert "blk.0.attn_sinks.weight" in read_gguf(path).tensors


def test_frequencies_that_old_converters_stored_are_left_out(gguf_of):
    path, _ = gguf_of(tensors={"blk.0.attn_rot_embd.weight": np.zeros(8, np.float32)})
    assert len(read_gguf(path).tensors) == 20


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"general.name": "mistral"}, "mistral"),
        ({"general.name": "  Llama 3.2 1B "}, "Llama 3.2 1B"),
        ({"general.name": ""}, "tiny"),
        ({"general.name": "", "general.basename": "Qwen2.5", "general.size_label": "0.5B"}, "Qwen2.5-0.5B"),
        ({"general.name": "", "general.basename": "smol", "general.finetune": "Instruct"}, "smol-Instruct"),
        ({"general.name": "0123456789abcdef0123456789ABCDEF01234567"}, "tiny"),
    ],
)
def test_the_name_is_the_publishers_or_the_files(gguf_of, names, expected):
    path, _ = gguf_of(more=names)
    assert read_gguf(path).name == expected


def test_the_licence_is_stated_or_none(gguf_of):
    path, _ = gguf_of(more={"general.license": "apache-2.0"})
    assert read_gguf(path).licence == "apache-2.0"
    path, _ = gguf_of()
    assert read_gguf(path).licence is None
