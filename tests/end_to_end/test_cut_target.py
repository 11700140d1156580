"""A target in two graphs, as for a GPU and a CPU: here both on the CPU, where every number can be compared."""

from __future__ import annotations

import json

import numpy as np
import pytest

import dovetail_ort
from dovetail_ort.cli.main import main
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.engine.target import Target
from dovetail_ort_runtime.errors import BundleError, InputError, UnavailableError
from dovetail_ort_runtime.options import GenerationOptions, SamplingOptions

TOKENS = np.random.default_rng(0).integers(3, 384, 60)


@pytest.fixture(scope="module")
def export(tiny_source, tmp_path_factory):
    """`export(layers, gpu_layers, ...)`: a bundle of a model of so many blocks, and of always the same weights."""
    from dovetail_ort_export.exporter import export_bundle
    from dovetail_ort_export.options import ExportOptions

    made = {}

    def run(gpu_layers, **options):
        key = (gpu_layers, *options.items())
        if key not in made:
            source = tiny_source("llama", num_hidden_layers=4)
            out = tmp_path_factory.mktemp("cut") / "bundle"
            export_bundle(str(source), out, ExportOptions(gpu_layers=gpu_layers, **options))
            made[key] = out
        return made[key]

    return run


def opened(directory):
    bundle = Bundle(directory)
    entry = bundle.manifest.target
    return Target(bundle.path(entry.graph), entry, threads=1)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_cut_at_any_block_gives_the_logits_of_the_whole(export, number):
    """As far as the front's half precision carries."""
    whole = opened(export(0, precision="fp32")).read(TOKENS, rows=7)
    cut = opened(export(number, precision="fp32")).read(TOKENS, rows=7)
    assert 0 < np.linalg.norm(cut.logits - whole.logits) < 0.01 * np.linalg.norm(whole.logits)
    assert np.linalg.norm(cut.hidden_states - whole.hidden_states) < 0.01 * np.linalg.norm(whole.hidden_states)


@pytest.mark.parametrize("number", [1, 3])
def test_in_one_number_format_the_cut_changes_nothing_but_the_order_of_sums(tiny_model, tmp_path, number):
    import onnxruntime

    from dovetail_ort_export.passes.context import PassContext
    from dovetail_ort_export.pipeline import apply_recipe
    from dovetail_ort_export.recipe import built_in_recipe
    from dovetail_ort_export.source.weights import Weights
    from dovetail_ort_export.tracing.target import trace_target
    from dovetail_ort_export.writing.graph_file import save_graph

    model = tiny_model("llama", num_hidden_layers=4)
    weights = Weights(model, max_context=64)
    contexts = {
        "whole": PassContext(weights=weights),
        "front": PassContext(weights=weights, end_block=number),
        "rest": PassContext(weights=weights, first_block=number),
    }
    graphs = {
        name: apply_recipe(trace_target(model), built_in_recipe("fp32"), context) for name, context in contexts.items()
    }
    sessions = {}
    for name, graph in graphs.items():
        save_graph(graph, tmp_path / f"{name}.onnx")
        sessions[name] = onnxruntime.InferenceSession(tmp_path / f"{name}.onnx")

    def run(name, **given):
        session = sessions[name]
        inputs = {
            item.name: np.zeros([1, *item.shape[1:2], 16, *item.shape[3:]], np.float32)
            for item in session.get_inputs()
            if item.name.startswith("past")
        }
        inputs |= {
            "input_ids": TOKENS[None, :9], "position_ids": np.arange(9)[None],
            "attention_bias": np.zeros((1, 1, 9, 9), np.float32),
            "seqlens_k": np.array([8], np.int32), "total_sequence_length": np.array(9, np.int32), **given,
        }  # fmt: skip
        if name != "front":
            inputs["scored_rows"] = np.arange(9)
        return dict(zip([output.name for output in session.get_outputs()], session.run(None, inputs), strict=True))

    states = run("front")["block_states"]
    np.testing.assert_allclose(run("rest", block_states=states)["logits"], run("whole")["logits"], atol=2e-5)


def test_a_cut_portable_target_decodes_exactly_and_close_to_the_whole(export):
    directory = export(2, format="portable")
    manifest = Bundle(directory).manifest
    assert manifest.target.exact
    assert manifest.measurements.row_invariance.identical
    assert manifest.measurements.agreement.mean_kl < 0.01
    model = dovetail_ort.load(directory, threads=1)
    prompt = TOKENS[:20].tolist() * 2
    answers = [
        model.generate(
            prompt, GenerationOptions(max_new_tokens=60, sampling=SamplingOptions(), max_draft_tokens=number)
        ).token_ids
        for number in (0, 8)
    ]
    assert answers[0] == answers[1]
    front, rest = model.sessions()
    assert (front.name, front.device, rest.name) == ("target, first blocks", "cpu", "target")
    assert front.cache_bytes * 2 == rest.cache_bytes


def test_without_a_gpu_a_cut_native_target_is_the_whole_one(export):
    cut, whole = (export(number, format="native") for number in (2, 0))
    found, expected = (opened(path).read(TOKENS, rows=7) for path in (cut, whole))
    np.testing.assert_array_equal(found.logits, expected.logits)
    np.testing.assert_array_equal(found.hidden_states, expected.hidden_states)
    model = dovetail_ort.load(cut, threads=1)
    assert model.exact
    assert [session.name for session in model.sessions()] == ["target"]


