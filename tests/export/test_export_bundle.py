"""An export from end to end: files, manifest, measurements, and what is refused before anything is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dovetail_ort_export import ExportOptions, export_bundle, exporter
from dovetail_ort_export.checking import agreement
from dovetail_ort_runtime.bundle.bundle import Bundle, sha256
from dovetail_ort_runtime.bundle.manifest import GenerationEntry
from dovetail_ort_runtime.bundle.measurements import RowInvariance
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.errors import BundleError, InputError, SourceError

RECIPES = Path(__file__).parents[2] / "benchmarks" / "recipes"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "models" / "bundle"


@pytest.fixture
def old_bundle(tiny_bundle, out):
    """A bundle at the output path that an export would replace."""
    shutil.copytree(tiny_bundle, out)
    (out / "note.txt").write_text("mine")
    return contents(out)


def contents(directory):
    """Bytes of every file below a directory, by name."""
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def siblings(out):
    return [path.name for path in out.parent.iterdir()]


def test_the_report_is_what_the_bundle_says(tiny_llama, out):
    report = export_bundle(str(tiny_llama), out)
    assert report.directory == out
    assert report.manifest == Bundle(out).manifest
    assert report.num_bytes == sum(path.stat().st_size for path in out.iterdir() if path.name != "manifest.json")
    assert report.peak_memory_bytes > 50e6  # torch alone takes more


def test_the_manifest_holds_the_measurements_taken_before_the_bundle_was_declared_good(tiny_bundle):
    measurements = Bundle(tiny_bundle).manifest.measurements
    assert measurements.row_invariance.identical
    assert measurements.row_invariance.largest_difference == 0
    assert set(measurements.row_invariance.rows) >= {2, 3, 5, 8}
    assert measurements.row_invariance.num_tokens >= 100
    assert measurements.agreement.num_tokens >= 500
    assert 0.8 < measurements.agreement.top1 < 1  # 8 bits change some near ties of a random model
    assert 0 < measurements.agreement.mean_kl < 0.02


def test_an_fp32_bundle_agrees_with_the_model_everywhere(tiny_bundle_fp32):
    manifest = Bundle(tiny_bundle_fp32).manifest
    assert manifest.target.precision == "fp32"
    assert manifest.target.exact
    assert manifest.measurements.agreement.top1 == 1
    # Logits differ by 1e-5 at most; KL is of the order of the square.
    assert abs(manifest.measurements.agreement.mean_kl) < 1e-8


def test_the_manifest_holds_the_models_dimensions(tiny_bundle, tiny_llama):
    target = Bundle(tiny_bundle).manifest.target
    assert (target.family, target.precision, target.exact) == ("llama", "int8", True)
    assert (target.num_layers, target.num_heads, target.num_kv_heads, target.head_size) == (2, 4, 2, 16)
    assert (target.hidden_size, target.vocabulary_size, target.max_context, target.max_rows) == (64, 384, 512, 64)
    from transformers import AutoModelForCausalLM

    assert target.num_parameters == AutoModelForCausalLM.from_pretrained(tiny_llama).num_parameters()


def test_the_manifest_lists_every_file_with_size_and_checksum(tiny_bundle):
    manifest = Bundle(tiny_bundle).manifest
    listed = {entry.path: (entry.num_bytes, entry.sha256) for entry in manifest.files}
    found = {
        path.relative_to(tiny_bundle).as_posix(): (path.stat().st_size, sha256(path))
        for path in tiny_bundle.rglob("*")
        if path.name != "manifest.json"
    }
    assert listed == found
    assert set(listed) == {
        "model_native.onnx",
        "model_native.onnx_data",
        "tokenizer.json",
        "chat_template.jinja",
    }


def test_tokenizer_template_and_generation_settings_are_the_sources(tiny_bundle, tiny_llama):
    from transformers import AutoTokenizer

    original = AutoTokenizer.from_pretrained(tiny_llama)
    bundle = Bundle(tiny_bundle)
    from dovetail_ort_runtime.text.tokenizer import Tokenizer

    text = "A dovetail joint <|im_end|> for 3 €"
    assert Tokenizer(bundle.path("tokenizer.json")).encode(text, add_special_tokens=True) == original(text)["input_ids"]
    assert bundle.text("chat_template.jinja") == original.chat_template
    assert bundle.manifest.tokenizer.special_tokens == {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
    assert bundle.manifest.generation.eos_token_ids == (2,)
    assert bundle.manifest.generation.sampling().is_greedy


def test_sampling_settings_of_the_source_become_the_bundles(tiny_source, out):
    source = tiny_source("llama")
    settings = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": [2, 0]}
    (source / "generation_config.json").write_text(json.dumps({**settings, "repetition_penalty": 1.1}))
    generation = export_bundle(str(source), out).manifest.generation
    assert (generation.temperature, generation.top_k, generation.top_p) == (0.6, 20, 0.95)
    assert (generation.eos_token_ids, generation.repetition_penalty) == ((2, 0), 1.1)


def test_sampling_settings_that_the_source_leaves_null_are_off(tiny_source, out):
    source = tiny_source("llama")
    settings = {"do_sample": True, "eos_token_id": 2}
    settings |= dict.fromkeys(("temperature", "top_k", "top_p", "min_p", "repetition_penalty"))
    (source / "generation_config.json").write_text(json.dumps(settings))
    generation = export_bundle(str(source), out).manifest.generation
    assert generation == GenerationEntry(eos_token_ids=(2,), temperature=1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"do_sample": True, "temperature": "0.7"},
            "temperature of generation_config.json must be a number",
        ),
        ({"do_sample": True, "top_p": [0.9]}, r"top_p of generation_config.json must be a number, got \[0.9\]"),
        ({"do_sample": True, "top_p": 1.5}, "generation_config.json .* top_p must be above 0 and at most 1, got 1.5"),
        ({"repetition_penalty": "x"}, "repetition_penalty of generation_config.json must be a number, got 'x'"),
    ],
)
def test_sampling_settings_that_are_no_numbers_are_refused_before_anything_is_traced(
    settings, message, tiny_source, out
):
    source, steps = tiny_source("llama"), []
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, **settings}))
    with pytest.raises(SourceError, match=message):
        export_bundle(str(source), out, report=steps.append)
    assert [step.split()[0] for step in steps] == ["loading"]
    assert not out.exists()


def test_a_top_k_of_minus_one_is_none(tiny_source, out):
    source = tiny_source("llama")
    settings = {"do_sample": True, "top_k": -1, "eos_token_id": 2}
    (source / "generation_config.json").write_text(json.dumps(settings))
    assert export_bundle(str(source), out).manifest.generation.top_k == 0


def test_the_steps_are_reported_in_order(tiny_llama, out):
    steps = []
    export_bundle(str(tiny_llama), out, report=steps.append)
    assert [step.split()[0:2] for step in steps] == [
        ["loading", str(tiny_llama)],
        ["computing", "the"],
        ["recomputing", "a"],
        ["writing", "model_native.onnx"],
        ["checking", "what"],
    ]


def test_a_4_bit_mlp_is_labelled_and_no_less_exact(tiny_bundle_portable, tiny_llama, out):
    report = export_bundle(str(tiny_llama), out, ExportOptions(recipes=(RECIPES / "mlp-4-bit.toml",)))
    target = report.manifest.target
    assert (target.graph, target.precision, target.format) == ("model_q4.onnx", "int4", "portable")
    assert target.passes[-1] == "lower-int8-blocks(mlp_bits=4)"
    assert target.exact
    eight_bits = Bundle(tiny_bundle_portable).manifest.measurements.agreement
    assert report.manifest.measurements.agreement.mean_kl > eight_bits.mean_kl


def test_a_bundle_is_not_replaced_unasked(tiny_llama, out, old_bundle):
    with pytest.raises(InputError, match=r"there is a bundle at .* already; pass --force to replace it"):
        export_bundle(str(tiny_llama), out)
    assert contents(out) == old_bundle


def test_a_bundle_is_replaced_as_a_whole_when_asked(tiny_llama, out, old_bundle):
    export_bundle(str(tiny_llama), out, ExportOptions(force=True, precision="fp32"))
    assert Bundle(out).manifest.target.precision == "fp32"
    assert not {path.name for path in out.iterdir()} & {"note.txt", "model_native.onnx"}
    assert siblings(out) == ["bundle"]


@pytest.mark.parametrize("force", [False, True])
def test_what_is_not_a_bundle_is_never_replaced(tiny_llama, out, force):
    out.mkdir(parents=True)
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="the output must be a new directory or a bundle"):
        export_bundle(str(tiny_llama), out, ExportOptions(force=force))
    assert contents(out) == {Path("thesis.txt"): b"years of work"}


@pytest.mark.parametrize("force", [False, True])
def test_a_file_is_never_replaced(tiny_llama, out, force):
    out.parent.mkdir()
    out.write_text("a file")
    with pytest.raises(InputError, match="the output must be a new directory or a bundle"):
        export_bundle(str(tiny_llama), out, ExportOptions(force=force))
    assert out.read_text() == "a file"


def test_an_empty_directory_is_as_good_as_none(tiny_llama, out):
    out.mkdir(parents=True)
    export_bundle(str(tiny_llama), out)
    assert Bundle(out).manifest.target.exact


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("step", ["witnessed_rows", "write_text_files", "measure_target", "write_manifest"])
def test_an_export_that_ends_early_leaves_nothing(tiny_llama, out, monkeypatch, step, error):
    monkeypatch.setattr(exporter, step, raising(error))
    with pytest.raises(error):
        export_bundle(str(tiny_llama), out)
    assert siblings(out) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("step", ["witnessed_rows", "write_text_files", "measure_target", "write_manifest"])
def test_an_export_that_ends_early_leaves_the_old_bundle(tiny_llama, out, old_bundle, monkeypatch, step, error):
    monkeypatch.setattr(exporter, step, raising(error))
    with pytest.raises(error):
        export_bundle(str(tiny_llama), out, ExportOptions(force=True))
    assert siblings(out) == ["bundle"]
    assert contents(out) == old_bundle


def raising(error):
    def fail(*arguments, **settings):
        raise error("injected")

    return fail


def test_an_interruption_while_the_bundles_change_places_leaves_the_old_one(tiny_llama, out, old_bundle, monkeypatch):
    rename = Path.rename

    def interrupted(path, target):
        if path.name == "new":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_bundle(str(tiny_llama), out, ExportOptions(force=True))
    assert siblings(out) == ["bundle"]
    assert contents(out) == old_bundle


def test_a_bundle_that_is_not_row_invariant_is_written_as_inexact(tiny_llama, out, monkeypatch):
    found = RowInvariance(rows=(2, 3), num_tokens=100, identical=False, largest_difference=0.5)
    monkeypatch.setattr(agreement, "measure_row_invariance", lambda target, tokens, rows: found)
    manifest = export_bundle(str(tiny_llama), out).manifest
    assert not manifest.target.exact
    assert manifest.measurements.row_invariance == found
    assert Bundle(out).manifest == manifest


def test_row_invariance_is_measured_not_assumed(tiny_bundle):
    from dovetail_ort_runtime.engine.row_invariance import ROWS_AT_EXPORT, measure_row_invariance

    class Drifting(Target):
        """A target whose logits depend on how many rows it reads."""

        def forward(self, rows, **settings):
            result = super().forward(rows, **settings)
            result.logits[:] += 0.25 * (len(rows.token_ids) == 5)
            return result

    bundle = Bundle(tiny_bundle)
    graph = bundle.path("model_native.onnx")
    tokens = np.arange(100)
    steady = Target(graph, bundle.manifest.target, threads=1)
    assert measure_row_invariance(steady, tokens, ROWS_AT_EXPORT).identical
    drifted = measure_row_invariance(Drifting(graph, bundle.manifest.target, threads=1), tokens, ROWS_AT_EXPORT)
    assert not drifted.identical
    assert drifted.largest_difference == pytest.approx(0.25, rel=1e-5)  # float32 logits of order 10


def test_agreement_is_that_of_the_two_distributions(tiny_bundle):
    from dovetail_ort_export.checking.agreement import measure_target

    bundle = Bundle(tiny_bundle)
    target = Target(bundle.path("model_native.onnx"), bundle.manifest.target, threads=1)
    tokens = np.arange(100)
    own = target.read(tokens, rows=8).logits
    same = measure_target(target, tokens, own).agreement
    assert (same.num_tokens, same.top1, same.mean_kl) == (100, 1.0, pytest.approx(0, abs=1e-12))
    other = own.copy()
    other[:25] = 0  # uniform: its first token is id 0
    changed = measure_target(target, tokens, other).agreement
    assert changed.top1 == pytest.approx(0.75 + 0.01 * (own[:25].argmax(axis=1) == 0).sum())
    probabilities = np.exp(own[:25].astype(np.float64))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    # KL(uniform || q) = -log V - mean log q, for a quarter of the tokens.
    expected = 0.25 * (-np.log(384) - np.log(probabilities).mean(axis=1)).mean()
    assert changed.mean_kl == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("max_context", [2, 3, 64, 512])
def test_the_context_is_the_one_asked_for(tiny_llama, out, max_context):
    manifest = export_bundle(str(tiny_llama), out, ExportOptions(max_context=max_context)).manifest
    assert manifest.target.max_context == max_context


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_context": 1}, "max_context must be 2 or more, got 1"),
        ({"max_context": -3}, "max_context must be 2 or more, got -3"),
        ({"precision": "int2"}, "precision must be one of int8, int4, fp32, got 'int2'"),
        ({"precision": "int4", "format": "both"}, "format must be native with the precision int4, got 'both'"),
        ({"format": "row"}, "format must be one of auto, native, portable, both, got 'row'"),
        ({"kv_cache": "int8"}, "kv_cache must be one of fp16, fp32, got 'int8'"),
        ({"precision": "fp32", "format": "both"}, "format must be portable with the precision fp32, got 'both'"),
        (
            {"recipes": (RECIPES / "native-fp32-cache.toml",), "format": "native", "kv_cache": "fp32"},
            "a recipe says precision, format and kv_cache itself; leave out format, kv_cache",
        ),
    ],
)
def test_options_out_of_bounds_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        ExportOptions(**settings)


def test_another_models_tokenizer_is_refused(tiny_source, out):
    source = tiny_source("llama", vocab_size=64)
    with pytest.raises(SourceError, match=r"ids must be below the model's vocabulary of 64, got \d+ for "):
        export_bundle(str(source), out)
    assert not out.exists()


def test_a_context_beyond_the_models_is_refused(tiny_llama, out):
    with pytest.raises(InputError, match="max_context must be at most the model's 512, got 513"):
        export_bundle(str(tiny_llama), out, ExportOptions(max_context=513))
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the check text must have 2 tokens or more, got 0; give a longer file"),
        (b"a", "the check text must have 2 tokens or more, got 1; give a longer file"),
        (b"\xff\xfe\xfa", "the check text is no readable UTF-8 file"),
        (None, "the check text is no readable UTF-8 file"),
    ],
)
def test_a_check_text_that_says_nothing_is_refused(tiny_llama, out, tmp_path, content, message):
    text = tmp_path / "text.txt"
    if content is not None:
        text.write_bytes(content)
    with pytest.raises(InputError, match=message):
        export_bundle(str(tiny_llama), out, ExportOptions(check_text=text))
    assert not out.exists()


def test_a_check_text_of_ones_own_is_the_one_measured(tiny_llama, out, tmp_path):
    (tmp_path / "text.txt").write_text("A dovetail joint has tails and pins.")
    manifest = export_bundle(str(tiny_llama), out, ExportOptions(check_text=tmp_path / "text.txt")).manifest
    assert 2 <= manifest.measurements.agreement.num_tokens < 36


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.gguf", "a GGUF source must be a file, got .*missing.gguf', which is not there"),
        ("empty", "a source directory must hold a model, got .* which is empty"),
        ("broken", r"config.json is not JSON: .*; download it again"),
    ],
)
def test_a_source_that_is_no_model_is_refused(tmp_path, out, source, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    with pytest.raises(SourceError, match=message):
        export_bundle(str(tmp_path / source), out)
    assert not out.exists()


@pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer.json"])
def test_a_source_without_one_of_its_files_is_refused(tiny_source, out, missing):
    source = tiny_source("llama")
    (source / missing).unlink()
    with pytest.raises(SourceError):
        export_bundle(str(source), out)
    assert not out.exists()


def test_a_truncated_checkpoint_is_refused(tiny_source, out):
    source = tiny_source("llama")
    with (source / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(SourceError, match=r"model\.safetensors must be a whole safetensors file, got 1000 bytes"):
        export_bundle(str(source), out)


def test_a_damaged_gguf_file_is_refused(tmp_path, out):
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(SourceError, match=r"the GGUF version must be 2 or 3, got 0 in model\.gguf"):
        export_bundle(str(tmp_path / "model.gguf"), out)


def test_an_int8_width_that_blocks_do_not_divide_is_refused_with_the_way_out(tiny_source, out):
    source = tiny_source("llama", intermediate_size=48)
    with pytest.raises(SourceError, match=r"must be a multiple of 32 for INT8, got 48; export with --precision fp32"):
        export_bundle(str(source), out, ExportOptions(format="portable"))
    assert siblings(out) == []
    export_bundle(str(source), out, ExportOptions(precision="fp32"))


def test_the_manifest_says_where_the_bundle_comes_from(tiny_bundle, tiny_llama):
    import onnxruntime
    import torch

    provenance = Bundle(tiny_bundle).manifest.provenance
    assert provenance.source == tiny_llama.name
    assert provenance.packages["torch"] == torch.__version__
    assert provenance.packages["onnxruntime"] == onnxruntime.__version__
    assert "cores" in provenance.machine


def test_a_damaged_bundle_is_still_a_bundle_to_replace(tiny_llama, tiny_bundle, out):
    shutil.copytree(tiny_bundle, out)
    (out / "tokenizer.json").unlink()
    with pytest.raises(BundleError):
        Bundle(out)
    export_bundle(str(tiny_llama), out, ExportOptions(force=True))
    Bundle(out).verify_checksums()
