"""From a model on the hub to a bundle on the hub: what the source stated goes all the way, and nothing else does."""

from __future__ import annotations

import pytest
from huggingface_hub import ModelCard

from dovetail_ort.cli.main import main
from dovetail_ort_runtime.bundle.bundle import Bundle

# huggingface_hub 1 and 2 call their HTTP client in a way that this has given up.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload:DeprecationWarning")


def test_name_commit_and_licence_of_a_source_reach_the_card_of_its_bundle(hub, tiny_llama, tmp_path):
    files = {path.name: path.read_bytes() for path in tiny_llama.iterdir()}
    card = b"---\nlicense: apache-2.0\n---\n# A model"
    commit = hub.add("me/model", files | {"README.md": card, "onnx/model.onnx": b"o" * 9000})
    assert main(["export", "me/model", str(tmp_path / "bundle"), "--precision", "fp32"]) == 0
    provenance = Bundle(tmp_path / "bundle").manifest.provenance
    assert (provenance.source, provenance.revision, provenance.licence) == ("me/model", commit, "apache-2.0")
    assert "onnx/model.onnx" not in hub.downloads()
    hub.add("me/bundle", {".gitattributes": b""}, private=True)
    assert main(["push", str(tmp_path / "bundle"), "me/bundle"]) == 0
    _, pushed = hub.repositories["me/bundle"].files("main")
    settings = ModelCard(pushed["README.md"].decode()).data.to_dict()
    assert (settings["base_model"], settings["license"]) == ("me/model", "apache-2.0")
