"""Heads that others have trained, from the publisher's directory to the answers of a bundle."""

from __future__ import annotations

import json
import shutil

import pytest

from dovetail_ort_runtime import ChainShape, GenerationOptions, load_model
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.errors import InputError, SourceError, UnavailableError

QUESTION = [{"role": "user", "content": "Explain how a bicycle stays upright."}]


@pytest.fixture
def bundle(deep_bundle, tmp_path):
    """A copy of the bundle of six blocks."""
    return shutil.copytree(deep_bundle, tmp_path / "bundle")


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def attach(bundle, head, *settings, **options):
    """Lines that attaching reports."""
    from dovetail_ort_export.attach import attach_drafter

    lines = []
    attach_drafter(bundle, head, *settings, report=lines.append, **options)
    return lines


@pytest.mark.parametrize(("dialect", "settings"), [("safeailab", {}), ("speculators", {"norm_before_residual": True})])
@pytest.mark.parametrize("precision", ["int8", "auto", "fp32"])
def test_a_published_head_drafts_what_the_target_writes(bundle, fitted_head, published, dialect, settings, precision):
    attach(bundle, published(fitted_head(**settings), dialect), precision)
    model = load_model(bundle, drafter="dgf", threads=1, draft_shape=ChainShape.fixed(2))
    baseline = model.generate(QUESTION, GenerationOptions(max_new_tokens=64, max_draft_tokens=0))
    drafted = model.generate(QUESTION, GenerationOptions(max_new_tokens=64, max_draft_tokens=2))
    assert drafted.token_ids == baseline.token_ids
    statistics = drafted.statistics
    assert statistics.accepted_tokens > 0.4 * statistics.drafted_tokens


@pytest.mark.parametrize("source", ["tiny_bundle", "tiny_bundle_portable", "tiny_bundle_fp32", "tiny_bundle_both"])
def test_a_head_is_attached_to_a_target_in_every_format(request, tmp_path, random_head, published, source):
    bundle = shutil.copytree(request.getfixturevalue(source), tmp_path / "bundle")
    attach(bundle, published(random_head, "safeailab"), force=True)
    model = load_model(bundle, drafter="dgf", threads=1, draft_shape=ChainShape.fixed(2))
    baseline = model.generate(QUESTION, GenerationOptions(max_new_tokens=24, max_draft_tokens=0))
    drafted = model.generate(QUESTION, GenerationOptions(max_new_tokens=24, max_draft_tokens=2))
    assert drafted.token_ids == baseline.token_ids
    assert drafted.statistics.drafted_tokens > 0


@pytest.mark.parametrize("is_after", [False, True])
def test_a_reading_that_the_configuration_makes_unlikely_is_found(bundle, fitted_head, published, is_after):
    head = fitted_head(levels_read=(1, 2, 4), norm_before_residual=is_after)
    # SafeAILab's trainers number a level that begins with 1 by the block before it, and have no norm in the residual.
    directory = published(head, "safeailab", eagle_config={"eagle_aux_hidden_state_layer_ids": [1, 2, 4]})
    lines = attach(bundle, directory)
    assert len([line for line in lines if line.startswith("levels ")]) == 4
    drafter = Bundle(bundle).manifest.drafter
    assert drafter.taps.levels == (1, 2, 4)
    assert drafter.acceptance[0].first > 0.5


def test_the_manifest_says_where_a_head_comes_from_and_what_it_brings(bundle, fitted_head, published):
    directory = published(fitted_head(), "speculators", norm_before_residual=False)
    (directory / "README.md").write_text("---\nlicense: mit\n---\n# A head\n")
    attach(bundle, directory)
    drafter = Bundle(bundle).manifest.drafter
    assert (drafter.origin.name, drafter.origin.form, drafter.origin.licence) == (directory.name, "eagle3", "mit")
    assert drafter.fusion == "eagle3"
    assert drafter.acceptance[0].text == "short prompts"
    assert len(drafter.acceptance[0].by_depth) == 5
    Bundle(bundle, "all")


def test_the_product_of_levels_is_in_float32_where_int8_costs_tokens(bundle, fitted_head, published, monkeypatch):
    from dovetail_ort_export.probing import probe

    head = fitted_head()
    weights = head.fusion.fc.weight
    attach(bundle, published(head, "safeailab"))
    small = (bundle / "model_native_taps.onnx_data").stat().st_size
    monkeypatch.setattr(probe, "_MOST_LOST", -1.0)
    attach(bundle, published(head, "safeailab"))
    large = (bundle / "model_native_taps.onnx_data").stat().st_size
    assert small < 2 * weights.numel() < 4 * weights.numel() <= large
    assert [path.name for path in bundle.glob("*taps*.onnx")] == ["model_native_taps.onnx"]


