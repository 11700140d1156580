"""A drafter put into a bundle: of every family, in every format, and nothing lost on the way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dovetail_ort_runtime import ChainShape, GenerationOptions, kernels, load_model
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.errors import InputError


@pytest.fixture
def attach(tiny_head, tmp_path):
    """`attach(bundle, precision)`: a copy of a bundle with a random head attached."""
    from dovetail_ort_export.attach import attach_drafter

    def run(bundle, precision="int8"):
        copy = tmp_path / "bundle"
        if not copy.exists():
            shutil.copytree(bundle, copy)
        attach_drafter(copy, tiny_head(bundle), precision)
        return copy

    return run


def answers(bundle):
    """The same greedy answer without a drafter and with the bundle's own; how many tokens it drafted."""
    # Of a fixed shape: whether drafting pays is not the question here.
    model = load_model(bundle, drafter="dgf", threads=1, draft_shape=ChainShape.fixed(4))
    drafted = [
        model.generate([5, 9, 13, 21, 34], GenerationOptions(max_new_tokens=40, max_draft_tokens=most))
        for most in (0, 6)
    ]
    return drafted[0].token_ids, drafted[1].token_ids, drafted[1].statistics.drafted_tokens


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {"num_key_value_heads": 4, "tie_word_embeddings": False, "attention_bias": True}),
        ("mistral", {"sliding_window": None}),
        ("qwen2", {}),
        ("qwen3", {"head_dim": 32}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_head_drafts_for_every_family(attach, tiny_source, tmp_path, family, settings):
    from dovetail_ort_export import ExportOptions, export_bundle

    bundle = export_bundle(str(tiny_source(family, **settings)), tmp_path / "exported", ExportOptions()).directory
    attached = attach(bundle)
    assert Bundle(attached).manifest.drafter.format == "native"
    baseline, speculative, num_drafted = answers(attached)
    assert baseline == speculative
    assert num_drafted > 0


@pytest.mark.parametrize("precision", ["int8", "fp16", "fp32"])
@pytest.mark.parametrize("bundle", ["tiny_bundle", "tiny_bundle_portable", "tiny_bundle_fp32"])
def test_a_head_drafts_in_every_format_for_a_target_of_any(attach, request, bundle, precision):
    attached = attach(request.getfixturevalue(bundle), precision)
    baseline, speculative, num_drafted = answers(attached)
    assert baseline == speculative
    assert num_drafted > 0
    Bundle(attached).verify_checksums()


@pytest.mark.parametrize(
    ("bundle", "precision", "available", "expected"),
    [
        ("tiny_bundle", "int8", True, ("drafter_native.onnx", "native", 1)),
        ("tiny_bundle", "int8", False, ("drafter_quantized.onnx", "portable", None)),
        ("tiny_bundle", "auto", True, ("drafter_native.onnx", "native", 1)),
        ("tiny_bundle", "auto", False, ("drafter_quantized.onnx", "portable", None)),
        ("tiny_bundle_portable", "auto", True, ("drafter_quantized.onnx", "portable", None)),
        ("tiny_bundle", "int4", True, ("drafter_native.onnx", "native", 1)),
        ("tiny_bundle", "fp16", True, ("drafter_fp16.onnx", "portable", None)),
        ("tiny_bundle_portable", "int8", True, ("drafter_quantized.onnx", "portable", None)),
    ],
)
def test_a_quantised_drafter_is_native_beside_a_native_target_where_the_library_is(
    attach, request, monkeypatch, bundle, precision, available, expected
):
    monkeypatch.setattr(kernels, "is_available", lambda: available)
    drafter = Bundle(attach(request.getfixturevalue(bundle), precision)).manifest.drafter
    assert (drafter.graph, drafter.format, drafter.operators) == expected


@pytest.mark.parametrize("precision", ["int4", "auto"])
def test_a_drafter_in_4_bits_never_changes_an_answer(attach, tiny_bundle, precision):
    attached = attach(tiny_bundle, precision)
    baseline, speculative, num_drafted = answers(attached)
    assert baseline == speculative
    assert num_drafted > 0
    assert Bundle(attached).manifest.drafter.precision == "int4"
    Bundle(attached).verify_checksums()


@pytest.mark.parametrize(("bundle", "available"), [("tiny_bundle", False), ("tiny_bundle_portable", True)])
def test_a_portable_drafter_in_4_bits_is_refused(attach, request, monkeypatch, bundle, available):
    monkeypatch.setattr(kernels, "is_available", lambda: available)
    with pytest.raises(InputError, match=r"precision must be int8, fp16 or fp32 .+, got int4; .+"):
        attach(request.getfixturevalue(bundle), "int4")


def test_a_second_drafter_takes_the_place_of_the_first(attach, tiny_bundle):
    attach(tiny_bundle, "fp32")
    bundle = Bundle(attach(tiny_bundle, "int8"))
    names = [entry.path for entry in bundle.manifest.files]
    assert "drafter_native.onnx" in names
    assert not any(name.startswith("drafter.onnx") for name in names)
    assert not list(bundle.directory.glob("drafter.onnx*"))


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_detaching_leaves_the_bundle_byte_for_byte_as_it_was(attach, tiny_bundle, precision):
    from dovetail_ort_export.attach import detach_drafter

    attached = attach(tiny_bundle, precision)
    assert contents(attached) != contents(tiny_bundle)
    detach_drafter(attached)
    assert contents(attached) == contents(tiny_bundle)
    assert detach_drafter(attached).drafter is None
    assert contents(attached) == contents(tiny_bundle)


def test_files_that_stay_are_not_written_again(attach, tiny_bundle, tmp_path):
    attached = attach(tiny_bundle)
    before = {path.name: path.stat().st_ino for path in attached.iterdir()}
    attach(tiny_bundle, "fp32")
    after = {path.name: path.stat().st_ino for path in attached.iterdir()}
    kept = [entry.path for entry in Bundle(tiny_bundle).manifest.files]
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}


