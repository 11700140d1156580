"""A checkpoint becomes the model that transformers makes of a whole one; anything less is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from dovetail_ort_export.source import SourceOptions, load_source
from dovetail_ort_runtime.errors import SourceError

HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def rewritten(tiny_source):
    """`rewritten(change, family, **settings)`: a source whose tensors `change` has changed in place."""

    def make(change, family="llama", **settings):
        source = tiny_source(family, **settings)
        tensors = load_file(source / "model.safetensors")
        change(tensors)
        save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
        return source

    return make


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_model_has_the_parameters_that_transformers_loads(family, tied, dtype, tiny_source, torch):
    import transformers

    source = tiny_source(family, dtype=getattr(torch, dtype), tie_word_embeddings=tied, sliding_window=None)
    ours = load_source(str(source)).model
    theirs = transformers.AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    expected = theirs.state_dict()
    found = ours.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name])
    assert (ours.lm_head.weight is ours.model.embed_tokens.weight) == tied
    assert not ours.training


def test_weights_are_mapped_not_copied(tiny_source):
    """The memory of the parameters is that of the file, so that an export holds a checkpoint once."""
    from pathlib import Path

    source = tiny_source("llama")
    model = load_source(str(source)).model
    maps = Path("/proc/self/maps").read_text().splitlines()
    spans = [line.split()[0].split("-") for line in maps if line.endswith(str(source / "model.safetensors"))]
    address = model.model.layers[0].mlp.up_proj.weight.data_ptr()
    assert any(int(start, 16) <= address < int(end, 16) for start, end in spans)


def test_tensors_of_several_types_take_the_widest(rewritten, torch):
    def narrow_one(tensors):
        name = "model.layers.0.mlp.up_proj.weight"
        tensors[name] = tensors[name].to(torch.bfloat16)

    model = load_source(str(rewritten(narrow_one))).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_stored_head_that_is_the_embedding_is_not_needed(rewritten):
    def repeat(tensors):
        tensors[HEAD] = tensors[EMBEDDING].clone()

    source = load_source(str(rewritten(repeat)))
    assert source.model.lm_head.weight is source.model.model.embed_tokens.weight
    assert source.notes == ("lm_head.weight not used: the embedding, which is the head",)


def test_a_stored_head_that_is_another_tensor_is_refused_where_it_should_be_the_embedding(rewritten, torch):
    def differ(tensors):
        tensors[HEAD] = tensors[EMBEDDING] + 1

    source = rewritten(differ)
    with pytest.raises(
        SourceError, match=r"lm_head\.weight must equal the embedding where tie_word_embeddings is true"
    ):
        load_source(str(source))
    loaded = load_source(str(source), SourceOptions(ignore_weights=(HEAD,)))
    assert torch.equal(loaded.model.lm_head.weight, load_file(source / "model.safetensors")[EMBEDDING])


def test_weights_that_have_no_place_are_refused_unless_they_are_named(rewritten, torch):
    def add(tensors):
        tensors["vision_tower.patch.weight"] = torch.zeros(4, 4)

    source = rewritten(add)
    with pytest.raises(SourceError, match=r"1 unexpected \(vision_tower\.patch\.weight\)"):
        load_source(str(source))
    loaded = load_source(str(source), SourceOptions(ignore_weights=("vision_tower.*",)))
    assert loaded.ignored_weights == ("vision_tower.patch.weight",)


def test_rotary_buffers_of_older_checkpoints_are_not_needed(rewritten, torch):
    def add(tensors):
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)

    (note,) = load_source(str(rewritten(add))).notes
    assert note.startswith("model.layers.0.self_attn.rotary_emb.inv_freq not used: rotary frequencies")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(rewritten, value):
    def damage(tensors):
        tensors["model.layers.1.self_attn.k_proj.weight"][0, 0] = value

    with pytest.raises(
        SourceError, match=r"model\.layers\.1\.self_attn\.k_proj\.weight has values that are not finite"
    ):
        load_source(str(rewritten(damage)))


def test_unknown_settings_go_into_the_manifest_when_they_are_ignored(tiny_source, tmp_path):
    from dovetail_ort_export import ExportOptions, export_bundle

    source = tiny_source("llama")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "flavour": "vanilla"}))
    with pytest.raises(SourceError, match="got flavour = 'vanilla' in the configuration"):
        export_bundle(str(source), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
    options = ExportOptions(precision="fp32", ignore_settings=("flavour",))
    assert export_bundle(str(source), tmp_path / "bundle", options).manifest.provenance.ignored_settings == ("flavour",)


def test_the_table_of_longrope_is_recorded(tiny_source, tmp_path):
    from dovetail_ort_export import ExportOptions, export_bundle

    factors = list(np.linspace(1, 2, 8))
    scaling = {"rope_type": "longrope", "short_factor": factors, "long_factor": factors[::-1]}
    source = tiny_source("llama", rope_scaling=scaling, original_max_position_embeddings=64)
    found = []
    for max_context in (64, 65):
        options = ExportOptions(precision="fp32", max_context=max_context, force=True)
        found.append(export_bundle(str(source), tmp_path / "bundle", options).manifest.provenance.rotary_table)
    assert found == ["short", "long"]


def test_a_head_that_should_be_the_embedding_and_is_ignored_is_recorded(rewritten):
    def with_head(tensors):
        tensors[HEAD] = tensors[EMBEDDING] + 1

    source = load_source(str(rewritten(with_head)), SourceOptions(ignore_weights=("lm_head.*",)))
    assert source.ignored_weights == (HEAD,)


def test_a_head_alone_is_the_embedding_too_where_both_are_one(rewritten, torch):
    """Of one tensor with two names safetensors' `save_model` writes the first name."""

    def under_the_heads_name(tensors):
        tensors[HEAD] = tensors.pop(EMBEDDING)

    source = rewritten(under_the_heads_name)
    model = load_source(str(source)).model
    assert torch.equal(model.model.embed_tokens.weight, load_file(source / "model.safetensors")[HEAD])
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_settings_that_transformers_refuses_are_an_error_of_one_line(tiny_source, monkeypatch):
    import transformers

    def refuse(*_, **__):
        raise ValueError("a first line\nand a second")

    source = tiny_source("llama")
    monkeypatch.setattr(transformers.AutoConfig, "for_model", refuse)
    with pytest.raises(SourceError, match=r"these settings: a first line and a second; correct config\.json"):
        load_source(str(source))


@pytest.mark.parametrize("name", ["self_attn.q_proj.bias", "self_attn.q_proj.scales"])
def test_a_weight_too_many_in_a_block_of_the_model_is_no_block_too_many(name, rewritten, torch):
    def with_more(tensors):
        tensors[f"model.layers.0.{name}"] = torch.zeros(64)

    with pytest.raises(SourceError) as caught:
        load_source(str(rewritten(with_more)))
    assert "num_hidden_layers" not in str(caught.value)
    assert ("attention_bias" in str(caught.value)) == name.endswith("bias")


def test_biases_that_settings_ask_for_and_no_file_has_are_no_missing_blocks(rewritten):
    source = rewritten(lambda tensors: None)
    config = source / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "attention_bias": True}))
    with pytest.raises(SourceError, match="correct model_type, or attention_bias"):
        load_source(str(source))
