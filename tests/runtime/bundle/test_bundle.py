"""A bundle that is changed, incomplete or of another version is refused, and an honest one is read."""

from __future__ import annotations

import json
import os
from shutil import copytree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail_ort_runtime.bundle import bundle as bundle_module
from dovetail_ort_runtime.bundle.bundle import Bundle, sha256
from dovetail_ort_runtime.errors import BundleError, InputError
from dovetail_ort_runtime.model import load_model

WEIGHTS = "model_native.onnx_data"


@pytest.fixture
def directory(tiny_bundle, tmp_path):
    """A copy of the tiny bundle to damage."""
    return copytree(tiny_bundle, tmp_path / "bundle")


def edit(directory, change):
    """Apply `change` to the manifest's JSON."""
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def rename(directory, old, new):
    """Let the manifest call the file `old` by the name `new`, everywhere."""
    path = directory / "manifest.json"
    path.write_text(path.read_text().replace(json.dumps(old), json.dumps(new)))


def test_a_whole_bundle_opens_and_its_checksums_hold(directory):
    bundle = Bundle(directory)
    bundle.verify_checksums()
    assert bundle.path("tokenizer.json") == directory / "tokenizer.json"
    assert bundle.text("chat_template.jinja").startswith("{% for message")


def test_a_bundle_may_be_named_by_a_string(directory):
    assert Bundle(str(directory)).manifest == Bundle(directory).manifest


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("x")])
def test_what_is_no_bundle_is_refused_with_the_command_that_makes_one(tmp_path, make):
    make(tmp_path / "other")
    with pytest.raises(BundleError, match=r"must be a directory with a manifest.json, got .*dovetail-ort export"):
        Bundle(tmp_path / "other")


@pytest.mark.parametrize("name", ["model_native.onnx", WEIGHTS, "tokenizer.json", "chat_template.jinja"])
def test_a_missing_file_is_named(directory, name):
    (directory / name).unlink()
    with pytest.raises(BundleError, match=f"the bundle's file '{name}' is missing"):
        Bundle(directory)


@pytest.mark.parametrize("name", ["model_native.onnx", WEIGHTS, "tokenizer.json"])
def test_a_truncated_file_is_named_with_both_sizes(directory, name):
    size = (directory / name).stat().st_size
    with (directory / name).open("r+b") as file:
        file.truncate(size - 1)
    with pytest.raises(BundleError, match=f"{name} must have {size} bytes, got {size - 1}"):
        Bundle(directory)


@pytest.mark.parametrize("name", ["model_native.onnx", WEIGHTS, "tokenizer.json"])
def test_an_altered_small_file_is_found_at_open(directory, name):
    flip_a_bit(directory / name)
    with pytest.raises(BundleError, match=f"{name} must have the SHA-256 .*the file was altered"):
        Bundle(directory)


def test_an_altered_large_file_is_found_on_request(directory, monkeypatch):
    size = (directory / WEIGHTS).stat().st_size
    monkeypatch.setattr(bundle_module, "SMALL_FILE_BYTES", size - 1)
    flip_a_bit(directory / WEIGHTS)
    bundle = Bundle(directory)
    with pytest.raises(BundleError, match=f"{WEIGHTS} must have the SHA-256 .*the file was altered"):
        bundle.verify_checksums()
    with pytest.raises(BundleError, match=f"{WEIGHTS} must have the SHA-256 .*the file was altered"):
        load_model(directory, verify="all")


def test_no_checksum_is_compared_if_none_is_asked_for(directory):
    flip_a_bit(directory / "chat_template.jinja")
    Bundle(directory, verify="none")
    with pytest.raises(BundleError, match=r"chat_template.jinja must have the SHA-256"):
        Bundle(directory)


def test_a_draft_bundle_is_verified_as_far_as_the_targets(directory, tiny_bundle, monkeypatch):
    monkeypatch.setattr(bundle_module, "SMALL_FILE_BYTES", 0)
    flip_a_bit(directory / "tokenizer.json")
    with pytest.raises(BundleError, match=r"tokenizer.json must have the SHA-256"):
        load_model(tiny_bundle, drafter="lm", draft_bundle=directory, verify="all", threads=1)


def test_an_unknown_verification_is_an_input_error(directory):
    with pytest.raises(InputError, match="verify must be one of small, all, none, got 'some'"):
        Bundle(directory, verify="some")


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_file_that_is_a_directory_counts_as_missing(directory):
    (directory / "tokenizer.json").unlink()
    (directory / "tokenizer.json").mkdir()
    with pytest.raises(BundleError, match="is missing"):
        Bundle(directory)


def test_a_file_in_use_must_be_listed(directory):
    edit(directory, lambda manifest: manifest["files"].pop(0))
    with pytest.raises(BundleError, match=r"refers to 'chat_template\.jinja', which is not among its files"):
        Bundle(directory)


