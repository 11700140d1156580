"""`dovetail-ort push` against a stand-in of the hub: who sees it, what is checked before, what the card says."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from dovetail_ort.cli.main import main
from dovetail_ort.model_card import CARD_MARK, model_card
from dovetail_ort_runtime.bundle.bundle import Bundle
from dovetail_ort_runtime.bundle.hub_cache import HubName

# huggingface_hub 1 and 2 call their HTTP client in a way that this has given up.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload:DeprecationWarning")
WEIGHTS = "model_native.onnx_data"
NAME = HubName(repository="me/tiny")


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    """A copy of the tiny bundle to damage."""
    return shutil.copytree(tiny_bundle, tmp_path / "bundle")


def head(hub, name="me/tiny"):
    """Files of the main branch."""
    _, files = hub.repositories[name].files("main")
    return files


def written(hub):
    """Requests that change something there."""
    return [request for request in hub.requests if not request.startswith(("GET", "HEAD"))]


def refused(argv, capsys):
    """The one line of a command that does not succeed."""
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert "Traceback" not in captured.err
    return captured.err.splitlines()[-1]


def test_a_pushed_bundle_is_private_and_arrives_byte_for_byte(hub, bundle, capsys):
    assert main(["push", str(bundle), "me/tiny", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    model = hub.repositories["me/tiny"]
    assert model.private
    assert record == {
        "repository": f"{hub.endpoint}/me/tiny",
        "visibility": "private",
        "commit": model.refs["main"],
    }
    files = head(hub)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()}.items() <= files.items()
    assert files.keys() - {path.name for path in bundle.iterdir()} == {"README.md", ".gitattributes"}


def test_what_was_pushed_is_pulled(hub, bundle):
    assert main(["push", str(bundle), "me/tiny"]) == 0
    assert main(["pull", "me/tiny"]) == 0
    assert Bundle("me/tiny", "all").manifest == Bundle(bundle).manifest
    assert main(["push", "me/tiny", "me/copy"]) == 0  # from the cache, whose files are links
    assert head(hub, "me/copy")[WEIGHTS] == (bundle / WEIGHTS).read_bytes()


def test_public_is_what_was_asked_for(hub, bundle, capsys):
    assert main(["push", str(bundle), "me/tiny", "--public"]) == 0
    assert not hub.repositories["me/tiny"].private
    assert "public" in capsys.readouterr().out


@pytest.mark.parametrize(("private", "asked"), [(False, []), (True, ["--public"])])
def test_a_repository_that_others_see_otherwise_is_not_written_to(private, asked, hub, bundle, capsys):
    hub.add("me/tiny", {".gitattributes": b""}, private=private)
    assert "--public" in refused(["push", str(bundle), "me/tiny", *asked], capsys)
    assert written(hub) == []


@pytest.mark.parametrize("name", ["manifest.json", "tokenizer.json", WEIGHTS])
def test_a_damaged_bundle_is_refused_before_the_first_byte_goes(name, hub, bundle, capsys):
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    refused(["push", str(bundle), "me/tiny"], capsys)
    assert hub.requests == []


@pytest.mark.parametrize("name", ["notes.txt", ".secret", "folder/file"])
def test_a_stray_file_is_refused_before_the_first_byte_goes(name, hub, bundle, capsys):
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_text("not for others")
    assert name in refused(["push", str(bundle), "me/tiny"], capsys)
    assert hub.requests == []


def test_a_repository_with_something_else_is_not_written_to(hub, bundle, capsys):
    before = {"config.json": b"{}", "model.safetensors": b"x" * 10_000, "README.md": b"# Mine"}
    hub.add("me/tiny", before, private=True)
    assert "config.json, model.safetensors" in refused(["push", str(bundle), "me/tiny"], capsys)
    assert written(hub) == []
    assert head(hub) == before


def test_a_new_bundle_takes_the_place_of_the_old_one_as_a_whole(hub, bundle, tiny_bundle_fp32):
    assert main(["push", str(bundle), "me/tiny"]) == 0
    assert main(["push", str(tiny_bundle_fp32), "me/tiny"]) == 0
    assert head(hub).keys() == {path.name for path in tiny_bundle_fp32.iterdir()} | {"README.md", ".gitattributes"}
    assert "fp32" in head(hub)["README.md"].decode()
    assert len(hub.repositories["me/tiny"].commits) == 3  # an empty one, and one for each push


def test_a_card_that_somebody_wrote_stays(hub, bundle, tiny_bundle_fp32):
    assert main(["push", str(bundle), "me/tiny"]) == 0
    files = head(hub) | {"README.md": b"# Written by hand"}
    hub.repositories["me/tiny"].commit(files)
    assert main(["push", str(tiny_bundle_fp32), "me/tiny"]) == 0
    assert head(hub)["README.md"] == b"# Written by hand"


def test_pushing_the_same_again_changes_no_file(hub, bundle):
    assert main(["push", str(bundle), "me/tiny"]) == 0
    before = head(hub)
    assert main(["push", str(bundle), "me/tiny"]) == 0
    assert head(hub) == before


@pytest.mark.parametrize("part", ["PUT /lfs/", "POST /api/models/me/tiny/commit", "POST /api/models/me/tiny/preupload"])
def test_an_upload_that_fails_leaves_the_repository_as_it_was(part, hub, bundle, tiny_bundle_fp32, capsys):
    assert main(["push", str(bundle), "me/tiny"]) == 0
    before = head(hub)
    capsys.readouterr()
    hub.fail = lambda request: 403 if request.startswith(part) else None
    refused(["push", str(tiny_bundle_fp32), "me/tiny"], capsys)
    assert head(hub) == before


def test_a_branch_that_moved_meanwhile_is_not_overwritten(hub, bundle, tiny_bundle_fp32, capsys):
    assert main(["push", str(bundle), "me/tiny"]) == 0
    capsys.readouterr()

    def move(request):
        if request.startswith("POST /api/models/me/tiny/commit"):
            hub.repositories["me/tiny"].commit(head(hub) | {"README.md": b"moved"})

    hub.fail = move
    assert "412" in refused(["push", str(tiny_bundle_fp32), "me/tiny"], capsys)
    assert head(hub)["README.md"] == b"moved"


def test_a_file_that_does_not_arrive_is_not_called_done(hub, bundle, capsys):
    arrived = hub.add

    def add(name, files, **settings):
        commit = arrived(name, files, **settings)
        model, keep = hub.repositories[name], hub.repositories[name].commit
        model.commit = lambda files, ref: keep({path: files[path] for path in files if path != WEIGHTS}, ref)
        return commit

    hub.add = add
    assert WEIGHTS in refused(["push", str(bundle), "me/tiny"], capsys)


@pytest.mark.parametrize(("token", "words"), [("", "`hf auth login`"), ("hf_guest", "403"), ("hf_unknown", "401")])
def test_without_the_right_to_write_the_line_says_what_is_missing(token, words, hub, bundle, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", token)
    assert words in refused(["push", str(bundle), "me/tiny"], capsys)
    assert hub.repositories == {}


@pytest.mark.parametrize("name", ["tiny", "me/tiny@v1", "a/b/c"])
def test_what_names_no_repository_is_refused_without_a_request(name, hub, bundle, capsys):
    assert "owner/name" in refused(["push", str(bundle), name], capsys)
    assert hub.requests == []


def test_without_a_connection_the_address_is_named(hub, bundle, capsys):
    hub.close()
    assert hub.endpoint in refused(["push", str(bundle), "me/tiny"], capsys)


@pytest.fixture
def manifest(tiny_bundle):
    return Bundle(tiny_bundle).manifest


def front_matter(card):
    """The settings that the hub reads, by its own YAML reader."""
    from huggingface_hub import ModelCard

    return ModelCard(card).data.to_dict()


def from_source(manifest, source):
    return replace(manifest, provenance=replace(manifest.provenance, source=source))


def test_the_card_states_no_licence_that_the_source_did_not(manifest):
    assert "license" not in front_matter(model_card(manifest, NAME))


@pytest.mark.parametrize(
    ("licence", "expected"), [("apache-2.0", "apache-2.0"), ("llama3.2", "llama3.2"), ("Our Own Terms: read", None)]
)
def test_the_card_states_the_sources_licence(licence, expected, manifest):
    card = model_card(replace(manifest, provenance=replace(manifest.provenance, licence=licence)), NAME)
    assert front_matter(card).get("license") == expected
    assert licence in card


def test_the_card_names_a_source_on_the_hub_as_the_base_model(manifest):
    settings = front_matter(model_card(from_source(manifest, "HuggingFaceTB/SmolLM2-135M"), NAME))
    assert settings["base_model"] == "HuggingFaceTB/SmolLM2-135M"
    assert settings["base_model_relation"] == "quantized"
    assert settings["pipeline_tag"] == "text-generation"
    assert "base_model" not in front_matter(model_card(from_source(manifest, "SmolLM2.gguf"), NAME))


def test_the_card_shows_measurements_and_how_to_use_it(manifest):
    card = model_card(manifest, NAME)
    assert CARD_MARK in card
    assert f"{manifest.measurements.agreement.top1:.1%}" in card
    assert 'dovetail_ort.load("me/tiny")' in card
    assert "dovetail-ort pull me/tiny" in card


def test_the_card_gives_messages_only_to_a_bundle_with_a_template(manifest):
    assert '"role": "user"' in model_card(manifest, NAME)
    plain = replace(manifest, tokenizer=replace(manifest.tokenizer, chat_template=None))
    assert '"role": "user"' not in model_card(plain, NAME)


def test_a_manifest_writes_no_markup_of_its_own_into_the_card(manifest):
    card = model_card(from_source(manifest, "a | b\n---\nlicense: mit\n# [x](javascript:y) <script>"), NAME)
    assert "license" not in front_matter(card)
    assert "<script>" not in card
    assert not any(line.startswith(("license:", "# [")) for line in card.splitlines())