@pytest.fixture
def eagle_directory(torch, tiny_bundle, tmp_path):
    """A random EAGLE-1 head of the tiny target, as its publisher writes it."""
    from safetensors.torch import save_file

    from dovetail_ort_export.heads.config import HeadConfig
    from dovetail_ort_export.heads.draft_head import DraftHead

    target = Bundle(tiny_bundle).manifest.target
    config = HeadConfig.for_target(target, fusion="concatenation", num_blocks=1, norm_epsilon=1e-5)
    torch.manual_seed(1)
    tensors = DraftHead(config).state_dict()
    parts = [tensors.pop(f"fusion.{name}_proj.weight") for name in ("embedding", "feature")]
    tensors["fc.weight"] = torch.cat(parts, dim=1)
    tensors["fc.bias"] = tensors.pop("fusion.embedding_proj.bias")
    directory = tmp_path / "eagle"
    directory.mkdir()
    save_file(tensors, directory / "model.safetensors")
    settings = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "num_hidden_layers": 1,
        "rms_norm_eps": config.norm_epsilon,
        "max_position_embeddings": 128,
        "hidden_act": "silu",
        "bias": True,
        "vocab_size": target.vocabulary_size,
    }
    (directory / "config.json").write_text(json.dumps(settings))
    return directory


@pytest.mark.parametrize("source", ["tiny_bundle", "tiny_bundle_portable", "tiny_cut_bundle"])
def test_an_eagle_1_head_reads_hidden_states_and_needs_no_taps(request, tmp_path, eagle_directory, source):
    bundle = shutil.copytree(request.getfixturevalue(source), tmp_path / "bundle")
    attach(bundle, eagle_directory, force=True)
    drafter = Bundle(bundle).manifest.drafter
    assert (drafter.taps, drafter.fusion, drafter.origin.form) == (None, "concatenation", "eagle")
    model = load_model(bundle, drafter="dgf", threads=1, draft_shape=ChainShape.fixed(2))
    baseline = model.generate(QUESTION, GenerationOptions(max_new_tokens=24, max_draft_tokens=0))
    drafted = model.generate(QUESTION, GenerationOptions(max_new_tokens=24, max_draft_tokens=2))
    assert drafted.token_ids == baseline.token_ids
    assert drafted.statistics.drafted_tokens > 0


def test_a_head_that_is_hardly_ever_right_is_refused_and_the_bundle_stays(bundle, fitted_head, published):
    head = fitted_head(levels_read=(6, 1, 0))
    directory = published(head, "speculators", norm_before_residual=False, eagle_aux_hidden_state_layer_ids=[2, 3, 5])
    before = contents(bundle)
    with pytest.raises(InputError, match="another target, with another chat template or in another language"):
        attach(bundle, directory)
    assert contents(bundle) == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]
    attach(bundle, directory, force=True)
    assert Bundle(bundle).manifest.drafter.loses


def test_detaching_takes_the_taps_out_and_leaves_the_bundle_as_it_was(bundle, fitted_head, published, tiny_head):
    from dovetail_ort_export.attach import detach_drafter

    before = contents(bundle)
    attach(bundle, published(fitted_head(), "speculators", norm_before_residual=False))
    assert any("taps" in name for name in contents(bundle))
    attach(bundle, tiny_head(bundle), "fp32")
    assert not any("taps" in name for name in contents(bundle))
    attach(bundle, published(fitted_head(), "safeailab"))
    detach_drafter(bundle)
    assert contents(bundle) == before


def test_a_cut_target_takes_no_head_that_reads_levels(tiny_cut_bundle, tmp_path, random_head, published):
    bundle = shutil.copytree(tiny_cut_bundle, tmp_path / "bundle")
    before = contents(bundle)
    with pytest.raises(InputError, match="A target that was cut has no taps yet"):
        attach(bundle, published(random_head, "safeailab"))
    assert contents(bundle) == before


def test_a_head_for_another_vocabulary_is_refused(bundle, fitted_head, published):
    directory = published(fitted_head(), "safeailab", vocab_size=400)
    before = contents(bundle)
    with pytest.raises(SourceError):
        attach(bundle, directory)
    assert contents(bundle) == before


def test_what_is_neither_a_directory_nor_a_name_is_refused(bundle, tmp_path):
    with pytest.raises(InputError, match=r"a draft head must be a directory with a head.json or a config.json"):
        attach(bundle, tmp_path / "nowhere")


def test_a_head_is_fetched_from_the_hub_by_its_name(hub, bundle, fitted_head, published, capsys):
    from dovetail_ort.cli.main import main

    directory = published(fitted_head(), "speculators", norm_before_residual=False)
    files = {path.name: path.read_bytes() for path in directory.iterdir()}
    commit = hub.add("them/head", files | {"README.md": b"---\nlicense: mit\n---\n"})
    assert main(["attach", str(bundle), "them/head"]) == 0
    out = capsys.readouterr().out
    assert f"them/head at {commit[:12]}, form eagle3, licence mit" in out
    assert "short prompts" in out
    origin = Bundle(bundle).manifest.drafter.origin
    assert (origin.name, origin.revision) == ("them/head", commit)


def test_a_hub_that_cannot_be_reached_is_named_and_the_bundle_stays(hub, bundle):
    hub.close()
    before = contents(bundle)
    with pytest.raises(UnavailableError, match="cannot be reached for them/head"):
        attach(bundle, "them/head")
    assert contents(bundle) == before