@pytest.mark.parametrize(
    "name",
    [
        "../tokenizer.json",
        "/etc/hostname",
        "a/../../bundle/tokenizer.json",
        "..",
        "..\\tokenizer.json",
        "C:\\tokenizer",
    ],
)
def test_a_path_that_leaves_the_bundle_is_refused_though_the_file_is_there(directory, name):
    (directory.parent / "tokenizer.json").write_bytes((directory / "tokenizer.json").read_bytes())
    rename(directory, "tokenizer.json", name)
    with pytest.raises(BundleError, match="a path in the manifest must stay inside the bundle"):
        Bundle(directory)


def test_a_link_out_of_the_bundle_is_refused(directory):
    outside = (directory / "tokenizer.json").rename(directory.parent / "outside.json")
    (directory / "tokenizer.json").symlink_to(outside)
    with pytest.raises(BundleError, match="a path in the manifest must stay inside the bundle"):
        Bundle(directory)


@pytest.mark.parametrize("name", ["tokenizer.json", "manifest.json", WEIGHTS])
def test_a_pipe_in_the_place_of_a_file_is_refused_unopened(directory, name):
    (directory / name).unlink()
    os.mkfifo(directory / name)
    with pytest.raises(BundleError):
        Bundle(directory)


def test_a_link_to_a_device_is_refused_unopened(directory):
    (directory / WEIGHTS).unlink()
    (directory / WEIGHTS).symlink_to("/dev/zero")
    with pytest.raises(BundleError, match="a path in the manifest must stay inside the bundle"):
        Bundle(directory)


def test_weights_in_a_file_that_the_manifest_does_not_list_are_refused(directory):
    (directory / WEIGHTS).rename(directory / "other")
    edit(directory, lambda manifest: manifest["files"].pop(2))
    with pytest.raises(BundleError, match=f"in '{WEIGHTS}', which is not among the bundle's files"):
        Bundle(directory)


def test_a_graph_with_another_content_is_checked_whatever_its_checksum(directory):
    graph = directory / "model_native.onnx"
    graph.write_bytes(graph.read_bytes().replace(WEIGHTS.encode(), b"/etc/passwd".ljust(len(WEIGHTS))))
    with pytest.raises(BundleError, match=r"the graph .* is refused: .*/etc/passwd"):
        Bundle(directory, verify="none")


@pytest.mark.parametrize("name", ["manifest.json", "chat_template.jinja"])
def test_a_text_of_any_size_is_refused_before_it_is_read(directory, name):
    with (directory / name).open("r+b") as file:
        file.truncate(1 << 40)  # takes no room on the disk
    if name != "manifest.json":
        edit(directory, lambda manifest: manifest["files"][0].update(num_bytes=1 << 40))
    with pytest.raises(BundleError, match=f"{name} must have 4194304 bytes at most, got more"):
        Bundle(directory, verify="none").chat_template()


def test_a_tokenizer_of_any_size_is_refused_before_it_is_read(directory):
    with (directory / "tokenizer.json").open("r+b") as file:
        file.truncate(1 << 40)
    edit(directory, lambda manifest: manifest["files"][3].update(num_bytes=1 << 40))
    with pytest.raises(BundleError, match=r"tokenizer.json must have 268435456 bytes at most, got more"):
        Bundle(directory, verify="none").tokenizer()


def test_more_positions_than_the_graph_has_rows_for_are_refused_before_there_is_a_cache(directory):
    edit(directory, lambda manifest: manifest["target"].update(max_context=513))
    with pytest.raises(BundleError, match=r"max_context in the manifest must be at most the 512 positions of model_n"):
        Bundle(directory)


def test_a_bundle_may_itself_be_a_link(directory, tmp_path):
    (tmp_path / "link").symlink_to(directory)
    Bundle(tmp_path / "link").verify_checksums()


def test_a_link_to_itself_counts_as_missing(directory):
    (directory / "tokenizer.json").unlink()
    (directory / "tokenizer.json").symlink_to("tokenizer.json")
    with pytest.raises(BundleError):
        Bundle(directory)


@pytest.mark.parametrize("name", ["", ".", "..", "folder/front.onnx", "../front.onnx"])
def test_a_front_graph_is_a_file_beside_the_graph(directory, name):
    edit(directory, lambda manifest: manifest["target"].update(front_graph=name, front_layers=1, rest_graph="r"))
    with pytest.raises(BundleError, match=f"front_graph must be the name of a file beside .*got '{name}'"):
        Bundle(directory)


@pytest.mark.parametrize("name", ["", ".", "a\0b", "x" * 5000, "\ud800", "no/such/folder"])
def test_a_name_that_no_file_can_have_is_a_bundle_error(directory, name):
    rename(directory, "tokenizer.json", name)
    with pytest.raises(BundleError):
        Bundle(directory)