@pytest.mark.parametrize("options", [{"precision": "fp32"}, {"format": "native"}], ids=["portable", "native"])
def test_a_tree_changes_no_answer_of_a_cut_target(export, with_drafter, options):
    model = dovetail_ort.load(
        with_drafter(export(2, **options)),
        threads=1,
        draft_shape=dovetail_ort.TreeShape(num_rows=9, num_expansions=3, width=4),
    )
    answers = [
        model.generate(
            TOKENS[:9].tolist(),
            GenerationOptions(max_new_tokens=40, sampling=SamplingOptions(), max_draft_tokens=number),
        ).token_ids
        for number in (0, 8)
    ]
    assert answers[0] == answers[1]


def test_a_head_of_the_whole_target_fits_a_cut_one(export):
    from dovetail_ort_export.writing.target_ends import read_target_ends

    whole, cut = (read_target_ends(Bundle(export(number, precision="fp32"))) for number in (0, 2))
    np.testing.assert_array_equal(whole.head, cut.head)
    np.testing.assert_allclose(whole.embedding, cut.embedding, rtol=1e-3)
    hashes = {Bundle(export(number, precision="fp32")).manifest.target.weights_sha256 for number in (0, 2)}
    assert len(hashes) == 1


def test_only_the_cut_that_was_exported_goes_to_the_gpu(export, tiny_bundle):
    with pytest.raises(InputError, match="must be auto, 0 or the 2 that this bundle was cut for, got 3"):
        dovetail_ort.load(export(2, precision="fp32"), target_layers_on_gpu=3)
    with pytest.raises(InputError, match="must be auto, 0 or the 0 that this bundle was cut for, got 1"):
        dovetail_ort.load(tiny_bundle, target_layers_on_gpu=1)
    with pytest.raises(UnavailableError, match="onnxruntime-gpu"):
        dovetail_ort.load(export(2, precision="fp32"), target_layers_on_gpu=2)
    assert dovetail_ort.load(export(2, precision="fp32"), target_layers_on_gpu=0).sessions()[0].device == "cpu"


def test_a_limit_that_does_not_hold_the_first_blocks_is_refused(export):
    with pytest.raises(InputError, match=r"vram_limit must hold .* bytes of weights and .* of cache, got 1000;"):
        dovetail_ort.load(export(2, precision="fp32"), vram_limit=1000)


def test_as_many_blocks_are_cut_off_as_a_limit_holds(export):
    """The cut that is chosen loads with that limit, and the next one does not."""

    def taken(directory):
        front = dovetail_ort.load(directory, threads=1).sessions()[0]
        return front.weight_bytes + front.cache_bytes

    sizes = [taken(export(number, precision="fp32")) for number in (1, 2, 3)]
    entry = Bundle(export(1, precision="fp32")).manifest.target
    activations = 2 * entry.max_rows * (4 * entry.hidden_size + 3 * entry.intermediate_size)
    scores = 4 * entry.max_rows * entry.num_heads * entry.max_context
    reserved = activations + scores + 2**20  # for nodes and names, less than a block of them
    for number, limit in [(1, sizes[0] + reserved), (2, sizes[1] + reserved), (3, 10 * sizes[2])]:
        bundle = export("auto", precision="fp32", vram_limit=limit)
        assert Bundle(bundle).manifest.target.front_layers == number
        dovetail_ort.load(bundle, threads=1, vram_limit=limit)


def test_a_limit_that_holds_no_block_is_refused(tiny_llama, tmp_path, capsys):
    command = ["export", str(tiny_llama), str(tmp_path / "bundle"), "--gpu-layers", "auto"]
    assert main([*command, "--vram-limit", "1MB"]) == 2
    assert "of embedding and activations and" in capsys.readouterr().err
    assert main(command) == 2
    assert "gpu_layers auto needs vram_limit" in capsys.readouterr().err
    assert main([*command[:-1], "1", "--vram-limit", "6GB"]) == 2
    assert "vram_limit is for gpu_layers auto, got gpu_layers 1" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_manifest_that_counts_other_blocks_is_refused(export, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(export(2, precision="fp32"), copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    messages = {
        3: "model_front_fp16.onnx has num_layers 2, but the manifest says 3;",
        4: "front_layers must be between 1 and 3, got 4",
    }
    for number, message in messages.items():
        manifest["target"]["front_layers"] = number
        (copy / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(BundleError, match=message):
            dovetail_ort.load(copy)


def test_training_wants_a_target_in_one_piece(export, tmp_path, capsys):
    assert main(["train", str(export(2, precision="fp32")), str(tmp_path / "head")]) == 2
    assert "which no head can be trained for; export it without --gpu-layers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "message"), [("-1", "gpu_layers must be 0 or more"), ("2", "must be below the model's 2")]
)
def test_a_cut_outside_the_model_is_refused(tiny_llama, tmp_path, capsys, number, message):
    assert main(["export", str(tiny_llama), str(tmp_path / "bundle"), "--gpu-layers", number]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