def test_a_bundle_behind_a_link_is_changed_and_the_link_stays(tiny_bundle, tiny_head, tmp_path):
    from dovetail_ort_export.attach import attach_drafter, detach_drafter

    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    link = tmp_path / "link"
    link.symlink_to(bundle.name)
    attach_drafter(link, tiny_head(tiny_bundle))
    assert link.readlink() == Path(bundle.name)
    assert Bundle(bundle).manifest.drafter is not None
    detach_drafter(link)
    assert contents(bundle) == contents(tiny_bundle)


def test_what_else_lies_in_the_directory_stays_there(tiny_bundle, tiny_head, tmp_path):
    from dovetail_ort_export.attach import attach_drafter, detach_drafter

    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    head = shutil.copytree(tiny_head(tiny_bundle), bundle / "head")
    (bundle / "notes.md").write_text("mine")
    (bundle / "link").symlink_to("notes.md")
    (bundle / "drafter.onnx").write_text("no file of the bundle")
    bundle.chmod(0o700)
    before = contents(head)
    attach_drafter(bundle, head, "fp32")
    names = {path.name for path in bundle.iterdir()}
    assert {"head", "notes.md", "link"} < names
    assert (bundle / "link").readlink() == Path("notes.md")
    assert contents(head) == before
    assert bundle.stat().st_mode & 0o777 == 0o700
    attached = Bundle(bundle, "all")
    assert not {"notes.md", "link"} & {entry.path for entry in attached.manifest.files}
    detach_drafter(bundle)
    assert {path.name for path in bundle.iterdir()} == {path.name for path in tiny_bundle.iterdir()} | {
        "head",
        "notes.md",
        "link",
    }
    assert (bundle / "notes.md").stat().st_nlink == 1


def test_a_model_that_is_loaded_goes_on_while_its_drafter_is_replaced(attach, tiny_bundle):
    attached = attach(tiny_bundle)
    baseline, speculative, _ = answers(attached)
    model = load_model(attached, drafter="dgf", threads=1, draft_shape=ChainShape.fixed(4))
    attach(tiny_bundle, "fp32")
    generated = model.generate([5, 9, 13, 21, 34], GenerationOptions(max_new_tokens=40, max_draft_tokens=6))
    assert generated.token_ids == baseline == speculative


def test_a_full_disk_leaves_the_bundle_as_it_was(tiny_head, tiny_bundle, tmp_path, monkeypatch):
    from dovetail_ort_export.attach import attach_drafter
    from dovetail_ort_export.writing import drafter_writer

    copy = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, copy)
    before = {path.name: path.read_bytes() for path in copy.iterdir()}

    def fail(graph, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(drafter_writer, "save_graph", fail)
    with pytest.raises(OSError, match="No space left"):
        attach_drafter(copy, tiny_head(tiny_bundle))
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_head_of_another_target_is_not_attached(tiny_head, tiny_bundle, tmp_path):
    from dovetail_ort_export.attach import attach_drafter

    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    before = (bundle / "manifest.json").read_bytes()
    with pytest.raises(InputError, match="the head must be of the bundle's target"):
        attach_drafter(bundle, tiny_head(tiny_bundle, target_sha256="0" * 64))
    assert (bundle / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("name", ["head.safetensors", "head.json"])
@pytest.mark.parametrize("cut", [0, 10, -10])
def test_a_damaged_head_is_refused_in_one_line(tiny_head, tiny_bundle, name, cut):
    from dovetail_ort_export.training.head_files import load_head

    head = tiny_head(tiny_bundle)
    (head / name).write_bytes((head / name).read_bytes()[:cut])
    with pytest.raises(InputError, match="train it again") as caught:
        load_head(head)
    assert "\n" not in str(caught.value)


def test_the_fingerprint_is_that_of_the_weights_in_any_format(tiny_bundle, tiny_bundle_portable, tiny_bundle_fp32):
    found = {
        json.loads((bundle / "manifest.json").read_text())["target"]["weights_sha256"]
        for bundle in (tiny_bundle, tiny_bundle_portable, tiny_bundle_fp32)
    }
    assert len(found) == 1


def test_the_ends_are_the_models_own_in_any_format(tiny_llama, tiny_bundle, tiny_bundle_portable, tiny_bundle_fp32):
    from dovetail_ort_export.source import load_source
    from dovetail_ort_export.writing.target_ends import read_target_ends

    model = load_source(str(tiny_llama)).model
    wanted = model.model.embed_tokens.weight.detach().numpy()
    # 8 bits: half a per cent with a scale for 32 weights, a little more with one for 64.
    for bundle, tolerance in ((tiny_bundle_fp32, 1e-6), (tiny_bundle_portable, 0.01), (tiny_bundle, 0.01)):
        ends = read_target_ends(Bundle(bundle))
        for found in (ends.embedding, ends.head):
            assert np.linalg.norm(found - wanted) < tolerance * np.linalg.norm(wanted)


def test_a_bundle_in_the_hubs_cache_stays_as_it_is(tiny_bundle, tiny_head, in_hub_cache, tmp_path):
    from dovetail_ort_export.attach import attach_drafter

    snapshot = in_hub_cache(tiny_bundle, tmp_path)
    with pytest.raises(InputError, match=r"in the hub's cache, where a bundle must stay as it is.*cp -rL"):
        attach_drafter(snapshot, tiny_head(tiny_bundle))
    assert all(path.is_symlink() for path in snapshot.iterdir())
