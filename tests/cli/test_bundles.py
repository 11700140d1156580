"""A bundle that is missing or damaged is refused in one line, whichever command opens it."""

from __future__ import annotations

from typing import Any

import pytest

from dovetail_ort.cli.main import main
from dovetail_ort_runtime.bundle.bundle import sha256

PROMPT = "The tails hold the pins"


@pytest.mark.parametrize("command", ["generate", "chat", "inspect", "doctor", "bench"])
def test_missing_bundle_is_refused(command, tmp_path, refused):
    message = refused(command, tmp_path / "nowhere")
    assert "a bundle must be a directory with a manifest.json" in message
    assert "make one with: dovetail-ort export" in message


@pytest.mark.parametrize("command", ["generate", "inspect", "doctor"])
def test_truncated_file_is_refused(command, damaged, refused):
    weights = damaged / "model_native.onnx_data"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "model_native.onnx_data must have" in refused(command, damaged)


def test_missing_file_is_refused(damaged, refused):
    (damaged / "tokenizer.json").unlink()
    assert "the bundle's file 'tokenizer.json' is missing" in refused("generate", damaged, PROMPT)


def test_altered_small_file_is_refused(damaged, refused):
    template = damaged / "chat_template.jinja"
    template.write_text(template.read_text().swapcase())
    assert "the file was altered" in refused("generate", damaged, PROMPT)


def test_verify_finds_an_alteration_that_opening_does_not_look_for(damaged, refused, monkeypatch, capsys):
    monkeypatch.setattr("dovetail_ort_runtime.bundle.bundle.SMALL_FILE_BYTES", 0)
    weights = damaged / "model_native.onnx_data"
    weights.write_bytes(bytes(weights.stat().st_size))
    assert main(["inspect", str(damaged)]) == 0
    capsys.readouterr()
    for argv in (["inspect", str(damaged), "--verify"], ["generate", str(damaged), PROMPT, "--verify", "all"]):
        assert main(argv) == 2
        assert "model_native.onnx_data must have the SHA-256" in capsys.readouterr().err


def test_unknown_manifest_version_is_refused(change_manifest, damaged, refused):
    change_manifest(damaged, lambda manifest: manifest.update(version=99))
    assert "the manifest's version must be 2 or 1, got 99; export the bundle again" in refused(
        "generate", damaged, PROMPT
    )


def test_manifest_that_is_no_json_is_refused(damaged, refused):
    (damaged / "manifest.json").write_text("{")
    assert "manifest.json is not JSON" in refused("inspect", damaged)


@pytest.mark.parametrize("path", ["../outside.json", "/etc/hostname"])
def test_path_that_leaves_the_bundle_is_refused(change_manifest, path, damaged, refused):
    (damaged.parent / "outside.json").write_text("{}")
    change_manifest(damaged, lambda manifest: manifest["files"][0].update(path=path))
    assert "a path in the manifest must stay inside the bundle" in refused("generate", damaged, PROMPT)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: bytes(len(content)), "model_native.onnx is refused: "),
        (lambda content: content.replace(b"Gather", b"Gathez"), "cannot load model_native.onnx"),
    ],
)
def test_graph_that_does_not_load_is_refused_in_one_line(change_manifest, damaged, refused, damage, message):
    graph = damaged / "model_native.onnx"
    graph.write_bytes(damage(graph.read_bytes()))

    def forge(manifest: dict[str, Any]) -> None:
        entry = next(entry for entry in manifest["files"] if entry["path"] == graph.name)
        entry["sha256"] = sha256(graph)

    change_manifest(damaged, forge)
    assert message in refused("generate", damaged, PROMPT)
