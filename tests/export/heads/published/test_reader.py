"""Heads as publishers write them, read back, against the published formulas in float64."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail_ort_runtime.errors import SourceError

T, STEPS = 20, 5
DIALECTS = (
    "safeailab",
    "specforge",
    "angelslim",
    "speculators",
    "speculators-3.1",
    "model-optimizer",
    "deepspec",
    "truncated",
    "eagle",
)


@pytest.fixture
def read(torch):
    from dovetail_ort_export.heads.published import read_published_head

    return read_published_head


@pytest.fixture(scope="module")
def target():
    """Embedding and head (V, E) of a target."""
    random = np.random.default_rng(9)
    return random.standard_normal((384, 64), dtype=np.float32), random.standard_normal((384, 64), dtype=np.float32) / 8


@pytest.fixture
def drafted(torch, target):
    """`drafted(published, reading, levels, token_ids)`: fed-back states and logits of a chain, by the torch network."""
    from dovetail_ort_export.heads.unrolling import unroll

    def run(published, reading, levels, token_ids):
        network = published.network(reading)
        fusion = published.level_fusion()
        embedding, lm_head = published.embedding, published.lm_head
        if embedding is None:
            embedding = torch.from_numpy(target[0])
        if lm_head is None:
            lm_head = torch.from_numpy(target[1][published.draft_token_ids])
        features = torch.from_numpy(levels)
        with torch.no_grad():
            features = features if fusion is None else fusion(features)
            padding = torch.zeros(STEPS - 1, features.shape[1])
            features = torch.cat([features, padding])[None]
            embeddings = embedding.float()[torch.from_numpy(token_ids)][None]
            steps = list(unroll(network, features, embeddings, published.rotary(512), STEPS))
            states = torch.stack([step[0, T - 1 + index] for index, step in enumerate(steps)])
            logits = network.scored(states) @ lm_head.float().T
        return states.numpy(), logits.numpy()

    return run


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_head_of_each_dialect_drafts_what_the_published_formulas_give(
    published_heads, read, drafted, target, tmp_path, dialect
):
    head = published_heads.dialect_head(dialect)
    published = read(published_heads.write_dialect(head, dialect, tmp_path))
    random = np.random.default_rng(4)
    width = 64 if head.form == "eagle" else 64 * len(head.levels)
    levels = random.standard_normal((T, width), dtype=np.float32) * 3
    token_ids = random.integers(0, 384, T + STEPS - 1)
    oracle = published_heads.Oracle(head, *target)
    features = levels if head.form == "eagle" else oracle.features(levels)
    expected_states, expected_logits = oracle.chain(features, token_ids, STEPS)
    states, logits = drafted(published, published.readings(8)[0], levels, token_ids)
    # Of float32 against float64, over one or two blocks and five steps.
    np.testing.assert_allclose(states, expected_states, atol=1e-4)
    np.testing.assert_allclose(logits, expected_logits, atol=1e-4)
    np.testing.assert_array_equal(published.draft_token_ids, head.draft_token_ids)


def test_a_head_with_every_bias_drafts_what_the_published_formulas_give(
    published_heads, read, drafted, target, tmp_path
):
    head = published_heads.dialect_head("specforge", bias=True, every_bias=True, num_layers=2, qk_norm=True)
    published = read(published_heads.write_dialect(head, "specforge", tmp_path))
    random = np.random.default_rng(5)
    levels = random.standard_normal((T, 192), dtype=np.float32)
    token_ids = random.integers(0, 384, T + STEPS - 1)
    oracle = published_heads.Oracle(head, *target)
    expected_states, expected_logits = oracle.chain(oracle.features(levels), token_ids, STEPS)
    states, logits = drafted(published, published.readings(8)[0], levels, token_ids)
    np.testing.assert_allclose(states, expected_states, atol=1e-4)
    np.testing.assert_allclose(logits, expected_logits, atol=1e-4)


@pytest.mark.parametrize("files", ["safetensors", "sharded", "bin"])
def test_tensors_are_read_from_every_kind_of_file(published_heads, read, tmp_path, files):
    head = published_heads.dialect_head("safeailab")
    published = read(published_heads.write_dialect(head, "safeailab", tmp_path, files=files))
    for name in head.tensors.keys() - {"d2t", "t2d"}:
        np.testing.assert_array_equal(published.tensors[name], head.tensors[name])


def test_a_pytorch_file_with_code_is_refused_and_the_code_not_run(published_heads, read, tmp_path):
    path = published_heads.write_dialect(published_heads.dialect_head("safeailab"), "safeailab", tmp_path, files="bin")
    trace = tmp_path / "the code ran"

    class Code:
        def __reduce__(self):
            return trace.touch, ()

    import torch

    torch.save({"fc.weight": Code()}, path / "pytorch_model.bin")
    with pytest.raises(SourceError, match="tensors alone"):
        read(path)
    assert not trace.exists()


def test_a_head_without_offsets_that_drafts_the_whole_vocabulary_takes_the_targets_rows(
    published_heads, read, tmp_path
):
    head = published_heads.dialect_head("model-optimizer", own_lm_head=False)
    published = read(published_heads.write_dialect(head, "model-optimizer", tmp_path))
    assert published.lm_head is None
    assert published.embedding is None
    np.testing.assert_array_equal(published.draft_token_ids, np.arange(384))


def test_a_head_of_tied_ends_without_lm_head_scores_with_its_own_embedding(published_heads, read, tmp_path):
    head = published_heads.dialect_head("deepspec", own_lm_head=False)
    published = read(published_heads.write_dialect(head, "deepspec", tmp_path, tie_word_embeddings=True))
    np.testing.assert_array_equal(published.lm_head, head.tensors["embed_tokens.weight"])


def test_an_eagle_1_head_scores_with_its_targets_head_whatever_its_configuration_says_of_ties(
    published_heads, read, tmp_path
):
    published = read(
        published_heads.write_dialect(
            published_heads.dialect_head("eagle"), "eagle", tmp_path, tie_word_embeddings=True
        )
    )
    assert published.embedding is not None
    assert published.lm_head is None


def test_a_head_of_another_width_needs_both_ends(published_heads, read, tmp_path):
    head = published_heads.dialect_head("model-optimizer", size=32, own_embedding=True, own_lm_head=False)
    with pytest.raises(SourceError, match=r"missing \(lm_head.weight\)"):
        read(published_heads.write_dialect(head, "model-optimizer", tmp_path / "one"))
    tied = read(published_heads.write_dialect(head, "model-optimizer", tmp_path / "tied", tie_word_embeddings=True))
    np.testing.assert_array_equal(tied.lm_head, head.tensors["embed_tokens.weight"])


@pytest.mark.parametrize("dialect", ["specforge", "eagle"])
def test_a_head_that_states_another_number_of_blocks_is_refused(published_heads, read, tmp_path, tiny_bundle, dialect):
    from dovetail_ort_runtime.bundle.bundle import Bundle

    head = published_heads.dialect_head(dialect)
    published = read(published_heads.write_dialect(head, dialect, tmp_path, num_target_layers=32))
    with pytest.raises(SourceError, match="32 blocks"):
        published.check_target(Bundle(tiny_bundle).manifest.target)


def test_name_revision_and_licence_come_from_the_hubs_cache(published_heads, read, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--me--head" / "snapshots" / commit
    published_heads.write_dialect(published_heads.dialect_head("specforge"), "specforge", snapshot)
    (snapshot / "README.md").write_text("---\nlicense: mit\n---\n")
    origin = read(snapshot).origin
    assert (origin.name, origin.revision, origin.licence, origin.form) == ("me/head", commit, "mit", "eagle3")


def test_a_head_is_refused_by_a_target_that_it_is_not_of(published_heads, read, tmp_path, tiny_bundle):
    from dataclasses import replace

    from dovetail_ort_runtime.bundle.bundle import Bundle

    target = Bundle(tiny_bundle).manifest.target  # 2 blocks, E = 64, V = 384
    head = published_heads.dialect_head("specforge")
    published = read(published_heads.write_dialect(head, "specforge", tmp_path))
    published.check_target(target)
    with pytest.raises(SourceError, match="hidden size"):
        published.check_target(replace(target, hidden_size=32))
    with pytest.raises(SourceError, match="vocabulary"):
        published.check_target(replace(target, vocabulary_size=385))
    with pytest.raises(SourceError, match="layers"):
        published.check_target(replace(target, num_layers=1))


# What a configuration may say, the dialect that it is put into, and what the refusal names.
WRONG_SETTINGS = {
    "an unknown key": ("specforge", {"attention_sinks": 4}, "attention_sinks"),
    "a unknown architecture": ("specforge", {"architectures": ["SomethingElse"]}, "SomethingElse"),
    "a vision head": ("angelslim", {"architectures": ["Eagle3Qwen2_5vlForCausalLM"]}, "sees"),
    "a vision target": ("angelslim", {"modal_type": "VLM"}, "modal_type|sees"),
    "a vision part": ("safeailab", {"vision_config": {"depth": 2}}, "vision_config"),
    "experts": ("safeailab", {"num_experts": 8}, "experts"),
    "latent attention": ("model-optimizer", {"kv_lora_rank": 512}, "latent"),
    "a block drafter": ("deepspec", {"dflash_config": {"mask_token_id": 5}}, "blocks"),
    "partial rotation": ("safeailab", {"partial_rotary_factor": 0.25}, "partial_rotary_factor"),
    "an unknown rotation": ("safeailab", {"rope_scaling": {"rope_type": "spiral", "factor": 2.0}}, "spiral"),
    "a sliding window": ("safeailab", {"sliding_window": 128}, "window"),
    "another activation": ("safeailab", {"hidden_act": "gelu"}, "hidden_act"),
    "other layers": ("safeailab", {"model_type": "gpt_oss"}, "model_type"),
    "no sizes": ("safeailab", {"hidden_size": None}, "hidden_size"),
    "a whole model": ("safeailab", {"num_hidden_layers": 32}, "num_hidden_layers"),
    "no final norm": ("model-optimizer", {"norm_output": False}, "norm_output"),
    "no levels": ("specforge", {"use_aux_hidden_state": False}, "use_aux_hidden_state"),
    "both norms": ("speculators", {"fc_norm": True}, "norm_before_fc"),
    "another algorithm": ("speculators", {"speculators_config": {"algorithm": "dflash"}}, "algorithm"),
    "two biases": ("angelslim", {"attention_bias": False, "qkv_bias": True}, "qkv_bias"),
    "a quantised head": ("safeailab", {"quantization_config": {"quant_method": "fp8"}}, "quantised"),
    "two draft vocabularies": ("truncated", {"draft_vocab_size": 64}, "draft_vocab_size"),
    "an odd head size": ("safeailab", {"head_dim": 24}, "head size"),
    "a size without end": ("safeailab", {"hidden_size": 10**400}, "hidden_size"),
    "a size that no tensor has": ("safeailab", {"intermediate_size": 10**18}, "intermediate_size"),
    "a rotation that is no word": ("safeailab", {"rope_scaling": {"rope_type": ["yarn"]}}, "rope_type"),
    "a kind of layers that is no word": ("specforge", {"layer_types": [{}]}, "layer_types"),
    "layers of a head that reads hidden states": ("eagle", {"target_layer_ids": [2, 4, 6]}, "hidden states"),
    "a layer as a word": ("specforge", {"eagle_config": {"eagle_aux_hidden_state_layer_ids": ["a"]}}, "layer_ids"),
}


@pytest.mark.parametrize("case", WRONG_SETTINGS)
def test_a_setting_that_is_not_understood_is_refused_by_name(published_heads, read, tmp_path, case):
    dialect, keys, named = WRONG_SETTINGS[case]
    path = published_heads.write_dialect(published_heads.dialect_head(dialect), dialect, tmp_path, **keys)
    with pytest.raises(SourceError, match=named) as refusal:
        read(path)
    assert "\n" not in str(refusal.value)


def dropped(name):
    return lambda tensors: tensors.pop(name)


def changed(name, change):
    def apply(tensors):
        tensors[name] = change(tensors[name].copy())

    return apply


def with_entry(place, value):
    def change(array):
        array[place] = value
        return array

    return change


# What is done to the tensors of a head of SpecForge's dialect, and what the refusal names.
WRONG_TENSORS = {
    "one is missing": (dropped("midlayer.mlp.up_proj.weight"), r"missing \(layers.0.mlp.up_proj.weight\)"),
    "no final norm": (dropped("norm.weight"), "norm.weight"),
    "no fusion": (dropped("fc.weight"), "fc.weight"),
    "no offsets": (dropped("d2t"), "d2t"),
    "no lm_head": (dropped("lm_head.weight"), "lm_head.weight"),
    "one too many": (lambda tensors: tensors.update({"adapter.weight": np.ones(3, np.float32)}), "adapter.weight"),
    "a second layer": (
        lambda tensors: tensors.update({"layers.1.hidden_norm.weight": np.ones(64, np.float32)}),
        "layers.1.hidden_norm.weight",
    ),
    "a bias alone": (
        lambda tensors: tensors.update({"midlayer.self_attn.q_proj.bias": np.ones(64, np.float32)}),
        "k_proj.bias",
    ),
    "another shape": (
        changed("midlayer.self_attn.o_proj.weight", lambda array: array[:-1]),
        "o_proj.weight of 63 x 64",
    ),
    "one that is not finite": (changed("norm.weight", with_entry(3, np.nan)), "norm.weight"),
    "whole numbers": (changed("norm.weight", lambda array: array.astype(np.int32)), "int32"),
    "offsets in floats": (changed("d2t", lambda array: array.astype(np.float32)), "d2t"),
    "an offset too large": (changed("d2t", with_entry(-1, 384)), "d2t"),
    "an offset too small": (changed("d2t", with_entry(0, -1)), "d2t"),
    "two offsets to one token": (
        changed("d2t", lambda array: with_entry(1, array[0] - 1)(array)),
        "different",
    ),
}


@pytest.mark.parametrize("case", WRONG_TENSORS)
def test_a_tensor_that_is_not_understood_is_refused_by_name(published_heads, read, tmp_path, case):
    change, named = WRONG_TENSORS[case]
    head = published_heads.dialect_head("specforge")
    path = published_heads.write_dialect(head, "specforge", tmp_path)
    from safetensors.numpy import load_file

    tensors = load_file(path / "model.safetensors")
    change(tensors)
    published_heads.write_tensors(tensors, path)
    with pytest.raises(SourceError, match=named) as refusal:
        read(path)
    assert "\n" not in str(refusal.value)


def test_a_head_that_needs_an_adapted_target_is_refused(published_heads, read, tmp_path):
    path = published_heads.write_dialect(published_heads.dialect_head("model-optimizer"), "model-optimizer", tmp_path)
    (path / "adapter_config.json").write_text("{}")
    with pytest.raises(SourceError, match="adapter"):
        read(path)


def test_a_directory_that_is_no_head_is_refused(read, tmp_path, tiny_llama):
    with pytest.raises(SourceError, match=r"config\.json"):
        read(tmp_path)
    with pytest.raises(SourceError, match=r"fc\.weight"):
        read(tiny_llama)