def test_a_manifest_that_is_not_utf8_is_a_bundle_error(directory):
    (directory / "manifest.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(BundleError, match=r"manifest.json is not UTF-8"):
        Bundle(directory)


@given(st.text(st.characters(), max_size=20))
def test_any_file_name_is_found_or_refused_as_a_bundle_error(tmp_path_factory, name):
    directory = tmp_path_factory.getbasetemp() / "named"
    directory.mkdir(exist_ok=True)
    (directory / "manifest.json").write_text(tiny_manifest([{"path": name, "num_bytes": 0, "sha256": ""}]))
    with pytest.raises(BundleError):
        Bundle(directory)


def tiny_manifest(files):
    zero = dict.fromkeys(("num_layers", "num_heads", "num_kv_heads", "head_size", "hidden_size"), 1)
    zero |= {"vocabulary_size": 3, "num_parameters": 1, "max_context": 2, "max_rows": 2}
    return json.dumps(
        {
            "format": "dovetail-ort-bundle",
            "version": 1,
            "target": {"graph": "g", "family": "llama", "precision": "fp32", "exact": True, **zero},
            "tokenizer": {"file": "t", "chat_template": None, "special_tokens": {}},
            "generation": {"eos_token_ids": [2]},
            "measurements": {
                "row_invariance": {"rows": [2], "num_tokens": 2, "identical": True, "largest_difference": 0},
                "agreement": {"num_tokens": 2, "top1": 1, "mean_kl": 0},
            },
            "provenance": {"source": "s", "exporter": "0", "packages": {}, "machine": "m"},
            "files": files,
        }
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_layers", 1),
        ("num_layers", 3),
        ("num_layers", 10**9),
        ("num_kv_heads", 4),
        ("head_size", 32),
        ("hidden_size", 32),
        ("vocabulary_size", 100),
        ("vocabulary_size", 10**12),
    ],
)
def test_dimensions_that_are_not_the_graphs_are_a_bundle_error(directory, name, value):
    edit(directory, lambda manifest: manifest["target"].update({name: value}))
    with pytest.raises(BundleError, match=rf"model_native.onnx has \w+ \d+, but the manifest says {value};"):
        load_model(directory, threads=1)


def test_sha256_is_that_of_the_whole_file(tmp_path):
    import hashlib

    content = bytes(range(256)) * 10_000  # more than one chunk
    (tmp_path / "file").write_bytes(content)
    assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


@pytest.fixture
def tapped(tiny_tapped_bundle, tmp_path):
    """A copy of a bundle with a tapped target to damage."""
    return copytree(tiny_tapped_bundle, tmp_path / "bundle")


def test_a_tapped_target_is_among_the_graphs_that_are_checked(tapped):
    bundle = Bundle(tapped, "all")
    taps = bundle.manifest.drafter.taps
    assert bundle.manifest.operators()[taps.graph] == bundle.manifest.target.operators
    (tapped / taps.graph).write_bytes(b"no graph")
    with pytest.raises(BundleError, match=f"{taps.graph} must have"):
        Bundle(tapped)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda whole: whole["drafter"]["taps"].update(graph="x.onnx"), "refers to 'x.onnx', which is not among its"),
        (
            lambda whole: whole["drafter"]["taps"].update(levels=[1, 3]),
            "levels must be between 0 and the target's 2, got 3; attach the drafter again",
        ),
        (
            lambda whole: whole["drafter"]["taps"].update(portable_graph="model_native.onnx"),
            "a target with a portable graph needs a tapped one of it, and no other target has one",
        ),
        (
            lambda whole: whole["drafter"].update(taps=None, hidden_size=32),
            "the drafter's hidden_size must be the target's 64, got 32; attach the drafter again",
        ),
        (
            lambda whole: whole["target"].update(
                front_graph="model_native.onnx", front_layers=1, rest_graph="model_native.onnx"
            ),
            "a target that was cut has no tapped graphs; export it again with --gpu-layers 0",
        ),
    ],
)
def test_taps_that_do_not_belong_to_the_target_are_refused(tapped, change, message):
    edit(tapped, change)
    with pytest.raises(BundleError, match=message):
        Bundle(tapped)


def test_drafter_and_tapped_target_lie_in_one_folder(tapped):
    def move(whole):
        whole["drafter"]["graph"] = f"other/{whole['drafter']['graph']}"
        for file in whole["files"]:
            if file["path"].startswith(("drafter_native", "model_native_taps")):
                (tapped / file["path"]).rename(tapped / "other" / file["path"])
                file["path"] = f"other/{file['path']}"

    (tapped / "other").mkdir()
    edit(tapped, move)
    with pytest.raises(BundleError, match="graph and the target's must lie in one folder; attach the drafter again"):
        Bundle(tapped)
